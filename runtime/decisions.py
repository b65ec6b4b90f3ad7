"""What the gates did with one request, and why, in words."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipc.runtime.plan import Block, Plan
from skipc.runtime.variants import BYPASS, Level

Rows = NDArray[np.float32]


@dataclass(frozen=True)
class Limits:
    """What a gate's scores are compared with at one level.

    Attributes:
        name: of the region.
        threshold: scores below it agree to the bypass; infinity always, negative infinity never.
        floor: scores at or below it do not.
        constant: whether the gate reads nothing of the input.
    """

    name: str
    threshold: float
    floor: float
    constant: bool

    @property
    def is_live(self) -> bool:
        """Whether it depends on the input which branch is taken."""
        return not self.constant and math.isfinite(self.threshold)


def limits_of(plan: Plan, level: Level) -> tuple[Limits, ...]:
    """The limits of every gate at a level of the plan, or at `BYPASS`."""
    rows = (math.inf,) * len(plan.blocks) if level == BYPASS else plan.thresholds[level]
    return tuple(_limits(block, threshold, level) for block, threshold in zip(plan.blocks, rows, strict=True))


def _limits(block: Block, threshold: float, level: Level) -> Limits:
    floor = -math.inf if level == BYPASS else block.gate.floor
    # The file compares in float32.
    numbers = [float(np.float32(value)) for value in (threshold, floor)]
    return Limits(block.region.name, numbers[0], numbers[1], block.gate.pooling == "constant")


@dataclass(frozen=True)
class GateDecision:
    """One gate's decision for one sample.

    Attributes:
        name: of the region.
        score: predicted natural log of what a bypass would cost; of tokens, their mean.
        threshold: that it was compared with.
        margin: threshold less score: positive where the score speaks for the bypass.
        bypassed: share of the sample's rows for which the block was bypassed.
        reason: one sentence.
    """

    name: str
    score: float
    threshold: float
    margin: float
    bypassed: float
    reason: str


@dataclass(frozen=True, eq=False)
class Decisions:
    """All gates' decisions for one request, in graph order.

    Attributes:
        limits: [gates].
        scores: float32 [batch, gates].
        bypassed: float32 [batch, gates]: share of a sample's rows for which the block was bypassed.
    """

    limits: tuple[Limits, ...]
    scores: Rows
    bypassed: Rows

    def of(self, sample: int) -> tuple[GateDecision, ...]:
        """The decisions for one sample of the batch."""
        values = zip(self.limits, self.scores[sample].tolist(), self.bypassed[sample].tolist(), strict=True)
        return tuple(decide(limits, score, share) for limits, score, share in values)


def decide(limits: Limits, score: float, share: float) -> GateDecision:
    """A gate's decision for one sample, put into words: its score, and the share of its rows that was bypassed."""
    margin = limits.threshold - score
    return GateDecision(limits.name, score, limits.threshold, margin, share, _reason(limits, score, share))


def _reason(limits: Limits, score: float, share: float) -> str:
    if limits.threshold == -math.inf:
        return "in full: this level never bypasses the block"
    if limits.constant or limits.threshold == math.inf:
        return _always(limits, score, share)
    if math.isnan(score):
        return "in full: the score is not a number"
    if 0.0 < share < 1.0:
        return f"{share:.0%} of the rows bypassed: their own scores lie below {limits.threshold:.4g}"
    if share == 1.0:
        return f"bypassed: predicted impact {_impact(score)} is below the allowed {_impact(limits.threshold)}"
    return _in_full(limits, score)


def _always(limits: Limits, score: float, share: float) -> str:
    if share == 1.0:
        return "bypassed: this level bypasses the block for every input"
    return _in_full(limits, score) if score <= limits.floor else "in full: the score is not a number"


def _in_full(limits: Limits, score: float) -> str:
    if score <= limits.floor:
        return f"in full: score {score:.4g} is at or below {limits.floor:.4g}, the least that calibration saw"
    if score < limits.threshold:
        return "in full: the score allows the bypass, but another row of the batch needs the block"
    return f"in full: predicted impact {_impact(score)} is not below the allowed {_impact(limits.threshold)}"


def _impact(log: float) -> str:
    """An impact from its natural log; scores are predictions and may lie beyond what a float64 holds."""
    return f"{math.exp(min(log, 700.0)):.3g}"
