"""Which configurations the file keeps, and which one is in force."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from skipc.compiler.certify import Claim, certify
from skipc.compiler.gating import Gated
from skipc.compiler.loss import Losses
from skipc.compiler.planner import ALWAYS, REACH, SURE, Step, window_of
from skipc.compiler.progress import SILENT, Progress
from skipc.compiler.running import Judged, run_gated
from skipc.compiler.splits import Splits
from skipc.runtime.errors import PromiseError
from skipc.runtime.plan import Certificate

TESTED = 6
"""Configurations of a path that are tested where the loss is steady: large models take long for each."""

LEVELS = 4
"""Certified configurations that the file keeps, beside level 0."""


@dataclass(frozen=True)
class Levels:
    """What the file will hold.

    Attributes:
        steps: certified configurations from gentle to bold; level k of the file is the k-th of them, counted from 1.
        certificate: of the last one, which is in force.
    """

    steps: tuple[Step, ...]
    certificate: Certificate


def certified_levels(gated: Gated, splits: Splits, claim: Claim, progress: Progress = SILENT) -> Levels:
    """Walk the path on *calibrate* and settle which configurations the file keeps and which one is in force.

    All that passed are certified together. In force is the boldest whose mean loss on *test* keeps to the limit too,
    since nobody wants a file that its own test speaks against. The mean on *test* is flattered by that choice, if only
    where the boldest was passed over.
    """
    floors = [block.gate.floor for block in gated.blocks]
    path = thinned(gated.path, claim.limit, TESTED) if claim.loss.steady else telling(gated.path, LEVELS)

    def losses(step: Step, data: Sequence[Judged]) -> list[Losses]:
        window = window_of(step.thresholds, floors)
        return [run_gated(gated.model, window, judged, claim.loss).losses for judged in data]

    def calibrated(position: int) -> list[Losses]:
        progress.to(position / len(path))
        return losses(path[position], splits.calibrate)

    certificates = certify([partial(calibrated, position) for position in range(len(path))], claim)
    if not certificates:
        hint = "allow more with --risk, or give more data"
        what = f"not even the gentlest configuration holds a mean loss of {claim.limit:g}"
        raise PromiseError("nothing-gained", what, hint=hint)
    means = []
    for position in reversed(range(len(certificates))):
        means.append(max(float(part.mean()) for part in losses(path[position], splits.test)))
        if means[-1] <= claim.limit:
            kept = levels_of(path[: position + 1], LEVELS)
            return Levels(tuple(path[i] for i in kept), certificates[position])
    what = f"every certified configuration exceeds {claim.limit:g} on the test split (mean {min(means):.4g} at least)"
    raise PromiseError("risk-exceeded", what, hint="give more data, or allow more with --risk")


def thinned(path: Sequence[Step], limit: float, count: int) -> tuple[Step, ...]:
    """About so many configurations of a path, evenly spaced in their loss on *fit* up to the end, which is kept.

    Chosen without the data that they will be tested on, so that testing the few certifies as testing all would.
    """
    if len(path) <= count:
        return tuple(path)
    most = min(max(step.loss for step in path), REACH * limit)
    places = {max((i for i, step in enumerate(path) if step.loss <= aim), default=0) for aim in _aims(most, count)}
    return tuple(path[i] for i in sorted(places | {len(path) - 1}))


def telling(path: Sequence[Step], gentle: int) -> tuple[Step, ...]:
    """A path without most of its gentle configurations, which would pass, and cost as long to test as the others do.

    Chosen, as `thinned` does, without the data that they will be tested on.

    Args:
        path: from gentle to bold.
        gentle: number of configurations to keep, at most, that are as good as certain to pass.
    """
    sure = [place for place, step in enumerate(path) if step.p_value < SURE]
    sparse = {sure[int(place)] for place in np.linspace(0, len(sure) - 1, min(gentle, len(sure)))}
    return tuple(step for place, step in enumerate(path) if place in sparse or step.p_value >= SURE)


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
