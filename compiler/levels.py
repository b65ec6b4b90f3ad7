"""Which configurations the file keeps, and which one is in force."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from skipc.compiler.certify import Claim, certify
from skipc.compiler.gating import Gated
from skipc.compiler.loss import Losses
from skipc.compiler.planner import Step, window_of
from skipc.compiler.progress import SILENT, Progress
from skipc.compiler.running import Judged, run_gated
from skipc.compiler.splits import Splits
from skipc.compiler.thinning import LEVELS, levels_of, telling, thinned
from skipc.runtime.errors import PromiseError
from skipc.runtime.plan import Certificate

TESTED = 6
"""Configurations of a path that are tested where the loss is steady: large models take long for each."""


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
