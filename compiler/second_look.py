"""A second look for classifiers: find where in the network a cheap read-out may answer, and how sure it must be.

Each place is judged by what it would cost with the boldest threshold that its leave-one-out predictions on *fit* allow:
the network up to there, the read-out, and the rest of the network for the share of samples that is looked at again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch

import numpy as np
from numpy.typing import NDArray

from skipc.compiler.calibrate import p_value
from skipc.compiler.certify import Claim
from skipc.compiler.fit import GateFit, fit_gate
from skipc.compiler.gate_fit import Evidence
from skipc.compiler.gating import Gated
from skipc.compiler.growth import most_bytes
from skipc.compiler.impact import TIMING_BUDGET_MS, instrument, instrument_for, times_open, typical
from skipc.compiler.independence import dependent
from skipc.compiler.loss import Losses
from skipc.compiler.planner import REACH, Step, boldest, threshold_at
from skipc.compiler.read_out import ReadOut, channel_axes, fit_read_out, observe_pooled, poolings
from skipc.compiler.running import Judged, Measure
from skipc.compiler.settings import Settings
from skipc.compiler.shipped import speed_as_shipped
from skipc.compiler.survey import Surveyed
from skipc.passes.second_look import NAME, find_second_looks
from skipc.runtime.plan import Array, Block, Bypass, Gate, Region
from skipc.runtime.session import Session

LOSSES = frozenset({"top1", "accuracy"})
"""Losses for which the order of the class scores is all that counts."""

SHARES = np.linspace(0.01, 1.0, 100)

STEPS = np.array([0.4, 0.6, 0.75, *np.linspace(0.85, 1.2, 8)])
"""Of a path, as multiples of the share that is forecast: *calibrate* may be kinder or harsher than *fit*."""

LEAST_SHARE = 0.1
"""A place where fewer samples are sure enough is not timed."""


@dataclass(frozen=True)
class Look:
    """One place for a second look, measured on *fit*.

    Attributes:
        block: region, read-out and gate.
        fit: how well the gate predicts; its scores are leave-one-out.
        scores: of the gate on the samples that its read-out was fitted on.
        losses: of the leave-one-out predictions, [samples].
        share: of samples that need no second look, by the boldest threshold that the claim allows.
    """

    block: Block
    fit: GateFit
    scores: NDArray[np.float64]
    losses: Losses
    share: float


@dataclass(frozen=True)
class SecondLook:
    """The best place for a second look, and how fast it is.

    Attributes:
        gated: one block and the path of its thresholds.
        speedup: over the original, by the boldest threshold that *fit* lets one hope for.
    """

    gated: Gated
    speedup: float


def best_second_look(
    surveyed: Surveyed, original: Session, evidence: Evidence, claim: Claim, settings: Settings
) -> SecondLook | None:
    """The fastest second look; None where none is asked for or none gains.

    Args:
        surveyed: the original.
        original: to time against.
        evidence: what to fit on.
        claim: what is to be certified.
        settings: of the compilation.
    """
    if not is_asked(claim, settings):
        return None
    most = most_bytes(surveyed.model, settings.max_growth)
    looks = [
        look
        for look in _looks(surveyed, evidence, claim)
        if look.share >= LEAST_SHARE and _bytes(look.block.bypass) <= most
    ]
    chosen = _fastest(surveyed, original, looks, evidence, claim, settings)
    end = boldest(chosen.gated.path, claim.limit, 1.0 - claim.confidence) if chosen else None
    if chosen is None or end is None:
        return None
    # The read-out knows the samples of *fit*, and is surer of them than it will be of others.
    fair = replace(end, thresholds=(threshold_at(chosen.look.scores, end.shares[0]),))
    speed = speed_as_shipped(surveyed, evidence.judged, settings)(chosen.gated.blocks, fair)
    return SecondLook(chosen.gated, speed) if speed > 1.0 else None


def faster_of(
    look: SecondLook | None, blocks: Gated | None, surveyed: Surveyed, judged: Judged, claim: Claim, settings: Settings
) -> Gated | None:
    """The second look where it is faster at the same risk than the gated blocks, and these otherwise.

    Args:
        look: None where there is none.
        blocks: None where they cannot be as fast.
        surveyed: the original.
        judged: what they are timed on.
        claim: what is to be certified.
        settings: of the compilation.
    """
    if look is None or blocks is None:
        return look.gated if look else blocks
    end = boldest(blocks.path, claim.limit, 1.0 - claim.confidence)
    speed = speed_as_shipped(surveyed, judged, settings)(blocks.blocks, end) if end else 1.0
    return look.gated if look.speedup > speed else blocks


def _bytes(read_out: Bypass) -> int:
    """Of the read-out's weights, which stay in float32."""
    return sum(read_out.arrays[name].nbytes for name in ("weight", "shift"))


def is_asked(claim: Claim, settings: Settings) -> bool:
    """Whether a second look fits the claim and what the user wants; ``--exclude second-look`` does without."""
    excluded = any(fnmatch(NAME, pattern) for pattern in settings.exclude)
    return claim.loss.name in LOSSES and settings.bypass == "auto" and settings.granularity != "batch" and not excluded


