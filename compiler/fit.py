"""Fit bypasses and gates: closed-form ridge regressions, solved in float64.

A bypass approximates d = merge - x, so that what it does not know it leaves out, as the identity does. The strength of
the ridge is chosen on the half of the data that was not fitted; the final fit is on both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipc.compiler.moments import Matrix, Moments
from skipc.runtime.plan import Array, Bypass, Gate

RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
"""Strengths tried, relative to the mean variance of a channel; the strongest leave next to nothing but the identity."""

UNCHECKED_RIDGE = 1e-1
"""The strength where there is no second half to choose it by."""

RANK_SHARE = 8
"""A low-rank bypass has one rank for so many channels."""

TINY = 1e-4
"""Added to losses before the logarithm: below it, impacts do not differ in a way that matters."""


@dataclass(frozen=True)
class _Centred:
    """Moments about the mean, divided by the number of rows."""

    mean_x: Matrix
    mean_d: Matrix
    xx: Matrix
    xd: Matrix
    dd: Matrix

    @classmethod
    def of(cls, moments: Moments) -> _Centred:
        rows = max(1, moments.rows)
        mean_x, mean_d = moments.x / rows, moments.d / rows
        return cls(
            mean_x,
            mean_d,
            moments.xx / rows - np.outer(mean_x, mean_x),
            moments.xd / rows - np.outer(mean_x, mean_d),
            moments.dd / rows - mean_d**2,
        )

    def solve(self, ridge: float) -> Matrix:
        """B in d ≈ x · B, [C, C]."""
        scale = max(float(np.trace(self.xx)) / len(self.xx), 1e-30)
        return np.asarray(np.linalg.solve(self.xx + ridge * scale * np.eye(len(self.xx)), self.xd))

    def error(self, slope: Matrix) -> float:
        """Mean squared error of d ≈ x · B here, summed over channels."""
        return float(self.dd.sum() - 2 * (slope * self.xd).sum() + (slope * (self.xx @ slope)).sum())


def fit_bypass(kind: str, halves: tuple[Moments, Moments]) -> Bypass:
    """Fit one kind of bypass to what was observed of a region, in two halves.

    Low-rank is reduced-rank regression: the leading directions of the fitted outputs, not of the matrix (Izenman 1975,
    doi 10.1016/0047-259X(75)90042-1).
    """
    if kind == "identity":
        return Bypass(kind)
    whole = _Centred.of(halves[0] + halves[1])
    ridge = _best_ridge(halves)
    if kind == "affine":
        variance = np.diag(whole.xx)
        slope = np.diag(whole.xd) / (variance + ridge * max(variance.mean(), 1e-30))
        return Bypass(kind, _float32(scale=1 + slope, shift=whole.mean_d - whole.mean_x * slope))
    slope = whole.solve(ridge)
    if kind == "linear":
        shift = whole.mean_d - whole.mean_x @ slope
        return Bypass(kind, _float32(weight=np.eye(len(slope)) + slope, shift=shift))
    _, directions = np.linalg.eigh(slope.T @ whole.xx @ slope)
    leading = directions[:, ::-1][:, : max(1, len(slope) // RANK_SHARE)]
    down, up = slope @ leading, leading.T
    return Bypass(kind, _float32(down=down, up=up, shift=whole.mean_d - (whole.mean_x @ down) @ up))


def _best_ridge(halves: tuple[Moments, Moments]) -> float:
    """The strength with the least error on the half that was not fitted; a middling one where one half is empty."""
    first, second = (_Centred.of(half) for half in halves)
    if min(half.rows for half in halves) == 0:
        return UNCHECKED_RIDGE
    errors = [second.error(first.solve(ridge)) + first.error(second.solve(ridge)) for ridge in RIDGES]
    return RIDGES[int(np.argmin(errors))]


def _float32(**arrays: Matrix) -> Mapping[str, Array]:
    return {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in arrays.items()}


@dataclass(frozen=True)
class GateFit:
    """A gate and how well it predicts.

    Attributes:
        gate: the read-out.
        predicted: its scores on *fit*, each by a read-out that did not see the sample, [samples].
        rank_correlation: Spearman's, between these and the true impact.
    """

    gate: Gate
    predicted: NDArray[np.float64]
    rank_correlation: float


def fit_gate(pooled: NDArray[np.float32], impact: NDArray[np.float64], real: int | None = None) -> GateFit:
    """Fit a read-out of the pooled entry value that predicts the log of a block's impact, by ridge.

    Args:
        pooled: [samples, C].
        impact: smooth loss of bypassing the block, [samples].
        real: how many of them, from the first on, the data holds; the others are made to fit on, and no more.
    """
    target = np.log(impact + TINY)
    mean, spread = pooled.mean(axis=0, dtype=np.float64), pooled.std(axis=0, dtype=np.float64)
    spread = np.where(spread > 1e-6 * max(float(spread.max(initial=0.0)), 1e-30), spread, np.inf)
    left, singular, right = np.linalg.svd((pooled - mean) / spread, full_matrices=False)
    centred = target - target.mean()
    strengths = [share * len(target) for share in (1e-3, 1e-2, 1e-1, 1.0, 10.0)]
    fits = [_leave_one_out(left, singular, centred, strength) for strength in strengths]
    errors = [float(((fit - centred) ** 2).mean()) for fit in fits]
    best = int(np.argmin(errors))
    shrunk = singular / (singular**2 + strengths[best]) * (left.T @ centred)
    weight = ((right.T @ shrunk) / spread).astype(np.float32)
    bias = float(target.mean() - mean @ weight)
    scores = pooled[:real] @ weight + bias
    gate = Gate("mean", weight, bias, floor=float(np.nextafter(np.float32(scores.min()), np.float32(-np.inf))))
    predicted = (fits[best] + target.mean())[:real]
    return GateFit(gate, predicted, rank_correlation(predicted, impact[:real]))


def _leave_one_out(left: Matrix, singular: Matrix, target: Matrix, strength: float) -> NDArray[np.float64]:
    """Ridge predictions for each sample by the fit without it, in closed form (Allen 1974, PRESS)."""
    kept = singular**2 / (singular**2 + strength)
    fitted = left @ (kept * (left.T @ target))
    leverage = (left**2 * kept).sum(axis=1) + 1.0 / len(target)
    return np.asarray(target - (target - fitted) / np.maximum(1.0 - leverage, 1e-6))


def rank_correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Spearman's rank correlation, ties sharing their mean rank; 0 where one side is constant."""
    ranks = [_ranks(first), _ranks(second)]
    if min(rank.std() for rank in ranks) == 0:
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(count) - (count - 1) / 2.0)[place], dtype=np.float64)
