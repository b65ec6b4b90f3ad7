"""What a person sees while skipc works: stages and progress on stderr, nothing of it where nobody watches."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

import click

from skipc.compiler.progress import Progress
from skipc.runtime.errors import SkipcError

QUIET, NORMAL, VERBOSE = 0, 1, 2

BAR = 20
"""Characters of a progress bar."""

REFRESH_S = 0.1
"""A bar is not drawn more often."""


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
            self.write(text)

    def detail(self, text: str) -> None:
        """A line for those who asked for more."""
        if self.verbosity >= VERBOSE:
            self.write(text)

    def write(self, text: str, *, newline: bool = True) -> None:
        """To the stream. Colours are for terminals, and not for those who set ``NO_COLOR``."""
        color = False if os.environ.get("NO_COLOR") else None
        click.echo(text, file=self.stream or sys.stderr, nl=newline, color=color)

    @contextmanager
    def stage(self, title: str, note: Callable[[], str] = str) -> Iterator[Progress]:
        """Announce a stage; on a terminal its line shows how far it is, and in the end the time that it took.

        Args:
            title: of the stage.
            note: what else to say once it is done.
        """
        start = time.perf_counter()
        live = self.verbosity >= NORMAL and (self.stream or sys.stderr).isatty()
        line = _Line(self, title)
        if live:
            self.write(line.shown, newline=False)
        try:
            yield Progress(line.draw if live else None)
        except BaseException:
            if live:
                self.write("")
            raise
        words = ", ".join(filter(None, (f"{time.perf_counter() - start:.1f} s", note())))
        if live:
            self.write(line.over(f"{title} ({words})", mark=click.style("✓", fg="green")))
        else:
            self.say(f"- {title} ({words})")

    def error(self, error: SkipcError) -> None:
        """What, where and what next."""
        place = f"{error.where}: " if error.where else ""
        self.write(f"{click.style('error', fg='red')}[{error.code}]: {place}{error.what}")
        if error.hint:
            self.write(f"{click.style('hint', fg='cyan')}: {error.hint}")


class _Line:
    """The line of a stage on a terminal, written over until the stage is done."""

    def __init__(self, console: Console, title: str) -> None:
        self.shown = f"… {title}"
        self._console = console
        self._title = title
        self._drawn = time.monotonic()
        self._share = 0.0

    def draw(self, share: float, seconds_left: float | None) -> None:
        """Show how far the stage is; a search that turns back is not shown to do so."""
        if share < self._share or time.monotonic() - self._drawn < REFRESH_S:
            return
        self._share = share
        self._drawn = time.monotonic()
        full = round(share * BAR)
        left = "" if seconds_left is None else f", {seconds_left // 60:.0f}:{seconds_left % 60:02.0f} left"
        bar = f"{self._title} [{'#' * full}{'.' * (BAR - full)}] {share:4.0%}{left}"
        self._console.write(self.over(bar, mark="…"), newline=False)

    def over(self, text: str, mark: str) -> str:
        """What writes a text over the line, and blanks over what is longer."""
        blanks = " " * max(0, len(self.shown) - len(text) - 2)
        self.shown = f"… {text}"
        return f"\r{mark} {text}{blanks}"
