"""One reverse sweep through a model: the derivatives of its output along given directions, wherever they are wanted.

The package onnx-ad writes the sweep as an ONNX graph, before any fusion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from skipc.compiler.data import Batch, input_specs
from skipc.compiler.moments import rows_of
from skipc.compiler.probe import probe_types
from skipc.compiler.running import in_parallel
from skipc.passes.base import run_passes
from skipc.passes.candidate import ValueType
from skipc.passes.expose import with_outputs
from skipc.passes.mask import DeclareTypes, FixInputs, ShiftMerges
from skipc.passes.pads import SplitPads
from skipc.runtime import names
from skipc.runtime.plan import Array, Region
from skipc.runtime.session import open_session

Matrix = NDArray[np.float64]

Products = NDArray[np.float64]
"""Derivatives of a batch's output along its directions with respect to each mask, [regions, directions]."""

Seeds = Callable[[Batch], Array]
"""The directions of a batch, [*output's shape, directions]."""

Feeds = Mapping[str, Array]


@dataclass(frozen=True)
class Swept:
    """What the sweeps of some batches gave.

    Attributes:
        products: for each batch.
        metrics: by watched region, the mean over batches and directions of the sum of g gᵀ over rows, [C, C], with g
            the derivative with respect to a row of the value at the region's merge.
    """

    products: Sequence[Products]
    metrics: Mapping[str, Matrix]


def swept(
    masked: onnx.ModelProto,
    count: int,
    watched: Sequence[Region],
    items: Sequence[Batch],
    output: str,
    seeds: Seeds,
) -> Swept | str:
    """Sweep every batch, or say why that is not possible.

    Args:
        masked: the model with its mask (`MaskRegions`).
        count: of the mask's elements.
        watched: regions with a metric.
        items: batches.
        output: whose derivatives are wanted.
        seeds: the directions.
    """
    try:
        import onnx_ad

        feeds = _feeds(masked, count, watched, items)
        fixed = differentiable(run_passes(masked, [ShiftMerges(tuple(watched))]), feeds)
        shifts = list(dict.fromkeys(names.shift(region.merge) for region in watched))
        graph = onnx_ad.reverse(fixed, inputs=[names.REGION_MASK, *shifts], outputs=[output], layout="onnx")
        session = open_session(graph.SerializeToString())
        seed, wanted = session.inputs[-1], session.outputs[-1 - len(shifts) :]

        def sweep(work: tuple[Batch, Feeds]) -> tuple[Products, dict[str, Matrix]]:
            item, fed = work
            found = session.run({**fed, seed: seeds(item)}, wanted)
            mask, *adjoints = (found[name] for name in wanted)
            by_shift = dict(zip(shifts, adjoints, strict=True))
            own = {region.name: _metric(by_shift[names.shift(region.merge)], region) for region in watched}
            return mask.astype(np.float64), own

        results = in_parallel(sweep, list(zip(items, feeds, strict=True)))
    except Exception as error:
        return " ".join(str(error).split()).rstrip(".") or type(error).__name__
    metrics = {region.name: np.mean([own[region.name] for _, own in results], axis=0) for region in watched}
    return Swept([products for products, _ in results], metrics)


def differentiable(model: onnx.ModelProto, feeds: Sequence[Feeds]) -> onnx.ModelProto:
    """The model as onnx-ad wants it, for inputs like these: with the shapes that all of them share."""
    fixed = run_passes(model, [SplitPads(), FixInputs(_common_shapes(feeds))])
    return run_passes(fixed, [DeclareTypes(_types(fixed, feeds))])


def _metric(adjoint: Array, region: Region) -> Matrix:
    """The mean over directions of the sum of g gᵀ over rows; the adjoint has the directions along its last axis."""
    rows = [rows_of(adjoint[..., i], region).astype(np.float64) for i in range(adjoint.shape[-1])]
    return np.asarray(np.mean([each.T @ each for each in rows], axis=0))


def _feeds(masked: onnx.ModelProto, count: int, watched: Sequence[Region], items: Sequence[Batch]) -> list[Feeds]:
    """Each batch with a mask of ones and shifts of zeros."""
    merges = list(dict.fromkeys(region.merge for region in watched))
    ones: Feeds = {names.REGION_MASK: np.ones(count, np.float32)}
    if not merges:
        return [{**item.feeds, **ones} for item in items]
    session = open_session(with_outputs(masked, merges).SerializeToString())

    def fed(item: Batch) -> Feeds:
        values = session.run({**item.feeds, **ones}, merges)
        shifts = {names.shift(merge): np.zeros(values[merge].shape, np.float32) for merge in merges}
        return {**item.feeds, **ones, **shifts}

    return in_parallel(fed, list(items))


def _types(fixed: onnx.ModelProto, feeds: Sequence[Feeds]) -> Mapping[str, ValueType]:
    """The types of all values by a run, where all batches have one shape: inference loses some behind a `Slice`."""
    if any(spec.shape != feeds[0][spec.name].shape for spec in input_specs(fixed) if spec.name in feeds[0]):
        return {}
    return probe_types(fixed, [dict(feeds[0])])


def _common_shapes(feeds: Sequence[Feeds]) -> dict[str, tuple[int, ...]]:
    """Shapes of the inputs that are the same in all batches; convolutions cannot be swept without them."""
    first = {name: array.shape for name, array in feeds[0].items()}
    return {name: shape for name, shape in first.items() if all(fed[name].shape == shape for fed in feeds)}
