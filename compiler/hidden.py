"""What narrow bypasses are fitted to: hidden activations of blocks, summed up while the original runs over data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from skipc.compiler.data import Batch
from skipc.compiler.head_proof import with_proof
from skipc.compiler.moments import CHUNK, Matrix, Run, rows_of
from skipc.compiler.running import in_parallel
from skipc.passes.expose import with_outputs
from skipc.passes.flow import Flow
from skipc.passes.heads import hidden_of
from skipc.passes.narrow import Hidden, constants_of
from skipc.runtime.plan import Array, Region
from skipc.runtime.session import open_session

PROVED_ON = 2
"""Samples on which heads are proved to stay apart."""

MAX_FEATURES = 4096
"""Wider blocks are not narrowed: their Gram matrix would take too long to invert."""

ROWS_PER_FEATURE = 12
LEAST_ROWS = 16384
LEAST_CHUNKS = 8
"""Chunks that the rows of a region come from at least, so that no few inputs speak for all."""

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
    sums = [Sums(region, layers[region.name], flow) for region in watched]
    sums = [each for each in sums if each.features <= MAX_FEATURES]
    if not sums:
        return {}
    values = tuple(dict.fromkeys(name for each in sums for name in each.values))
    session = open_session(with_outputs(model, [name for name in values if name in flow.producer]).SerializeToString())
    wanted = [name for name in values if name in session.outputs]
    _sum_up(sums, items, lambda item: {**item.feeds, **session.run(item.feeds, wanted)}, seed)
    return {each.region.name: each.moments() for each in sums}


def hidden_moments(sums: Sums, items: Sequence[Batch], run: Run, seed: int) -> HiddenMoments:
    """Moments of one region, whose values come from wherever `run` takes them.

    Args:
        sums: of the region, nothing summed up yet.
        items: batches without padding.
        run: gives the region's entry, its merge and its hidden activations.
        seed: of the rows drawn where there are more than needed.
    """
    _sum_up([sums], items, run, seed)
    return sums.moments()


def _sum_up(sums: Sequence[Sums], items: Sequence[Batch], run: Run, seed: int) -> None:
    """Add batch after batch until there are rows enough."""
    random = np.random.default_rng(seed)
    for start in range(0, len(items), CHUNK):
        if all(each.is_full for each in sums):
            break
        runs = in_parallel(run, items[start : start + CHUNK])
        for each in sums:
            each.add(runs, random)


class Sums:
    """Moments of one region while batches pass.

    Args:
        region: with a hidden layer.
        hidden: the layer.
        flow: of the model that both were found in.
        linear: whether a path from the entry is of interest, where there can be one.
        times: as many rows as usual, where they are not independent.
    """

    def __init__(self, region: Region, hidden: Hidden, flow: Flow, *, linear: bool = True, times: int = 1) -> None:
        self.region = region
        self.hidden = hidden
        self.kernel = hidden.kernel(flow)
        self.taps = int(np.prod(self.kernel, dtype=int)) if self.kernel else hidden.width
        self.direct = region.channels if linear and not hidden.form and hidden.width == 1 else 0
        self.features = self.direct + hidden.units * self.taps
        self.values = (region.entry, region.merge, hidden.value)
        self.times = times
        self.rows = 0
        self.weight = 0.0
        self.f = np.zeros(self.features)
        self.d = np.zeros(region.channels)
        self.ff: Matrix | None = None
        self.fd = np.zeros((self.features, region.channels))

    @property
    def rows_needed(self) -> int:
        """Rows that a fit of so many features asks for."""
        return self.times * max(LEAST_ROWS, ROWS_PER_FEATURE * self.features)

    @property
    def is_full(self) -> bool:
        """Whether there are as many."""
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
