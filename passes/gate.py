"""Write a gate: from a region's entry value, or an earlier one, to the condition of its `If`.

score = mean(x) · w + b for each sample, or x · w + b for each token, in float32; a row agrees to the bypass where
``floor < score < threshold``. One comparison checks both ends: ``[score, -score] < [threshold, -floor]``. It is false
for NaN, and the floor catches negative infinity, so that what calibration never saw runs in full.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from skipc.passes.builder import Builder
from skipc.runtime import names
from skipc.runtime.plan import Array, Gate, Reading, Region


def write_gate(builder: Builder, region: Region, gate: Gate, limits: str) -> None:
    """Add the nodes from a region's entry value to its condition.

    Args:
        builder: collects the nodes.
        region: whose entry value is read.
        gate: the read-out.
        limits: name of a value, float32 [2]: the threshold and the negated floor.
    """
    agreed = builder.cast(builder.op("Less", [_score(builder, region, gate), limits]), TensorProto.FLOAT)
    if decides_by_row(gate):
        axes = [2] if is_by_token(gate) else [1]
        agreed = builder.reduce("ReduceMin", agreed, axes, output=names.agreed(region.name))
    write_condition(builder, region, agreed)


def write_condition(builder: Builder, region: Region, agreed: str) -> None:
    """Add the nodes from decisions, 1 for the bypass, to the scalar that says whether all agree; none at all agree."""
    least = builder.op("ReduceMin", [agreed], keepdims=0)
    builder.cast(least, TensorProto.BOOL, output=names.gate(region.name))


def decides_by_row(gate: Gate) -> bool:
    """Whether each sample or token gets what its own score says."""
    return gate.granularity != "batch" and gate.pooling != "constant"


def is_by_token(gate: Gate) -> bool:
    """Whether each token gets what its own score says."""
    return decides_by_row(gate) and gate.granularity == "token"


def write_mask(builder: Builder, mask: str) -> None:
    """Add the weights by which values are averaged over their tokens; NaN for a sample of padding alone."""
    real = builder.cast(mask, TensorProto.FLOAT)
    share = builder.op("Div", [real, builder.reduce("ReduceSum", real, [1], keepdims=1)])
    builder.unsqueeze(share, 1, output=names.mask(mask))


def reading_of(region: Region, gate: Gate) -> Reading:
    """The value that a gate reads."""
    return gate.reading or Reading(region.entry, region.elem_type, region.dims, region.channel_axis)


def _score(builder: Builder, region: Region, gate: Gate) -> str:
    """A gate's score and its negative; zero for every input where it is constant, so that the runtime folds it away."""
    if gate.pooling == "constant":
        return builder.constant([[0.0, 0.0]], name=names.score(region.name))
    both = zip(weights_of(gate), ("weight", "bias"), strict=True)
    weight, bias = (builder.constant(array, name=f"{names.gate(region.name)}/{name}") for array, name in both)
    if gate.pooling == "top":
        highest, checked = _highest(builder, region, len(gate.weight), bias)
        return builder.op("Gemm", [highest, weight, checked], output=names.score(region.name))
    reading = reading_of(region, gate)
    wide = builder.to_float32(reading.value, reading.elem_type)
    if gate.pooling == "none":
        return builder.op("Add", [builder.op("MatMul", [wide, weight]), bias], output=names.score(region.name))
    return builder.op("Gemm", [pooled(builder, reading, gate, wide), weight, bias], output=names.score(region.name))


def weights_of(gate: Gate) -> tuple[Array, Array]:
    """What gives a gate's score and its negative: float32 [C, 2] and [2]."""
    column = gate.weight.reshape(-1, 1)
    return np.concatenate([column, -column], axis=1), np.array([gate.bias, -gate.bias], np.float32)


def _highest(builder: Builder, region: Region, count: int, bias: str) -> tuple[str, str]:
    """The highest class scores of the first look, float32 [batch, count], and the bias, which is NaN where any is odd.

    A TopK may lose a NaN; a product with zeros keeps it, and makes one of every infinity.
    """
    scores = builder.to_float32(names.first_look(region.name), region.elem_type)
    highest = builder.op("TopK", [scores, builder.constant([count], np.int64)], unread=1, axis=1)
    zeros = builder.constant(np.zeros((region.channels, 2)))
    return highest, builder.op("Gemm", [scores, zeros, bias])


def pooled(builder: Builder, reading: Reading, gate: Gate, value: str) -> str:
    """A value averaged over all axes but batch and features: float32 [batch, C]; NaN in any token gives NaN."""
    if gate.mask:
        mean = builder.op("MatMul", [names.mask(gate.mask), value])
        return builder.op("Reshape", [mean, builder.constant([0, gate.weight.size], np.int64)])
    axes = [axis for axis in range(1, len(reading.dims)) if axis != reading.channel_axis]
    return builder.reduce("ReduceMean", value, axes) if axes else value
