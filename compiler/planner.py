"""Lay a path of configurations from "never skip" to "skip most", each step the most time saved per loss added.

A configuration is one threshold for each gate. The order of steps follows from each block's measured loss and time;
every configuration is then measured as a whole, since errors of several blocks do not simply add up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipc.compiler.running import Outcome, Window

SHARES = (0.25, 0.5, 0.75, 1.0)
"""Shares of *fit* for which one block may be bypassed."""

NEVER = float("-inf")
SMALLEST_LOSS = 1e-6


@dataclass(frozen=True)
class Step:
    """One configuration of a path.

    Attributes:
        thresholds: one for each gate.
        shares: share of *fit* below each threshold.
        loss: mean loss on *fit*, measured.
        saved_ms: expected saving, milliseconds a batch.
    """

    thresholds: tuple[float, ...]
    shares: tuple[float, ...]
    loss: float
    saved_ms: float


@dataclass(frozen=True)
class Offer:
    """What the planner knows of each gate; arrays have one row a gate.

    Attributes:
        scores: on *fit*, [gates, units].
        losses: of bypassing the block alone, [gates, units].
        saved_ms: by one bypass, [gates].
        gate_ms: cost of one gate.
    """

    scores: NDArray[np.float64]
    losses: NDArray[np.float64]
    saved_ms: NDArray[np.float64]
    gate_ms: float


@dataclass(frozen=True)
class _Notch:
    gate: int
    share: float
    threshold: float
    loss: float
    saved_ms: float

    @property
    def worth(self) -> float:
        return self.saved_ms / max(self.loss, SMALLEST_LOSS)


def lay_path(
    offer: Offer, measure: Callable[[Window], Outcome], floors: Sequence[float], limit: float
) -> tuple[Step, ...]:
    """Configurations in the order in which they will be tested.

    Args:
        offer: what is known of the gates.
        measure: runs the instrumented model on *fit* with a window.
        floors: of the gates.
        limit: the path ends where the measured loss exceeds twice this.
    """
    gates = len(offer.saved_ms)
    chosen: list[_Notch | None] = [None] * gates
    path: list[Step] = []
    for notch in _order(offer):
        chosen[notch.gate] = notch
        thresholds = tuple(item.threshold if item else NEVER for item in chosen)
        outcome = measure(window_of(thresholds, floors))
        saved = float((outcome.decisions.mean(axis=0) * offer.saved_ms).sum())
        saved -= offer.gate_ms * sum(item is not None for item in chosen)
        shares = tuple(item.share if item else 0.0 for item in chosen)
        path.append(Step(thresholds, shares, outcome.mean, saved))
        if outcome.mean > 2 * limit:
            break
    return tuple(step for step in path if step.saved_ms > 0)


def window_of(thresholds: Sequence[float], floors: Sequence[float]) -> Window:
    """The instrumented model's input for a configuration, float32 [2, gates]."""
    return np.array([thresholds, [-floor for floor in floors]], np.float32)


def _order(offer: Offer) -> list[_Notch]:
    """All notches: always the next one of greatest worth among the gates."""
    ladders = [_notches(offer, gate) for gate in range(len(offer.saved_ms))]
    order: list[_Notch] = []
    while any(ladders):
        best = max((ladder[0] for ladder in ladders if ladder), key=lambda notch: notch.worth)
        order.append(ladders[best.gate].pop(0))
    return order


def _notches(offer: Offer, gate: int) -> list[_Notch]:
    """One gate's notches; a notch that is worth less than the one behind it is passed over."""
    by_score = np.argsort(offer.scores[gate], kind="stable")
    losses, scores = offer.losses[gate][by_score], offer.scores[gate][by_score]
    found: list[_Notch] = []
    for wanted in sorted({round(share * len(scores)) for share in SHARES} - {0}):
        threshold = _threshold(scores, wanted)
        count = int(np.searchsorted(scores, threshold))
        share = count / len(scores)
        saved = share * float(offer.saved_ms[gate]) - offer.gate_ms
        if saved > 0 and not (found and found[-1].share == share):
            found.append(_Notch(gate, share, threshold, float(losses[:count].sum()) / len(losses), saved))
    return _concave(found)


def _threshold(scores: NDArray[np.float64], count: int) -> float:
    """Midway between the last score below and the first above; just above the largest one seen."""
    last = np.float32(scores[count - 1])
    following = np.float32(scores[count]) if count < len(scores) else np.float32(np.inf)
    middle = np.float32((last + following) / 2) if np.isfinite(following) else last
    return float(middle if last < middle else np.nextafter(last, np.float32(np.inf)))


def _concave(notches: list[_Notch]) -> list[_Notch]:
    """The notches as increments over one another, merged until each is worth at least as much as the next."""
    steps: list[_Notch] = []
    for notch in notches:
        increment = _increment(steps, notch)
        while steps and increment.worth > steps[-1].worth:
            steps.pop()
            increment = _increment(steps, notch)
        steps.append(increment)
    return steps


def _increment(steps: Sequence[_Notch], notch: _Notch) -> _Notch:
    loss = notch.loss - sum(step.loss for step in steps)
    saved = notch.saved_ms - sum(step.saved_ms for step in steps)
    return _Notch(notch.gate, notch.share, notch.threshold, loss, saved)


def thinned(path: Sequence[Step], count: int) -> tuple[Step, ...]:
    """At most so many configurations, evenly spaced, the last one always among them."""
    if len(path) <= count:
        return tuple(path)
    places = np.linspace(0, len(path) - 1, count + 1)[1:]
    return tuple(path[round(float(place))] for place in places)
