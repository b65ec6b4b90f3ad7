"""What a person sees while skipc works: stages and progress on stderr, nothing of it where nobody watches."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

import click

from skipc.runtime.errors import SkipcError

QUIET, NORMAL, VERBOSE = 0, 1, 2


@dataclass(frozen=True)
class Console:
    """Writes to stderr.

    Attributes:
        verbosity: `QUIET` says errors only, `NORMAL` the stages, `VERBOSE` the details too.
        stream: where to; None for the process's stderr.
    """

    verbosity: int = NORMAL
    stream: TextIO | None = None

    def say(self, text: str) -> None:
        """A line for everyone but the quiet."""
        if self.verbosity >= NORMAL:
            self._write(text)

    def detail(self, text: str) -> None:
        """A line for those who asked for more."""
        if self.verbosity >= VERBOSE:
            self._write(text)

    def _write(self, text: str, *, newline: bool = True) -> None:
        """Colours are for terminals, and not for those who set ``NO_COLOR``."""
        color = False if os.environ.get("NO_COLOR") else None
        click.echo(text, file=self.stream or sys.stderr, nl=newline, color=color)

    @contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """Announce a stage; on a terminal the line is replaced by the time that the stage took."""
        start = time.perf_counter()
        live = self.verbosity >= NORMAL and (self.stream or sys.stderr).isatty()
        if live:
            self._write(f"… {title}", newline=False)
        try:
            yield
        except BaseException:
            if live:
                self._write("")
            raise
        seconds = time.perf_counter() - start
        if live:
            self._write(f"\r{click.style('✓', fg='green')} {title} ({seconds:.1f} s)")
        else:
            self.say(f"- {title} ({seconds:.1f} s)")

    def error(self, error: SkipcError) -> None:
        """What, where and what next."""
        place = f"{error.where}: " if error.where else ""
        self._write(f"{click.style('error', fg='red')}[{error.code}]: {place}{error.what}")
        if error.hint:
            self._write(f"{click.style('hint', fg='cyan')}: {error.hint}")
