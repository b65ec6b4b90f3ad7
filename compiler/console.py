"""What a person sees while skipc works: stages and progress on stderr, nothing of it where nobody watches."""

from __future__ import annotations

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

    def _write(self, text: str) -> None:
        click.echo(text, file=self.stream or sys.stderr)

    @contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """Announce a stage; on a terminal the line is replaced by the time that the stage took."""
        start = time.perf_counter()
        stream = self.stream or sys.stderr
        live = self.verbosity >= NORMAL and stream.isatty()
        if live:
            click.echo(f"… {title}", file=stream, nl=False)
        try:
            yield
        except BaseException:
            if live:
                click.echo("", file=stream)
            raise
        seconds = time.perf_counter() - start
        if live:
            click.echo(f"\r{click.style('✓', fg='green')} {title} ({seconds:.1f} s)", file=stream)
        else:
            self.say(f"- {title} ({seconds:.1f} s)")

    def error(self, error: SkipcError) -> None:
        """What, where and what next."""
        place = f"{error.where}: " if error.where else ""
        click.echo(
            f"{click.style('error', fg='red')}[{error.code}]: {place}{error.what}", file=self.stream or sys.stderr
        )
        if error.hint:
            click.echo(f"{click.style('hint', fg='cyan')}: {error.hint}", file=self.stream or sys.stderr)
