"""What a person sees: nothing but plain lines where nobody watches, and no colour for those who do not want it."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest

import skipc.compiler.console as console_module
from skipc.compiler.console import NORMAL, QUIET, VERBOSE, Console
from skipc.runtime.errors import InputError

ERROR = InputError("some-code", "it is wrong", where="file.onnx", hint="make it right")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def everything(verbosity: int, stream: io.StringIO) -> str:
    """What a console prints of one line of each kind."""
    console = Console(verbosity, stream)
    console.say("said")
    console.detail("detailed")
    with console.stage("working"):
        pass
    console.error(ERROR)
    return stream.getvalue()


def control_characters(text: str) -> set[str]:
    return {character for character in text if not character.isprintable() and character != "\n"}


@pytest.mark.parametrize("verbosity", [QUIET, NORMAL, VERBOSE])
def test_no_control_characters_where_nobody_watches(verbosity: int) -> None:
    text = everything(verbosity, io.StringIO())
    assert control_characters(text) == set()
    assert text.endswith("error[some-code]: file.onnx: it is wrong\nhint: make it right\n")


def test_the_quiet_hear_of_errors_only() -> None:
    text = everything(QUIET, io.StringIO())
    assert text == "error[some-code]: file.onnx: it is wrong\nhint: make it right\n"


def test_stages_are_lines_with_their_time() -> None:
    lines = everything(NORMAL, io.StringIO()).splitlines()
    assert lines[:2] == ["said", "- working (0.0 s)"]


def test_details_are_for_those_who_asked() -> None:
    assert "detailed" not in everything(NORMAL, io.StringIO())
    assert "detailed" in everything(VERBOSE, io.StringIO())


def test_a_terminal_sees_a_stage_begin_and_end() -> None:
    stream = Terminal()
    with Console(NORMAL, stream).stage("working"):
        assert stream.getvalue() == "… working"
    assert stream.getvalue().startswith("… working\r")
    assert stream.getvalue().endswith("working (0.0 s)\n")


def test_a_terminal_sees_how_far_a_stage_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(console_module, "REFRESH_S", 0.0)
    stream = Terminal()
    with Console(NORMAL, stream).stage("working", lambda: "noted") as progress:
        replace(progress, start=progress.start - 60.0).to(0.25)
    shown, done = stream.getvalue().split("\r")[1:]
    assert re.fullmatch(r"… working \[#{5}\.{15}\]  25%, 3:0[01] left", shown)
    assert done.rstrip() == "✓ working (0.0 s, noted)"
    assert len(done.rstrip("\n")) == len(shown), "what was longer must be written over"


def test_a_bar_does_not_go_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_module, "REFRESH_S", 0.0)
    stream = Terminal()
    with Console(NORMAL, stream).stage("working") as progress:
        for share in (0.5, 0.25, 0.75):
            progress.to(share)
    assert re.findall(r"\d+%", stream.getvalue()) == ["50%", "75%"]


def test_where_nobody_watches_no_bar_is_drawn() -> None:
    stream = io.StringIO()
    with Console(NORMAL, stream).stage("working") as progress:
        progress.to(0.5)
    assert stream.getvalue() == "- working (0.0 s)\n"


def test_colours_are_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" in everything(NORMAL, Terminal())


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in everything(NORMAL, Terminal())


def test_a_failed_stage_leaves_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the error does not stand behind the title; and the stage does not count as done."""
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    console = Console(NORMAL, stream)
    with pytest.raises(InputError), console.stage("working"):
        raise ERROR
    console.error(ERROR)
    assert stream.getvalue().splitlines()[:2] == ["… working", "error[some-code]: file.onnx: it is wrong"]


def test_an_error_without_place_or_hint_is_one_line() -> None:
    stream = io.StringIO()
    Console(NORMAL, stream).error(InputError("some-code", "it is wrong"))
    assert stream.getvalue() == "error[some-code]: it is wrong\n"


@pytest.mark.skipif(os.name != "posix", reason="locales of POSIX")
def test_an_ascii_locale_is_no_reason_to_fail() -> None:
    """A container without a locale: the sign before a stage must not end the work."""
    script = """
import sys
from skipc.compiler.console import Console
sys.stderr.isatty = lambda: True
with Console().stage("working"):
    pass
"""
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "NO_COLOR": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "working (" in done.stderr
