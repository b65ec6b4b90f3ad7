"""Completion in each shell that is here, set up by the line that docs/runtime.md gives, and asked by the Tab key."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "runtime.md"

PRESS_TAB = """
zmodload zsh/zpty
zpty shell zsh -f -i
say() { zpty -w shell "$1"; }
say "PS1=; autoload -Uz compinit; compinit -D -u"
say %LINE%
say "echo ready$((40 + 2))"
zpty -r shell seen '*ready42*'
zpty -w -n shell $'%WORDS%\\t'
zpty -r shell seen '*%EXPECTED%*' && print -r -- "$seen"
"""
"""A terminal of zsh within zsh; what it shows is read until the completion is there."""

CASES = [("skipc restor", "restore"), ("skipc compile --gran", "--granularity")]


def line(shell: str) -> str:
    """What the page tells users of a shell to put into its start file."""
    found = [text.split("  #")[0].strip() for text in PAGE.read_text().splitlines() if f"{shell}_source" in text]
    assert len(found) == 1
    return found[0]


def asked(shell: str, script: str) -> str:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = {**os.environ, "PATH": path, "TERM": "dumb", "HOME": "/nonexistent"}
    words = {"bash": ["--norc", "--noprofile"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    command = [shell, *words, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    return done.stdout


@pytest.mark.parametrize(("words", "expected"), CASES)
def test_bash(words: str, expected: str) -> None:
    typed = f"COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))"
    found = asked("bash", f'{line("bash")}\n{typed}; _skipc_completion skipc; echo "${{COMPREPLY[@]}}"')
    assert found.split() == [expected]


@pytest.mark.slow
@pytest.mark.parametrize(("words", "expected"), CASES)
def test_zsh(words: str, expected: str) -> None:
    script = PRESS_TAB.replace("%LINE%", "'" + line("zsh") + "'").replace("%WORDS%", words)
    assert re.search(rf"skipc.*{expected}", asked("zsh", script.replace("%EXPECTED%", expected)), re.DOTALL)


@pytest.mark.parametrize(("words", "expected"), CASES)
def test_fish(words: str, expected: str) -> None:
    found = asked("fish", f"{line('fish')}\ncomplete -C '{words}'")
    assert [text.split("\t")[0] for text in found.splitlines()] == [expected]
