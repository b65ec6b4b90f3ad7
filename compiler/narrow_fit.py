"""Fit narrow bypasses: choose the hidden units that matter most and refit what reads them, together with a linear path.

With x the entry value and h the hidden activations, d = merge - x is regressed on [x, h]. Units are removed by
second-order saliency (optimal brain surgeon, Hassibi and Stork 1993; for groups of weights as in structured pruning):
the rise of the squared error when a unit is taken out and everything that is left is refitted. x is never taken out.
Where it is known how much the model's output feels of an error in each direction, the error is measured so: curvature
is the product of a factor of the features and one of the derivatives (Wang et al. 2019, arXiv 1905.05934).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray

from skipc.compiler.data import Batch
from skipc.compiler.head_proof import with_proof
from skipc.compiler.moments import CHUNK, Matrix, rows_of
from skipc.compiler.running import in_parallel
from skipc.passes.expose import with_outputs
from skipc.passes.flow import Flow
from skipc.passes.heads import hidden_of
from skipc.passes.narrow import Hidden, constants_of
from skipc.runtime.plan import Array, Bypass, Region
from skipc.runtime.session import open_session

SHARES = (0.75, 0.625, 0.5)
"""Of the hidden units kept; each is one bypass on offer. A linear path takes the time of an eighth of the units where
there are four for each channel, and as many more units explain more: see `benchmarks/results/widths.json`."""

LINEAR_SHARES = (0.375, 0.25)
"""With a linear path, which gains more than it costs where fewer units are left."""

QUANTIZED_SHARES = (0.75, 0.625, 0.5, 0.375)
"""The same in 8 bits or less, where a linear path costs more time than as many hidden units, and is left out."""

HEAD_SHARES = (5 / 6, 2 / 3, 1 / 2, 1 / 3)
"""Of the heads of attention, where a linear path gains less than it costs."""

PROVED_ON = 2
"""Samples on which heads are proved to stay apart."""

MAX_FEATURES = 4096
"""Wider blocks are not narrowed: their Gram matrix would take too long to invert."""

ROWS_PER_FEATURE = 12
LEAST_ROWS = 16384
LEAST_CHUNKS = 8
"""Chunks that the rows of a region come from at least, so that no few inputs speak for all."""

RIDGE = 1e-4
"""Relative to a feature's variance."""

REMOVED_A_ROUND = 0.25

SHRINKAGE = 0.1
"""Of a metric towards one that has no directions: it comes from few samples."""

LARGE = 4.0
"""Rows beyond this multiple of the usual size count as if they were of that size."""


@dataclass(frozen=True)
class HiddenMoments:
    """Centred second moments of the features f = [x, h] and of d = merge - x.

    Attributes:
        channels: extent C of x, 0 where the bypass has no linear path.
        taps: features for each hidden unit: one, the size of the last projection's kernel, or a head's width.
        mean_f: [F].
        mean_d: [C].
        ff: [F, F].
        fd: [F, C].
    """

    channels: int
    taps: int
    mean_f: Matrix
    mean_d: Matrix
    ff: Matrix
    fd: Matrix

    @property
    def units(self) -> int:
        """Number of hidden units."""
        return (len(self.mean_f) - self.channels) // self.taps


def hidden_layers(model: onnx.ModelProto, regions: Sequence[Region], items: Sequence[Batch]) -> dict[str, Hidden]:
    """The hidden layers of those regions that can be narrowed, by region name; heads are proved apart on the items."""
    flow, constants = Flow.of(model.graph), constants_of(model.graph)
    found = {region.name: hidden_of(flow, constants, region) for region in regions}
    known = {name: hidden for name, hidden in found.items() if hidden is not None}
    return with_proof(model, known, items, flow)


def observe_hidden(
    model: onnx.ModelProto, regions: Sequence[Region], items: Sequence[Batch], seed: int
) -> dict[str, HiddenMoments]:
    """Run the original over batches and sum up the hidden activations of its regions, by region name.

    Args:
        model: normalised original.
        regions: to watch; those without a hidden layer are left out.
        items: batches without padding.
        seed: of the rows drawn where there are more than needed.
    """
    flow, layers = Flow.of(model.graph), hidden_layers(model, regions, items[:PROVED_ON])
    watched = [region for region in regions if region.name in layers]
    sums = [_Sums(region, layers[region.name], flow) for region in watched]
    sums = [each for each in sums if each.features <= MAX_FEATURES]
    if not sums:
        return {}
    values = tuple(dict.fromkeys(name for each in sums for name in each.values))
    session = open_session(with_outputs(model, [name for name in values if name in flow.producer]).SerializeToString())
    wanted = [name for name in values if name in session.outputs]
    random = np.random.default_rng(seed)
    chunks = [items[start : start + CHUNK] for start in range(0, len(items), CHUNK)]
    for chunk in chunks:
        if all(each.is_full for each in sums):
            break
        runs = in_parallel(lambda item: {**item.feeds, **session.run(item.feeds, wanted)}, chunk)
        for each in sums:
            each.add(runs, random)
    return {each.region.name: each.moments() for each in sums}


