"""How far a stage is, and how long it may still take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

Item = TypeVar("Item")
Show = Callable[[float, float | None], None]
"""(share done, seconds left or None while that cannot be told)"""

LEAST_SECONDS = 1.0
"""Before so much time has passed nothing is said of the rest."""


@dataclass(frozen=True)
class Progress:
    """Takes reports of the share of a stage that is done.

    Attributes:
        show: told of every report; None where nobody watches.
        clock: seconds, rising.
        start: by the clock.
        low: share of the whole stage that lies before this part of it.
        high: share of the whole stage at the end of this part.
    """

    show: Show | None = None
    clock: Callable[[], float] = time.monotonic
    start: float = field(default_factory=time.monotonic)
    low: float = 0.0
    high: float = 1.0

    def to(self, share: float) -> None:
        """Report the share of this part that is done, in [0, 1]."""
        if self.show is None:
            return
        done = self.low + (self.high - self.low) * min(max(share, 0.0), 1.0)
        passed = self.clock() - self.start
        self.show(done, passed * (1.0 - done) / done if done > 0 and passed >= LEAST_SECONDS else None)

    def part(self, low: float, high: float) -> Progress:
        """A part of this part, by shares of it."""
        width = self.high - self.low
        return Progress(self.show, self.clock, self.start, self.low + width * low, self.low + width * high)

    def each(self, items: Sequence[Item]) -> Iterator[tuple[Item, Progress]]:
        """Every item with its own part; a part is done when the next item is asked for."""
        for position, item in enumerate(items):
            yield item, self.part(position / len(items), (position + 1) / len(items))
            self.to((position + 1) / len(items))


SILENT = Progress()
"""For those whom nobody watches."""