def _looks(surveyed: Surveyed, evidence: Evidence, claim: Claim) -> list[Look]:
    """The best read-out of every place, from first to last."""
    regions = find_second_looks(surveyed.model, surveyed.survey.blocks, surveyed.types, evidence.judged.output)
    if not regions:
        return []
    axes = channel_axes(surveyed.survey.blocks)
    wanted = {region.entry: poolings(surveyed.types[region.entry], axes[region.entry]) for region in regions}
    pooled, scores = surveyed.executor.cache.recall(
        "pooled",
        (surveyed.model, wanted, regions[0].exit, evidence.single),
        lambda: observe_pooled(surveyed.model, wanted, regions[0].exit, evidence.single),
    )
    return [
        max(
            (
                _look(
                    region,
                    fit_read_out(pooling, features, scores),
                    _mask(surveyed, region, evidence.mask),
                    evidence,
                    claim,
                )
                for pooling, features in zip(wanted[region.entry], pooled[region.entry], strict=True)
            ),
            key=lambda look: look.share,
        )
        for region in regions
    ]


def _mask(surveyed: Surveyed, region: Region, mask: str) -> str:
    """The mask, where the entry value has a row for each of its tokens."""
    entry, known = surveyed.types[region.entry], surveyed.types.get(mask)
    return mask if known is not None and len(entry.dims) == 3 and known.dims == entry.dims[:2] else ""


def _look(region: Region, read_out: ReadOut, mask: str, evidence: Evidence, claim: Claim) -> Look:
    losses = _losses(evidence.judged, claim.loss.of, read_out.predicted)
    fit = _gate(read_out.predicted, _losses(evidence.judged, claim.loss.smooth, read_out.predicted), mask)
    scores = fit.gate.bias + float(fit.gate.weight[0]) * _margins(read_out.fitted)
    block = Block(region, read_out.bypass, fit.gate, impact=float(losses.mean()))
    return Look(block, fit, scores, losses, sure_share(fit.predicted, losses, evidence.judged.units, claim))


def _losses(judged: Judged, measure: Measure, predicted: Array) -> Losses:
    ends = np.cumsum([len(item.indices) for item in judged.items])[:-1]
    return judged.losses(measure, np.split(predicted, ends))


def _gate(predicted: Array, smooth: Losses, mask: str) -> GateFit:
    """A gate that reads by how much the highest class score exceeds the next."""
    fit = fit_gate(_margins(predicted)[:, None].astype(np.float32), smooth)
    slope = float(fit.gate.weight[0])
    weight = np.array([slope, -slope], np.float32)
    return replace(fit, gate=Gate("top", weight, fit.gate.bias, fit.gate.floor, granularity="sample", mask=mask))


def _margins(scores: Array) -> NDArray[np.float64]:
    highest = np.sort(scores.astype(np.float64), axis=1)[:, -2:]
    return np.asarray(highest[:, 1] - highest[:, 0])


def sure_share(scores: NDArray[np.float64], losses: Losses, units: int, claim: Claim) -> float:
    """The largest share that may go without a second look, were *calibrate* like *fit*."""
    found = 0.0
    for share in SHARES:
        if _p_value(losses * (scores < threshold_at(scores, float(share))), units, claim) > 1.0 - claim.confidence:
            break
        found = float(share)
    return found


def _p_value(losses: Losses, units: int, claim: Claim) -> float:
    return p_value(np.resize(losses, units), claim.limit, claim.binary)


@dataclass(frozen=True)
class _Chosen:
    look: Look
    gated: Gated


def _fastest(
    surveyed: Surveyed, original: Session, looks: Sequence[Look], evidence: Evidence, claim: Claim, settings: Settings
) -> _Chosen | None:
    """The place of least predicted latency whose samples are proved independent, and the path of its thresholds."""
    if not looks:
        return None
    items = typical(evidence.judged.items)
    models = [instrument_for(surveyed.model, [look.block], settings) for look in looks]
    times = times_open(original, models, items, TIMING_BUDGET_MS)
    shares = np.array([look.share for look in looks])
    predicted = times.opened + (1.0 - shares) * (times.shut - times.opened)
    for place in np.argsort(predicted):
        if predicted[place] >= times.original:
            break
        saved = float(times.shut[place] - times.opened[place])
        timed = replace(looks[place].block, saved_ms=saved, time_share=saved / times.original)
        block = _proved(surveyed, timed, evidence, settings)
        if block is not None:
            always = float(times.original - times.shut[place])
            path = lay_thresholds(looks[place], evidence.judged.units, always, saved, claim)
            model = instrument(surveyed.model, [block], surveyed.executor)
            return _Chosen(looks[place], Gated((block,), (looks[place].fit,), path, model))
    return None


def _proved(surveyed: Surveyed, block: Block, evidence: Evidence, settings: Settings) -> Block | None:
    """The block by sample where that is proved to be safe; in batches of one by batch otherwise, which is the same."""
    reason = dependent(surveyed.model, [block], evidence.joined).get(NAME)
    if not reason:
        return replace(block, granularity_reason="each sample is as sure as its own scores")
    if settings.batch_size > 1:
        return None
    return replace(block, gate=replace(block.gate, granularity="batch"), granularity_reason=f"not by sample: {reason}")


def lay_thresholds(look: Look, units: int, always_ms: float, saved_ms: float, claim: Claim) -> tuple[Step, ...]:
    """Thresholds from gentle to bold around the share that is forecast."""
    steps: list[Step] = []
    for share in (float(item) for item in STEPS * look.share if item < 1.0):
        threshold = threshold_at(look.fit.predicted, share)
        losses = look.losses * (look.fit.predicted < threshold)
        loss = float(losses.mean())
        steps.append(Step((threshold,), (share,), loss, _p_value(losses, units, claim), always_ms + share * saved_ms))
        if loss > REACH * claim.limit:
            break
    return tuple(steps)
