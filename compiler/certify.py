"""Walk a path of configurations on calibration data and keep what passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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


def require_enough(claim: Claim, units: Mapping[str, int], share: float, batch_size: int) -> None:
    """Refuse data that could not support the claim even if no loss were seen.

    Args:
        claim: to be supported.
        units: in the calibration split of each data set, by its name.
        share: of all samples that the calibration split is.
        batch_size: samples in a unit.

    Raises:
        PromiseError: says how many samples are needed, and where they are too few.
    """
    needed = samples_needed(claim.limit, claim.confidence, claim.binary)
    short = {name: count for name, count in units.items() if count < needed}
    if not short:
        return
    there = f"there are {min(short.values())}"
    if len(units) > 1:
        counts = ", ".join(f"{count} in {name}" for name, count in short.items())
        there = f"each of {len(units)} data sets is certified alone, and there are {counts}"
    what = (
        f"a mean loss of at most {claim.limit:g} with confidence {claim.confidence:g} needs at least {needed} "
        f"calibration samples{' (batches)' if batch_size > 1 else ''} even if none shows any loss; {there}"
    )
    in_all = -(-needed * batch_size * 100 // round(share * 100))
    whole = "of each" if len(units) > 1 else "in all"
    hint = f"give at least {in_all} samples {whole}, or allow more with --risk"
    raise PromiseError("too-few-samples", what, where=", ".join(short), hint=hint)


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


def bound_certificate(claim: Claim, groups: Sequence[Losses], tests: Sequence[Losses] = ()) -> Certificate:
    """The smallest limit that one configuration passes for every data set: the worst upper confidence bound.

    It holds for a configuration that was settled without these losses, and for no choice between several.

    Args:
        claim: whose loss, confidence and test count; its limit does not.
        groups: losses on each data set.
        tests: losses on others, whose mean is promised no less than: a bound is at times below the mean of fewer
            samples by chance, and a larger limit holds all the more.

    Raises:
        PromiseError: there is too little data for any bound, or more than chance puts the mean of a test above it.
    """
    bounds = [upper_bound(losses, claim.confidence, claim.binary) for losses in groups]
    bound = max(bounds)
    worst = groups[bounds.index(bound)]
    for losses in tests:
        # That losses are small says the same as that one minus them is large.
        if bound < 1.0 and p_value(1.0 - losses, 1.0 - bound, claim.binary) <= 1.0 - claim.confidence:
            what = (
                f"the mean loss on the test split is {losses.mean():.4g}, and chance does not put it above {bound:.4g}"
            )
            raise PromiseError("risk-exceeded", what, hint="see that the samples are shuffled, or give more data")
    limit = max([bound, *(float(losses.mean()) for losses in tests)])
    if limit >= 1.0:
        what = f"nothing can be promised of a mean loss from {len(worst)} calibration samples"
        raise PromiseError("too-few-samples", what, hint="give more data")
    found = _certificate(replace(claim, limit=limit), worst, p_value(worst, limit, claim.binary))
    return replace(found, tested=1, certified=1)


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
