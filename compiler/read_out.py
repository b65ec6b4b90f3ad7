"""Read class scores out of an inner value: ridge regression of the network's own scores on the pooled value.

Predictions for the samples that were fitted are leave-one-out in closed form (Allen 1974, PRESS), so that what follows
from them, thresholds and forecasts, holds for new samples too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from skipc.compiler.data import Batch
from skipc.compiler.running import in_parallel
from skipc.passes.candidate import ValueType
from skipc.passes.expose import with_outputs
from skipc.passes.second_look import READ_OUT, window_of_grid
from skipc.runtime.plan import Array, Bypass, Region
from skipc.runtime.session import open_session

Matrix = NDArray[np.float64]

CELLS = (1, 2, 3, 4)
"""Along each axis of an image, of the grids whose cells are averaged over."""

MOST_FEATURES = 512
"""Finer grids than this many features allow fit no better on a few thousand samples, and take longer."""

CHUNK = 16
"""Samples that are pooled at once: numpy takes longer to be called than to average one small image."""

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Of the ridge, relative to the number of samples, on standardised features."""


@dataclass(frozen=True)
class Pooling:
    """What a value is averaged over: windows along its last axes, or whole axes.

    Attributes:
        arrays: as `Bypass` keeps them.
    """

    arrays: Mapping[str, Array]

    def of(self, value: Array) -> NDArray[np.float32]:
        """The pooled value, float32 [batch, F]."""
        wide = value.astype(np.float32)
        if "axes" in self.arrays:
            return np.asarray(wide.mean(axis=tuple(self.arrays["axes"].tolist()), dtype=np.float32))
        for axis, (kernel, stride) in enumerate(zip(self.arrays["kernel"], self.arrays["stride"], strict=True), 2):
            starts = range(0, wide.shape[axis] - int(kernel) + 1, int(stride))
            cells = [wide.take(range(start, start + int(kernel)), axis).mean(axis) for start in starts]
            wide = np.stack(cells, axis)
        return wide.reshape(len(wide), -1)


def poolings(known: ValueType, channel_axis: int) -> tuple[Pooling, ...]:
    """How a value may be pooled, from coarse to fine."""
    inner, channels = known.dims[2:], known.dims[channel_axis]
    extents = [extent for extent in inner if isinstance(extent, int)]
    if channel_axis != 1 or not inner or len(extents) < len(inner) or not isinstance(channels, int):
        axes = [axis for axis in range(1, len(known.dims)) if axis != channel_axis]
        return (Pooling({"axes": np.array(axes, np.int64)}),)
    fitting = [cells for cells in CELLS if cells == 1 or channels * cells ** len(inner) <= MOST_FEATURES]
    return tuple(_grid(extents, cells) for cells in fitting if cells <= min(extents))


def _grid(extents: Sequence[int], cells: int) -> Pooling:
    kernel, stride = np.array([window_of_grid(extent, cells) for extent in extents], np.int64).T
    return Pooling({"kernel": kernel.copy(), "stride": stride.copy()})


@dataclass(frozen=True)
class ReadOut:
    """A read-out and what it gives.

    Attributes:
        bypass: its parameters.
        predicted: class scores of each sample by the read-out fitted without it, [samples, classes].
        fitted: by the read-out itself.
    """

    bypass: Bypass
    predicted: NDArray[np.float32]
    fitted: NDArray[np.float32]


def observe_pooled(
    model: onnx.ModelProto, wanted: Mapping[str, Sequence[Pooling]], scores: str, items: Sequence[Batch]
) -> tuple[dict[str, list[Matrix]], Matrix]:
    """Run the original once: pooled values by value name, [samples, F] each, and the class scores, [samples, classes].

    Args:
        model: normalised original.
        wanted: poolings of each value.
        scores: name of the class scores.
        items: samples one by one, so that there is no padding.
    """
    session = open_session(with_outputs(model, [*wanted, scores]).SerializeToString())

    def run(chunk: Sequence[Batch]) -> tuple[dict[str, list[NDArray[np.float32]]], Array]:
        found = [
            session.run(item.feeds, [name for name in (*wanted, scores) if name not in item.feeds]) for item in chunk
        ]
        values = [{**item.feeds, **outputs} for item, outputs in zip(chunk, found, strict=True)]
        pooled = {name: _pooled(kinds, [each[name] for each in values]) for name, kinds in wanted.items()}
        return pooled, np.concatenate([each[scores] for each in values])

    runs = in_parallel(run, [items[start : start + CHUNK] for start in range(0, len(items), CHUNK)])
    pooled = {
        name: [np.concatenate([each[name][i] for each, _ in runs]).astype(np.float64) for i in range(len(found))]
        for name, found in wanted.items()
    }
    return pooled, np.concatenate([found for _, found in runs]).astype(np.float64)


def _pooled(kinds: Sequence[Pooling], values: Sequence[Array]) -> list[NDArray[np.float32]]:
    """Values of several samples by each pooling, [samples, F]; at once where they are of one shape."""
    if len({value.shape for value in values}) == 1:
        joined = np.concatenate(values)
        return [pooling.of(joined) for pooling in kinds]
    return [np.concatenate([pooling.of(value) for value in values]) for pooling in kinds]


def fit_read_out(pooling: Pooling, features: Matrix, scores: Matrix) -> ReadOut:
    """Fit a read-out; the strength of the ridge is the one of least leave-one-out error.

    Args:
        pooling: of the features.
        features: [samples, F].
        scores: of the original, [samples, classes].
    """
    mean, spread = features.mean(axis=0), features.std(axis=0)
    spread = np.where(spread > 1e-6 * max(float(spread.max(initial=0.0)), 1e-30), spread, np.inf)
    left, singular, right = np.linalg.svd((features - mean) / spread, full_matrices=False)
    centre = scores.mean(axis=0)
    projected = left.T @ (scores - centre)
    fits = [_leave_one_out(left, singular, projected, scores - centre, share * len(scores)) for share in STRENGTHS]
    best = int(np.argmin([float(((fit - (scores - centre)) ** 2).mean()) for fit in fits]))
    shrunk = (singular / (singular**2 + STRENGTHS[best] * len(scores)))[:, None] * projected
    weight = ((right.T @ shrunk) / spread[:, None]).astype(np.float32)
    shift = (centre - mean @ weight).astype(np.float32)
    fitted = (features @ weight + shift).astype(np.float32)
    bypass = Bypass(READ_OUT, {**pooling.arrays, "weight": weight, "shift": shift})
    return ReadOut(bypass, (fits[best] + centre).astype(np.float32), fitted)


def _leave_one_out(left: Matrix, singular: Matrix, projected: Matrix, target: Matrix, strength: float) -> Matrix:
    kept = singular**2 / (singular**2 + strength)
    fitted = left @ (kept[:, None] * projected)
    leverage = (left**2 * kept).sum(axis=1) + 1.0 / len(target)
    return np.asarray(target - (target - fitted) / np.maximum(1.0 - leverage, 1e-6)[:, None])


def channel_axes(blocks: Sequence[Region]) -> dict[str, int]:
    """The axis of features of the values at the ends of blocks, by value name."""
    return {name: block.channel_axis for block in blocks for name in (block.entry, block.exit)}
