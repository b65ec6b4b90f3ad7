"""Shares of a stage, and of its parts."""

from __future__ import annotations

from skipc.compiler.progress import SILENT, Progress


class Watched:
    """Keeps what it was told, by a clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0
        self.told: list[tuple[float, float | None]] = []
        self.progress = Progress(lambda *seen: self.told.append(seen), lambda: self.now, self.now)


def test_parts_of_parts() -> None:
    watched = Watched()
    watched.progress.part(0.5, 1.0).part(0.5, 1.0).to(0.5)
    assert watched.told == [(0.875, None)]


def test_the_rest_takes_as_long_as_the_beginning_did() -> None:
    watched = Watched()
    watched.now += 30.0
    watched.progress.to(0.25)
    assert watched.told == [(0.25, 90.0)]


def test_nothing_is_said_of_the_rest_too_early() -> None:
    watched = Watched()
    watched.now += 0.5
    watched.progress.to(0.25)
    watched.now += 5.0
    watched.progress.to(0.0)
    assert watched.told == [(0.25, None), (0.0, None)]


def test_each_item_is_a_part() -> None:
    watched = Watched()
    for _, own in watched.progress.each("ab"):
        own.to(0.5)
    assert [share for share, _ in watched.told] == [0.25, 0.5, 0.75, 1.0]


def test_a_share_beyond_the_end_is_the_end() -> None:
    watched = Watched()
    watched.progress.to(1.5)
    assert watched.told == [(1.0, None)]


def test_where_nobody_watches_nothing_happens() -> None:
    SILENT.part(0.0, 0.5).to(1.0)
