"""One pass over the data: what goes into each region and what comes out, summed up so that memory stays small."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from skipc.compiler.data import Batch
from skipc.compiler.progress import SILENT, Progress
from skipc.compiler.running import in_parallel
from skipc.passes.expose import with_outputs
from skipc.runtime.plan import Array, Region
from skipc.runtime.session import open_session

Matrix = NDArray[np.float64]
Run = Callable[[Batch], Mapping[str, Array]]
"""Values by name, of one batch."""

CHUNK = 16
"""Batches whose activations are held in memory at a time."""

MOST_ROWS = 128
"""Rows of a batch that are summed up, drawn at random: the pixels of one image are much like one another."""

TINY = 1e-12
"""Norms below it count as zero; a row that is zero before and after has not changed."""


@dataclass(frozen=True)
class Moments:
    """First and second moments of a region's entry x and of d = merge - x, over rows (samples, tokens, pixels).

    Attributes:
        rows: number of rows.
        x: sum of x, [C].
        d: sum of d, [C].
        xx: sum of outer products x x, [C, C].
        xd: sum of outer products x d, [C, C].
        dd: sum of squares of d, [C].
    """

    rows: int
    x: Matrix
    d: Matrix
    xx: Matrix
    xd: Matrix
    dd: Matrix

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.rows + other.rows,
            self.x + other.x,
            self.d + other.d,
            self.xx + other.xx,
            self.xd + other.xd,
            self.dd + other.dd,
        )

    @classmethod
    def of(cls, entry: Array, merge: Array) -> Moments:
        """Moments of rows [rows, C]."""
        x = entry.astype(np.float64)
        d = merge.astype(np.float64) - x
        return cls(len(x), x.sum(axis=0), d.sum(axis=0), x.T @ x, x.T @ d, (d * d).sum(axis=0))

    @classmethod
    def none(cls, channels: int) -> Moments:
        """Moments of no rows."""
        row, square = np.zeros(channels), np.zeros((channels, channels))
        return cls(0, row, row, square, square, row)


@dataclass(frozen=True)
class Observed:
    """What one pass saw of a region.

    Attributes:
        halves: moments over the chunks at even and at odd positions, so that one can check what the other fitted.
        pooled: the entry value as its gate sees it, float32 [samples, C].
        change: mean over rows of ‖exit - entry‖ / ‖exit‖.
        influence: Block Influence, mean over rows of 1 - cos(entry, exit) (ShortGPT, arXiv 2403.03853).
    """

    halves: tuple[Moments, Moments]
    pooled: NDArray[np.float32]
    change: float
    influence: float


def rows_of(value: Array, region: Region) -> Array:
    """A value as rows of features: [rows, C]."""
    return np.moveaxis(value, region.channel_axis, -1).reshape(-1, region.channels)


def pooled_rows(value: Array, region: Region) -> NDArray[np.float32]:
    """A value as the gate pools it: float32 [batch, C]."""
    axes = tuple(axis for axis in range(1, value.ndim) if axis != region.channel_axis)
    return np.asarray(value.astype(np.float32).mean(axis=axes, dtype=np.float32))


class _Sums:
    """What is summed up for one region, chunk by chunk in a fixed order, so that the same data give the same sums."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self.halves = [Moments.none(region.channels)] * 2
        self.pooled: list[NDArray[np.float32]] = []
        self.change = 0.0
        self.influence = 0.0

    def pool(self, chunk: Sequence[Mapping[str, Array]]) -> None:
        """Keep what gates see of a chunk of runs."""
        self.pooled += [pooled_rows(values[self.region.entry], self.region) for values in chunk]

    def add(self, chunk: Sequence[Mapping[str, Array]], half: int, random: np.random.Generator) -> None:
        """Add a chunk of runs; one product over all of its rows costs far less than one a run."""
        region = self.region
        drawn = [_drawn(values[region.entry].size // region.channels, random) for values in chunk]
        rows = {
            name: np.concatenate([rows_of(values[name], region)[own] for values, own in zip(chunk, drawn, strict=True)])
            for name in {region.entry, region.merge, region.exit}
        }
        self.halves[half] += Moments.of(rows[region.entry], rows[region.merge])
        change, influence = _distances(rows[region.entry], rows[region.exit])
        self.change += change
        self.influence += influence

    def observed(self) -> Observed:
        """The sums as a value."""
        rows = max(1, sum(half.rows for half in self.halves))
        first, second = self.halves
        return Observed((first, second), np.concatenate(self.pooled), self.change / rows, self.influence / rows)


def moments_of(region: Region, items: Sequence[Batch], run: Run, rows: int, seed: int) -> tuple[Moments, Moments]:
    """Moments over chunks at even and at odd positions, of so many rows at least where the batches have them.

    Args:
        region: whose entry and merge they are of.
        items: batches without padding.
        run: gives its entry, merge and exit.
        rows: after which no further batch is run.
        seed: of the rows drawn where a batch has more than needed.
    """
    sums, random = _Sums(region), np.random.default_rng(seed)
    for start in range(0, len(items), CHUNK):
        if sum(half.rows for half in sums.halves) >= rows:
            break
        sums.add(in_parallel(run, items[start : start + CHUNK]), start // CHUNK % 2, random)
    first, second = sums.halves
    return first, second


def _drawn(rows: int, random: np.random.Generator) -> NDArray[np.int64] | slice:
    return slice(None) if rows <= MOST_ROWS else np.sort(random.choice(rows, MOST_ROWS, replace=False))


def _distances(entry: Array, leaving: Array) -> tuple[float, float]:
    x, y = entry.astype(np.float64), leaving.astype(np.float64)
    norm_x, norm_y = np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1)
    cosine = np.where(norm_x + norm_y > TINY, (x * y).sum(axis=1) / np.maximum(norm_x * norm_y, TINY), 1.0)
    change = np.linalg.norm(y - x, axis=1) / np.maximum(norm_y, TINY)
    return float(change.sum()), float((1.0 - cosine).sum())


def observe(
    model: onnx.ModelProto,
    regions: Sequence[Region],
    items: Sequence[Batch],
    seed: int,
    held_out: int = 0,
    progress: Progress = SILENT,
) -> dict[str, Observed]:
    """Run the original once over batches and sum up what its regions do, by region name.

    Args:
        model: normalised original.
        regions: to watch; they may overlap.
        items: batches without padding (batch size 1 sees to that).
        seed: of the rows drawn where a batch has more than needed.
        held_out: batches at the beginning that are pooled for the gates and not summed up, so that bypasses which are
            fitted to the sums can be judged on them.
        progress: told of every chunk.
    """
    values = frozenset(name for region in regions for name in _values(region))
    session = open_session(with_outputs(model, sorted(values)).SerializeToString())
    watched = tuple(name for name in session.outputs if name in values)
    sums, random = [_Sums(region) for region in regions], np.random.default_rng(seed)
    for start, own in progress.each(range(0, len(items), CHUNK)):
        chunk = in_parallel(
            lambda item: {**item.feeds, **session.run(item.feeds, watched)}, items[start : start + CHUNK], progress=own
        )
        summed = chunk[max(0, held_out - start) :]
        for each in sums:
            each.pool(chunk)
            if summed:
                each.add(summed, start // CHUNK % 2, random)
    return {each.region.name: each.observed() for each in sums}


def _values(region: Region) -> Iterable[str]:
    return (region.entry, region.merge, region.exit)
