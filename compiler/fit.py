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

GATE_STRENGTHS = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0)
"""Penalties tried for gates, relative to the number of samples; features are standardised."""

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

    The penalty is chosen on what the data holds: what is made of it is too much like it to be left out by itself.

    Args:
        pooled: [samples, C].
        impact: smooth loss of bypassing the block, [samples].
        real: how many of them, from the first on, the data holds; the others are made to fit on, and no more.
    """
    target = np.log(impact + TINY)
    few = _Ridge.of(pooled[:real], target[:real])
    ridge = few if real is None else _Ridge.of(pooled, target)
    errors = [float(((few.left_out(penalty) - target[:real]) ** 2).mean()) for penalty in few.penalties]
    penalty = few.penalties[int(np.argmin(errors))]
    weight = ridge.weight(penalty).astype(np.float32)
    bias = float(target.mean() - ridge.mean @ weight)
    scores = pooled[:real] @ weight + bias
    gate = Gate("mean", weight, bias, floor=float(np.nextafter(np.float32(scores.min()), np.float32(-np.inf))))
    predicted = ridge.left_out(penalty)[:real]
    return GateFit(gate, predicted, rank_correlation(predicted, impact[:real]))


@dataclass(frozen=True)
class _Ridge:
    """Ridge regression on standardised features, at any penalty.

    Attributes:
        mean: of the features, [C].
        spread: of the features, [C]; infinite where they hardly vary.
        left: left singular vectors of the standardised features, [samples, rank].
        singular: singular values, [rank].
        right: right singular vectors, [rank, C].
        target: [samples].
    """

    mean: Matrix
    spread: Matrix
    left: Matrix
    singular: Matrix
    right: Matrix
    target: Matrix

    @classmethod
    def of(cls, pooled: NDArray[np.float32], target: Matrix) -> _Ridge:
        mean, spread = pooled.mean(axis=0, dtype=np.float64), pooled.std(axis=0, dtype=np.float64)
        spread = np.where(spread > 1e-6 * max(float(spread.max(initial=0.0)), 1e-30), spread, np.inf)
        return cls(mean, spread, *np.linalg.svd((pooled - mean) / spread, full_matrices=False), target)

    @property
    def penalties(self) -> list[float]:
        """To choose from."""
        return [strength * len(self.target) for strength in GATE_STRENGTHS]

    def weight(self, penalty: float) -> Matrix:
        """Of the features as they are, [C]."""
        shrunk = self.singular / (self.singular**2 + penalty) * (self.left.T @ self._centred)
        return np.asarray((self.right.T @ shrunk) / self.spread)

    def left_out(self, penalty: float) -> NDArray[np.float64]:
        """Predictions for each sample by the fit without it, in closed form (Allen 1974, PRESS)."""
        kept = self.singular**2 / (self.singular**2 + penalty)
        fitted = self.left @ (kept * (self.left.T @ self._centred))
        leverage = (self.left**2 * kept).sum(axis=1) + 1.0 / len(self.target)
        return np.asarray(self.target - (self._centred - fitted) / np.maximum(1.0 - leverage, 1e-6))

    @property
    def _centred(self) -> Matrix:
        return np.asarray(self.target - self.target.mean())


def rank_correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Spearman's rank correlation, ties sharing their mean rank; 0 where one side is constant."""
    ranks = [_ranks(first), _ranks(second)]
    if min(rank.std() for rank in ranks) == 0:
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(count) - (count - 1) / 2.0)[place], dtype=np.float64)
