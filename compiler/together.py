"""Choose options that keep to the limit together: measured, since errors of several blocks do not simply add up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from skipc.compiler.options import Option, affordable_options, without_overlap

TRIES = 5

ROOM = 0.96
"""Share of the limit that a choice may lose: a certificate wants some room between mean and limit, and guards, which
shut for one input in twenty, give back about as much."""

NARROWEST, WIDEST = 0.4, 1.5
"""What one try may multiply the sum of losses by that the next one aims at."""

SLANT = 1.5
"""By which the savings of one kind of region are overrated to arrive at another choice: measured block by block they
are that uncertain against those of another kind."""


@dataclass(frozen=True)
class Together:
    """One option for each region, chosen for all of them together.

    Attributes:
        options: those of overlapping regions as well, in order of first appearance.
        steady: names of the regions that together keep to the limit when they are always bypassed.
    """

    options: tuple[Option, ...]
    steady: frozenset[str] = frozenset()


Measured = Callable[[Sequence[Option]], float]


@dataclass(frozen=True)
class _Found:
    """A choice that keeps to the limit, and the sum of losses that it aimed at."""

    together: Together
    steady: tuple[Option, ...]
    aim: float

    @property
    def saved_ms(self) -> float:
        return sum(option.saved_ms for option in self.steady)


def chosen_together(
    options: Sequence[Option], limit: float, most_bytes: float, loss_of: Measured, speed_of: Measured
) -> Together:
    """Options that save most time for a loss that is measured jointly.

    A choice takes losses as additive. Where it turns out to lose more than the limit, or much less, the next choice
    aims at another sum; of those that keep to the limit the one that saves most time counts. Further choices overrate
    one kind of region at a time; the fastest as a whole is taken.

    Args:
        options: measured one by one.
        limit: of the mean loss.
        most_bytes: by which the file may grow.
        loss_of: the mean loss of always bypassing the regions of all these options.
        speed_of: how many times faster than the original that is.
    """
    search = _Search(options, limit, most_bytes, loss_of)
    finalists: dict[frozenset[int], _Found] = {}
    aim = limit
    for rated in _slanted(options):
        found = search.best(rated, aim)
        if found is not None:
            finalists.setdefault(_key(found.steady), found)
            aim = found.aim
    if not finalists:
        return Together(affordable_options(options, limit, most_bytes))
    if len(finalists) == 1:
        return next(iter(finalists.values())).together
    return max(finalists.values(), key=lambda found: speed_of(found.steady)).together


def _slanted(options: Sequence[Option]) -> Iterator[tuple[Option, ...]]:
    """The options as measured, and with each kind of region overrated; in the same order."""
    yield tuple(options)
    kinds = sorted({option.region.kind for option in options})
    for kind in kinds if len(kinds) > 1 else ():
        yield tuple(
            replace(option, saved_ms=SLANT * option.saved_ms) if option.region.kind == kind else option
            for option in options
        )


class _Search:
    """Tries choices, and knows what it tried."""

    def __init__(self, options: Sequence[Option], limit: float, most_bytes: float, loss_of: Measured) -> None:
        self._options = options
        self._limit = limit
        self._most_bytes = most_bytes
        self._loss_of = loss_of
        self._losses: dict[frozenset[int], float] = {}

    def best(self, rated: Sequence[Option], aim: float) -> _Found | None:
        """The choice among options rated like this that keeps to the limit and saves most time."""
        own = {id(item): option for item, option in zip(rated, self._options, strict=True)}
        seen: set[frozenset[int]] = set()
        within: list[_Found] = []
        for _ in range(TRIES):
            rated_choice = affordable_options(rated, aim, self._most_bytes)
            steady = tuple(own[id(item)] for item in _steady(rated_choice, aim))
            key = _key(steady)
            if not steady or key in seen:
                break
            seen.add(key)
            loss = self._loss(key, steady)
            if loss <= ROOM * self._limit:
                names = frozenset(option.region.name for option in steady)
                within.append(_Found(Together(tuple(own[id(item)] for item in rated_choice), names), steady, aim))
            aim *= min(max(ROOM * self._limit / max(loss, 1e-12), NARROWEST), WIDEST)
        return max(within, key=lambda found: found.saved_ms, default=None)

    def _loss(self, key: frozenset[int], steady: Sequence[Option]) -> float:
        if key not in self._losses:
            self._losses[key] = self._loss_of(steady)
        return self._losses[key]


def _key(options: Sequence[Option]) -> frozenset[int]:
    return frozenset(map(id, options))


def _steady(options: Sequence[Option], aim: float) -> tuple[Option, ...]:
    """Of options the ones of greatest worth whose losses sum up to no more than this, without overlaps."""
    kept: set[int] = set()
    total = 0.0
    alone = without_overlap(options, aim)
    for option in sorted(alone, key=lambda option: -option.worth(aim)):
        if option.saved_ms > 0 and total + option.loss <= aim:
            total += option.loss
            kept.add(id(option))
    return tuple(option for option in alone if id(option) in kept)
