"""Fit narrow bypasses: choose the hidden units that matter most and refit what reads them, together with a linear path.

With x the entry value and h the hidden activations, d = merge - x is regressed on [x, h]. Units are removed by
second-order saliency (optimal brain surgeon, Hassibi and Stork 1993; for groups of weights as in structured pruning):
the rise of the squared error when a unit is taken out and everything that is left is refitted. x is never taken out.
Where it is known how much the model's output feels of an error in each direction, the error is measured so: curvature
is the product of a factor of the features and one of the derivatives (Wang et al. 2019, arXiv 1905.05934).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from skipc.compiler.hidden import HiddenMoments
from skipc.compiler.moments import Matrix
from skipc.runtime.plan import Array, Bypass

SHARES = (0.75, 0.625, 0.5)
"""Of the hidden units kept; each is one bypass on offer. A linear path takes the time of an eighth of the units where
there are four for each channel, and as many more units explain more: see `benchmarks/results/widths.json`."""

LINEAR_SHARES = (0.375, 0.25)
"""With a linear path, which gains more than it costs where fewer units are left."""

QUANTIZED_SHARES = (0.75, 0.625, 0.5, 0.375)
"""The same in 8 bits or less, where a linear path costs more time than as many hidden units, and is left out."""

HEAD_SHARES = (5 / 6, 2 / 3, 1 / 2, 1 / 3)
"""Of the heads of attention, where a linear path gains less than it costs."""

RIDGE = 1e-4
"""Relative to a feature's variance."""

REMOVED_A_ROUND = 0.25

SHRINKAGE = 0.1
"""Of a metric towards one that has no directions: it comes from few samples."""


def narrow_ladder(moments: HiddenMoments, metric: Matrix | None = None) -> tuple[Bypass, ...]:
    """The narrow bypasses on offer, from wide to narrow.

    Args:
        moments: of the block.
        metric: how errors at its merge are measured, [C, C]; None where all directions count alike.
    """
    if moments.channels:
        wide = fit_narrow(without_linear(moments), SHARES, metric=metric)
        return (*wide, *fit_narrow(moments, LINEAR_SHARES, wide[-1].arrays["units"], metric))
    return fit_narrow(moments, HEAD_SHARES if moments.taps > 1 else QUANTIZED_SHARES, metric=metric)


def without_linear(moments: HiddenMoments) -> HiddenMoments:
    """The same without a path from x; as they are where there is none."""
    behind = slice(moments.channels, None)
    mean, ff, fd = moments.mean_f[behind], moments.ff[behind, behind], moments.fd[behind]
    return replace(moments, channels=0, mean_f=mean, ff=ff, fd=fd)


def fit_narrow(
    moments: HiddenMoments,
    shares: Sequence[float],
    among: NDArray[np.int64] | None = None,
    metric: Matrix | None = None,
) -> tuple[Bypass, ...]:
    """One narrow bypass for each share of units kept, from wide to narrow.

    Args:
        moments: of the block.
        shares: of all its units.
        among: the units to choose from; None for all of them.
        metric: how errors at the merge are measured when units are chosen, [C, C]. The refit needs none: least squares
            has the same solution in each.
    """
    scale = np.sqrt(np.maximum(np.diag(moments.ff), 1e-20))
    ff, fd = moments.ff / np.outer(scale, scale), moments.fd / scale[:, None]
    felt = fd if metric is None else fd @ _root(metric)
    units = np.arange(moments.units) if among is None else among
    found = []
    for share in sorted(shares, reverse=True):
        units = _reduced(moments, ff, felt, units, max(1, round(share * moments.units)))
        found.append(_refitted(moments, ff, fd, units, scale))
    return tuple(found)


def has_linear(bypass: Bypass) -> bool:
    """Whether a narrow bypass has a linear path from the entry."""
    weight = bypass.arrays["weight"]
    return not np.array_equal(weight, np.eye(len(weight), dtype=weight.dtype))


def refit_narrow(moments: HiddenMoments, bypass: Bypass) -> Bypass:
    """A narrow bypass fitted to other moments, which are of the units that it keeps."""
    (fitted,) = fit_narrow(moments, (1.0,))
    return replace(fitted, arrays={**fitted.arrays, "units": bypass.arrays["units"]})


def _root(metric: Matrix) -> Matrix:
    """R with R Rᵀ the metric, scaled to a mean eigenvalue of one and shrunk; [C, C]."""
    count = len(metric)
    scale = float(np.trace(metric)) / count
    if not scale > 0:
        return np.eye(count)
    return np.asarray(np.linalg.cholesky((1.0 - SHRINKAGE) * metric / scale + SHRINKAGE * np.eye(count)))


def _features(moments: HiddenMoments, units: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions of x and of the taps of these units among the features."""
    taps = (units[:, None] * moments.taps + np.arange(moments.taps)).reshape(-1) + moments.channels
    return np.concatenate([np.arange(moments.channels), taps])


def _reduced(
    moments: HiddenMoments, ff: Matrix, fd: Matrix, units: NDArray[np.int64], target: int
) -> NDArray[np.int64]:
    """Take the least salient units out, a quarter a round and one at least, until so many are left."""
    while len(units) > target:
        kept = max(target, len(units) - max(1, int(len(units) * REMOVED_A_ROUND)))
        saliency = _saliency(moments, ff, fd, units)
        units = np.sort(units[np.argsort(-saliency, kind="stable")[:kept]])
    return units


def _saliency(moments: HiddenMoments, ff: Matrix, fd: Matrix, units: NDArray[np.int64]) -> Matrix:
    """Rise of the squared error by taking each unit out: tr(Wⱼᵀ ([G⁻¹]ⱼⱼ)⁻¹ Wⱼ), [units]."""
    chosen = _features(moments, units)
    inverse = np.linalg.inv(ff[np.ix_(chosen, chosen)] + RIDGE * np.eye(len(chosen)))
    weight = (inverse @ fd[chosen])[moments.channels :].reshape(len(units), moments.taps, -1)
    inner = inverse[moments.channels :, moments.channels :]
    grid = inner.reshape(len(units), moments.taps, len(units), moments.taps)
    blocks = grid[np.arange(len(units)), :, np.arange(len(units)), :]
    return np.asarray((weight * np.linalg.solve(blocks, weight)).sum(axis=(1, 2)))


def _refitted(moments: HiddenMoments, ff: Matrix, fd: Matrix, units: NDArray[np.int64], scale: Matrix) -> Bypass:
    chosen = _features(moments, units)
    slope = np.linalg.solve(ff[np.ix_(chosen, chosen)] + RIDGE * np.eye(len(chosen)), fd[chosen])
    slope /= scale[chosen, None]
    shift = moments.mean_d - moments.mean_f[chosen] @ slope
    direct, down = np.eye(len(shift)), slope[moments.channels :]
    direct[: moments.channels] += slope[: moments.channels]
    arrays = {"weight": direct, "down": down, "shift": shift}
    typed: dict[str, Array] = {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in arrays.items()}
    return Bypass("narrow", {**typed, "units": units.astype(np.int64)})
