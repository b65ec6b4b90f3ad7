"""Choose options that keep to the limit together: measured, since errors of several blocks do not simply add up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from skipc.compiler.options import Option, affordable_options, without_overlap

TRIES = 5

ROOM = 0.98
"""Share of the limit that a choice may lose on the samples that it is measured on."""

NARROWEST, WIDEST = 0.4, 1.5
"""What one try may multiply the sum of losses by that the next one aims at."""

LESS = 0.95
"""Share of a sum of losses that was too much which the next try aims at, at most, so that it is another choice."""

GAINED = 0.83
"""Share of the joint loss that learning is hoped to leave: it leaves less where blocks keep three fifths of their units
(0.81 in `benchmarks/results/widths.json`), and more where they keep more, which costs a second try."""

NEAR = 1.015
"""Where learning misses the limit by no more than this factor it goes on: two more epochs gain about as much."""

SAFE = 0.99
"""Share of what would be just enough that a second try aims at."""

MORE = 1.03
"""Times as much must a gentler choice save as what is left of a bolder one, to be fitted anew for that."""

REFITS = 2
"""At most; each takes a minute for a model of a dozen blocks."""

LEAST = 2
"""Blocks, without which none has another to know."""


@dataclass(frozen=True)
class Together:
    """One option for each region, chosen for all of them together.

    Attributes:
        options: those of overlapping regions as well, in order of first appearance.
        steady: names of the regions that together keep to the limit when they are always bypassed.
        loss: of always bypassing those, as the options were measured when they were chosen.
    """

    options: tuple[Option, ...]
    steady: frozenset[str] = frozenset()
    loss: float = 0.0

    @property
    def saved_ms(self) -> float:
        """Of always bypassing those, as they were measured alone."""
        return sum(option.saved_ms for option in self.always)

    @property
    def always(self) -> tuple[Option, ...]:
        """The options of those regions."""
        return tuple(option for option in self.options if option.region.name in self.steady)

    def with_fits(self, fitted: Sequence[Option]) -> Together:
        """The same with these options in place of those of the same regions."""
        fresh = {option.region.name: option for option in fitted}
        return replace(self, options=tuple(fresh.get(option.region.name, option) for option in self.options))


def chosen_anew(
    choose: Callable[[float], Together],
    fit: Callable[[Sequence[Option], bool], Sequence[Option]],
    measured: Callable[[Sequence[Option]], float],
    limit: float,
) -> Together:
    """A choice whose bypasses know one another, as bold as what that gains allows.

    The choice is made for a limit that is as much higher as fitting them anew is expected to gain. Where it gains less
    the choice gives up what saves least; and where a choice for a lower limit would save clearly more, that is tried,
    with what is in both choices as it was fitted for the first, which may be enough. Bypasses stay as they were fitted
    one by one where these save most.

    Args:
        choose: options that lose no more than a limit together, as they were fitted one by one.
        fit: fits the options of a choice anew; it is told whether most of them have been before.
        measured: the mean loss of always bypassing the regions of all these options.
        limit: of the mean loss.
    """
    aim = limit / GAINED
    known: list[tuple[Option, Option]] = []
    ways: list[Together] = []
    for _ in range(REFITS):
        chosen = choose(aim)
        if len(chosen.steady) < LEAST or any(chosen.saved_ms <= MORE * way.saved_ms for way in ways):
            break
        start = [next((new for old, new in known if old is option), option) for option in chosen.always]
        done = sum(new is not old for old, new in zip(chosen.always, start, strict=True))
        if done and measured(start) <= ROOM * limit:
            return chosen.with_fits(start)
        fitted = chosen.with_fits(fit(start, 2 * done > len(start)))
        loss = measured(fitted.always)
        if ROOM * limit < loss <= NEAR * ROOM * limit:
            fitted = chosen.with_fits(fit(fitted.always, True))
            loss = measured(fitted.always)
        known = list(zip(chosen.always, fitted.always, strict=True))
        if loss <= ROOM * limit:
            return fitted
        ways.append(_lessened(fitted, measured, limit))
        aim = SAFE * limit * chosen.loss / loss
        if aim <= limit:
            break
    return max([*ways, choose(limit)], key=lambda way: way.saved_ms)


def _lessened(chosen: Together, measured: Callable[[Sequence[Option]], float], limit: float) -> Together:
    """A choice without as many of the regions that are always bypassed as keep it from the limit, left to gates."""
    while chosen.steady and (loss := measured(chosen.always)) > ROOM * limit:
        # What is fitted anew loses less than it did alone; by how much is known of all of them together.
        share = loss / max(sum(option.loss for option in chosen.always), 1e-12)
        enough = [option for option in chosen.always if share * option.loss >= loss - ROOM * limit]
        least = (
            min(enough, key=lambda option: option.saved_ms)
            if enough
            else min(chosen.always, key=lambda option: option.worth(limit))
        )
        chosen = replace(chosen, steady=chosen.steady - {least.region.name})
    return chosen


def chosen_together(
    options: Sequence[Option], limit: float, most_bytes: float, measured: Callable[[Sequence[Option]], float]
) -> Together:
    """Options that save most time for a loss that is measured jointly.

    A choice takes losses as additive. Where it turns out to lose more than the limit, or much less, the next choice
    aims at another sum; of those that keep to the limit the one that saves most time is taken.

    Args:
        options: measured one by one.
        limit: of the mean loss.
        most_bytes: by which the file may grow.
        measured: the mean loss of always bypassing the regions of all these options.
    """
    seen: set[tuple[int, ...]] = set()
    within: list[tuple[float, Together]] = []
    aim = limit
    for _ in range(TRIES):
        chosen = affordable_options(options, aim, most_bytes)
        steady = _steady(chosen, aim)
        key = tuple(map(id, steady))
        if not steady or key in seen:
            break
        seen.add(key)
        loss, summed = measured(steady), sum(option.loss for option in steady)
        aim *= min(max(ROOM * limit / max(loss, 1e-12), NARROWEST), WIDEST)
        if loss <= ROOM * limit:
            names = frozenset(option.region.name for option in steady)
            within.append((sum(option.saved_ms for option in steady), Together(chosen, names, loss)))
        elif summed > 0:
            aim = min(aim, LESS * summed)
    if within:
        return max(within, key=lambda item: item[0])[1]
    return Together(affordable_options(options, limit, most_bytes))


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
