"""Walk a path of configurations on calibration data and keep what passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from skipc.compiler.calibrate import fixed_sequence, p_value, samples_needed, upper_bound
from skipc.compiler.loss import Loss, Losses
from skipc.runtime.errors import PromiseError
from skipc.runtime.plan import Certificate


@dataclass(frozen=True)
class Claim:
    """What is to be certified.

    Attributes:
        loss: measured.
        output: judged.
        limit: of the mean loss.
        confidence: of the promise.
        binary: whether every unit's loss is 0 or 1; a batch's mean is not.
    """

    loss: Loss
    output: str
    limit: float
    confidence: float
    binary: bool


def require_enough(claim: Claim, units: int, share: float, batch_size: int, *, where: str) -> None:
    """Refuse data that could not support the claim even if no loss were seen.

    Args:
        claim: to be supported.
        units: in the calibration split.
        share: of all samples that the calibration split is.
        batch_size: samples in a unit.
        where: data set to name.

    Raises:
        PromiseError: says how many samples are needed.
    """
    needed = samples_needed(claim.limit, claim.confidence, claim.binary)
    if units >= needed:
        return
    what = (
        f"a mean loss of at most {claim.limit:g} with confidence {claim.confidence:g} needs at least {needed} "
        f"calibration samples{' (batches)' if batch_size > 1 else ''} even if none shows any loss; there are {units}"
    )
    in_all = -(-needed * batch_size * 100 // round(share * 100))
    hint = f"give at least {in_all} samples in all, or allow more with --risk"
    raise PromiseError("too-few-samples", what, where=where, hint=hint)


def certify(path: Sequence[Callable[[], Sequence[Losses]]], claim: Claim) -> tuple[Certificate, ...]:
    """Test configurations in order until one fails (fixed-sequence testing, arXiv 2110.01052).

    Args:
        path: each measures one configuration and gives the losses on every data set.
        claim: to be certified for every data set: the worst of them decides.

    Returns:
        one certificate for each configuration that passed; they hold together with the claim's confidence.
    """
    found: list[Certificate] = []
    for measure in path:
        groups = measure()
        p_values = [p_value(losses, claim.limit, claim.binary) for losses in groups]
        worst = p_values.index(max(p_values))
        found.append(_certificate(claim, groups[worst], p_values[worst]))
        if fixed_sequence([item.p_value for item in found], 1.0 - claim.confidence) < len(found):
            break
    certified = fixed_sequence([item.p_value for item in found], 1.0 - claim.confidence)
    return tuple(replace(item, tested=len(found), certified=certified) for item in found[:certified])


def _certificate(claim: Claim, losses: Losses, p: float) -> Certificate:
    return Certificate(
        loss=claim.loss.name,
        output=claim.output,
        limit=claim.limit,
        confidence=claim.confidence,
        mean=float(losses.mean()),
        bound=upper_bound(losses, claim.confidence, claim.binary),
        p_value=p,
        test="binomial" if claim.binary else "betting",
        samples=len(losses),
        tested=0,
        certified=0,
    )
