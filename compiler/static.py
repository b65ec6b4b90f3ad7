"""The alternative without gates: the same bypasses, always on, at the same certified risk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from skipc.compiler.build import build_static
from skipc.compiler.calibrate import p_value
from skipc.compiler.certify import Claim, certify
from skipc.compiler.gating import PATH_UNITS
from skipc.compiler.levels import TESTED
from skipc.compiler.loss import Loss, Losses
from skipc.compiler.options import Option
from skipc.compiler.planner import SURE
from skipc.compiler.running import Instrumented, Judged, opened, run_gated
from skipc.compiler.survey import Surveyed
from skipc.runtime.plan import Block, Certificate

FAR_WITHIN = 0.5
"""Share of the limit: bypasses do less damage to data that they were fitted to than to *calibrate*."""


@dataclass(frozen=True)
class Static:
    """The boldest static model that passes the same test.

    Attributes:
        blocks: bypassed for good.
        certificate: of this model.
    """

    blocks: tuple[Block, ...]
    certificate: Certificate

    def model(self, surveyed: Surveyed) -> onnx.ModelProto:
        """The static model: all that the compiled one is, but for the gates."""
        return build_static(surveyed.model, self.blocks, surveyed.padding)


def best_static(
    session: Instrumented,
    blocks: Sequence[Block],
    options: Sequence[Option],
    fit: Judged,
    calibrate: Sequence[Judged],
    claim: Claim,
) -> Static | None:
    """Add blocks in order of worth while the claim holds; None where not even the first passes.

    Args:
        session: the instrumented model of all these blocks.
        blocks: one for each option.
        options: measured alone.
        fit: data on which the order is settled.
        calibrate: data sets on which the claim is tested.
        claim: the same as for the gated model.
    """
    order = sorted(range(len(options)), key=lambda i: -options[i].worth(claim.limit))
    few = fit.first(claim.loss.enough(PATH_UNITS[claim.loss.binary]))
    units = min(judged.units for judged in calibrate)
    sets = _within_reach(session, [order[: count + 1] for count in range(len(order))], len(blocks), few, units, claim)
    if claim.loss.steady:
        sets = sets[:: -max(1, len(sets) // TESTED)][::-1]

    def losses(chosen: Sequence[int], judged: Judged, loss: Loss) -> Losses:
        return run_gated(session, opened(len(blocks), chosen), judged, loss).losses

    path = [lambda chosen=chosen: [losses(chosen, judged, claim.loss) for judged in calibrate] for chosen in sets]
    certificates = certify(path, claim)
    if not certificates:
        return None
    return Static(tuple(blocks[i] for i in sorted(sets[len(certificates) - 1])), certificates[-1])


def _within_reach(
    session: Instrumented, sets: Sequence[Sequence[int]], gates: int, fit: Judged, units: int, claim: Claim
) -> list[Sequence[int]]:
    """The sets worth testing on so many units: by *fit* those before are sure to pass, and those behind to fail."""
    found: list[Sequence[int]] = []
    for chosen in sets:
        losses = np.resize(run_gated(session, opened(gates, chosen), fit, claim.loss).losses, units)
        passes = losses.mean() <= FAR_WITHIN * claim.limit and p_value(losses, claim.limit, claim.binary) < SURE
        found = [chosen] if passes else [*found, chosen]
        if p_value(1.0 - losses, 1.0 - claim.limit, claim.binary) < SURE:
            break
    return found