class _Sums:
    """Moments of one region while batches pass."""

    def __init__(self, region: Region, hidden: Hidden, flow: Flow) -> None:
        self.region = region
        self.hidden = hidden
        self.kernel = hidden.kernel(flow)
        self.taps = int(np.prod(self.kernel, dtype=int)) if self.kernel else hidden.width
        self.direct = 0 if hidden.form or hidden.width > 1 else region.channels
        self.features = self.direct + hidden.units * self.taps
        self.values = (region.entry, region.merge, hidden.value)
        self.rows = 0
        self.weight = 0.0
        self.f = np.zeros(self.features)
        self.d = np.zeros(region.channels)
        self.ff: Matrix | None = None
        self.fd = np.zeros((self.features, region.channels))

    @property
    def rows_needed(self) -> int:
        return max(LEAST_ROWS, ROWS_PER_FEATURE * self.features)

    @property
    def is_full(self) -> bool:
        return self.rows >= self.rows_needed

    def add(self, runs: Sequence[Mapping[str, Array]], random: np.random.Generator) -> None:
        """Add rows of a chunk of runs, drawn at random where one chunk would give too large a part."""
        if self.is_full:
            return
        share = self.rows_needed / LEAST_CHUNKS / max(1, sum(self._rows_in(run) for run in runs))
        parts = [self._drawn(run, share, random) for run in runs]
        x, d, h = (np.concatenate([part[i] for part in parts]).astype(np.float64) for i in range(3))
        features = np.concatenate([x[:, : self.direct], h], axis=1)
        weights = row_weights(x + d)[:, None]
        self.rows += len(features)
        self.weight += float((weights**2).sum())
        self.f += (weights**2 * features).sum(axis=0)
        self.d += (weights**2 * d).sum(axis=0)
        features, d = weights * features, weights * d
        product = features.T @ features
        self.ff = product if self.ff is None else self.ff + product
        self.fd += features.T @ d

    def _rows_in(self, run: Mapping[str, Array]) -> int:
        return int(run[self.region.entry].size // self.region.channels)

    def _drawn(self, run: Mapping[str, Array], share: float, random: np.random.Generator) -> tuple[Array, Array, Array]:
        x, z = rows_of(run[self.region.entry], self.region), rows_of(run[self.region.merge], self.region)
        total = len(x)
        drawn = np.arange(total) if share >= 1 else np.flatnonzero(random.random(total) < share)
        return x[drawn], z[drawn] - x[drawn], self._taps_at(run[self.hidden.value], drawn)

    def _taps_at(self, value: Array, rows: NDArray[np.int64]) -> Array:
        """Hidden activations under the last projection's kernel at these rows: [rows, units * taps]."""
        if not self.kernel or self.taps == 1:
            return np.moveaxis(value, self.region.channel_axis, -1).reshape(-1, self.hidden.units * self.taps)[rows]
        margins = [(0, 0), (0, 0), *(((extent - 1) // 2,) * 2 for extent in self.kernel)]
        spatial = tuple(range(2, value.ndim))
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(value, margins), self.kernel, axis=spatial)
        place = np.unravel_index(rows, (value.shape[0], *value.shape[2:]))
        return np.moveaxis(windows, 1, len(place))[place].reshape(len(rows), self.hidden.units * self.taps)

    def moments(self) -> HiddenMoments:
        """The sums as centred moments."""
        rows = self.weight or 1.0
        mean_f, mean_d = self.f / rows, self.d / rows
        ff = (self.ff if self.ff is not None else np.zeros((self.features,) * 2)) / rows - np.outer(mean_f, mean_f)
        return HiddenMoments(self.direct, self.taps, mean_f, mean_d, ff, self.fd / rows - np.outer(mean_f, mean_d))


def row_weights(merged: NDArray[np.float64]) -> NDArray[np.float64]:
    """What the error of each row is multiplied by, [rows]: 1, and less for rows far larger than usual.

    Language models write values hundreds of times larger than all others into their first token (Sun et al. 2024,
    arXiv 2402.17762). The norm that reads them takes their size out again, so that an error counts relative to it.

    Args:
        merged: values at the merge, [rows, C].
    """
    sizes = np.sqrt((merged**2).mean(axis=1))
    return np.asarray(np.minimum(1.0, LARGE * np.median(sizes) / np.maximum(sizes, 1e-30)))


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
    """Take the least salient units out, a quarter a round, until so many are left."""
    while len(units) > target:
        kept = max(target, int(np.ceil(len(units) * (1 - REMOVED_A_ROUND))))
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
