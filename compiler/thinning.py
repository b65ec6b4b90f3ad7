"""Which configurations of a path are tested, and which the file keeps: few, spread out, the last among them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from skipc.compiler.planner import ALWAYS, REACH, SURE, Step

LEVELS = 4
"""Certified configurations that the file keeps, beside level 0."""


def thinned(path: Sequence[Step], limit: float, count: int) -> tuple[Step, ...]:
    """About so many configurations of a path, evenly spaced in their loss on *fit* up to the end, which is kept.

    Chosen without the data that they will be tested on, so that testing the few certifies as testing all would.
    """
    if len(path) <= count:
        return tuple(path)
    most = min(max(step.loss for step in path), REACH * limit)
    places = {max((i for i, step in enumerate(path) if step.loss <= aim), default=0) for aim in _aims(most, count)}
    return tuple(path[i] for i in sorted(places | {len(path) - 1}))


def telling(
    path: Sequence[Step], gentle: int, doubtful: int | None = None, end: Step | None = None
) -> tuple[Step, ...]:
    """A path without most of its gentle configurations, which would pass, and cost as long to test as the others do.

    Chosen, as `thinned` does, without the data that they will be tested on.

    Args:
        path: from gentle to bold.
        gentle: number of configurations to keep, at most, that are as good as certain to pass.
        doubtful: the same of the others; all of them where it is not said.
        end: one of them that is kept in any case.
    """
    sure = [place for place, step in enumerate(path) if step.p_value < SURE]
    rest = [place for place, step in enumerate(path) if step.p_value >= SURE]
    kept = {*_spread(sure, gentle), *_spread(rest, len(rest) if doubtful is None else doubtful)}
    return tuple(step for place, step in enumerate(path) if place in kept or step is end)


def _aims(most: float, count: int) -> list[float]:
    return [most * (i + 1) / count for i in range(count)]


def levels_of(path: Sequence[Step], count: int) -> tuple[int, ...]:
    """Positions of at most so many configurations to keep, evenly spaced, the last one always among them.

    A block that the last one bypasses always has no gate in the file, so the others must bypass it always or never.
    """
    fixed = [gate for gate, limit in enumerate(path[-1].thresholds) if limit == ALWAYS]
    kept = [i for i, step in enumerate(path) if all(abs(step.thresholds[gate]) == ALWAYS for gate in fixed)]
    if len(kept) <= count:
        return tuple(kept)
    places = np.linspace(0, len(kept) - 1, count + 1)[1:]
    return tuple(kept[round(float(place))] for place in places)


def _spread(places: Sequence[int], count: int) -> list[int]:
    """So many of some places, evenly spaced, with both ends; all of them where they are no more."""
    return [places[int(i)] for i in np.linspace(0, len(places) - 1, min(count, len(places)))]
