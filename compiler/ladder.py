"""The shares of inputs that each gate may open for, and what each of them costs and saves, one gate at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

SHARES = (0.25, 0.5, 0.75)
"""Shares of *fit* for which a gate may open; beyond them it is a guard, or the block is bypassed always."""

FINE_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85)
"""The same where there are few gates, so that there are few configurations all the same."""

FEW = 6
"""Gates, at most."""

GUARD = 0.9
"""The share of a guard: a gate that opens for nearly all inputs like those of *fit*, and for few unlike them.

Shutting for more of the familiar inputs takes the worst of them out, so that bolder bypasses lose no more, and spares
unlike ones far more damage. MiniLM, the same bypasses behind guards at 0.95, 0.93 and 0.9: on films 0.0444, 0.0432 and
0.0418, on product reviews 0.0260, 0.0202 and 0.0140, on tweets 0.0145, 0.0107 and 0.0079. The time saved on films
falls by a twenty-fifth, and what the smaller loss allows makes up for most of that.
"""

GUARD_WORTH = 0.5
"""A guard must keep this share of what bypassing the block always would save; else the block needs no gate."""

SMALLEST_LOSS = 1e-6


@dataclass(frozen=True)
class Offer:
    """What the planner knows of each gate.

    Attributes:
        scores: for each gate, of all that it decides on, on *fit* while nothing is bypassed: [rows].
        losses: smooth loss that bypassing the block alone for one row adds, times the number of rows: [rows] each.
        saved_ms: by bypassing a whole batch, [gates].
        split_ms: what it costs to bypass a part of a batch, [gates].
        gate_ms: cost of one gate.
        gated: which blocks a gate may stand before, [gates]; the others are bypassed always or never.
    """

    scores: Sequence[NDArray[np.float64]]
    losses: Sequence[NDArray[np.float64]]
    saved_ms: NDArray[np.float64]
    split_ms: NDArray[np.float64]
    gate_ms: float
    gated: Sequence[bool]

    def saved(self, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        """Milliseconds saved by bypassing these shares of batches, [..., gates]; without what the gates cost."""
        parts = (shares > 0) & (shares < 1)
        return np.asarray(shares * self.saved_ms - parts * self.split_ms)


@dataclass(frozen=True)
class Rung:
    """A share of inputs for which one block is bypassed, and what that alone costs and saves a batch."""

    share: float
    loss: float
    saved_ms: float


def forecast(offer: Offer, limit: float) -> float:
    """Milliseconds a batch that bypassing may save within the limit, were the losses of several blocks to add up.

    Args:
        offer: with the losses that are limited.
        limit: of the mean loss.
    """
    ladders = [ladder(offer, gate, FINE_SHARES if may else ()) for gate, may in enumerate(offer.gated)]
    steps = [
        (above.loss - below.loss, above.saved_ms - below.saved_ms)
        for rungs in ladders
        for below, above in pairwise((Rung(0.0, 0.0, 0.0), *rungs))
    ]
    left, saved = limit, 0.0
    for loss, saved_ms in sorted(steps, key=lambda step: -step[1] / max(step[0], SMALLEST_LOSS)):
        if left <= 0:
            break
        saved += saved_ms * min(1.0, left / max(loss, SMALLEST_LOSS))
        left -= loss
    return saved


def rung_at(offer: Offer, gate: int, share: float) -> Rung:
    """What bypassing one block for the inputs of lowest score costs and saves."""
    by_score = np.argsort(offer.scores[gate], kind="stable")
    count = round(share * len(by_score))
    loss = float(offer.losses[gate][by_score[:count]].sum()) / len(by_score)
    only = np.zeros(len(offer.saved_ms))
    only[gate] = share
    return Rung(share, loss, float(offer.saved(only).sum()) - (offer.gate_ms if share < 1 else 0.0))


def ladder(offer: Offer, gate: int, shares: Sequence[float]) -> list[Rung]:
    """One gate's rungs from low to high, those left out that are worth less than the one above them."""
    hull = [Rung(0.0, 0.0, 0.0)]
    for share in (*shares, _top(offer, gate) if shares else 1.0):
        rung = rung_at(offer, gate, share)
        if rung.saved_ms <= hull[-1].saved_ms:
            continue
        while len(hull) > 1 and _worth(hull[-1], rung) >= _worth(hull[-2], hull[-1]):
            hull.pop()
        hull.append(rung)
    return hull[1:]


def _top(offer: Offer, gate: int) -> float:
    """The highest rung of a gate: a guard, where the gate does not eat up what the block saves."""
    guarded, always = rung_at(offer, gate, GUARD), rung_at(offer, gate, 1.0)
    return GUARD if guarded.saved_ms >= GUARD_WORTH * always.saved_ms else 1.0


def _worth(lower: Rung, upper: Rung) -> float:
    return (upper.saved_ms - lower.saved_ms) / max(upper.loss - lower.loss, SMALLEST_LOSS)
