"""Run skipc as its users do, and look at what it leaves behind."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from skipc.compiler.cli import cli

PROGRAM = (sys.executable, "-c", "from skipc.compiler.cli import main; main()")
"""The console script of this interpreter, installed or not on the path."""


@dataclass(frozen=True)
class Ran:
    """What a command did: its exit code, and what it printed where."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


def run(*words: object) -> Ran:
    """The command in a process of its own."""
    done = subprocess.run(
        [*PROGRAM, *map(str, words)], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def invoke(*words: object) -> Ran:
    """The command in this process: quicker, and a warning fails the test."""
    found = CliRunner().invoke(cli, [str(word) for word in words])
    return Ran(found.exit_code, found.stdout, found.stderr)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, hidden ones too, by its relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
