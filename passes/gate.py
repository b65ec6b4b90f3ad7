"""Write a gate: from a region's entry value to the condition of its `If`.

score = mean(x) · w + b for each sample, in float32; a sample agrees to the bypass where ``floor < score < threshold``.
One comparison checks both ends: ``[score, -score] < [threshold, -floor]``. It is false for NaN, and the floor catches
negative infinity, so that what calibration never saw runs in full.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from skipc.passes.builder import Builder
from skipc.runtime import names
from skipc.runtime.plan import Gate, Region


def write_gate(builder: Builder, region: Region, gate: Gate, limits: str) -> None:
    """Add the nodes from a region's entry value to its condition.

    Args:
        builder: collects the nodes.
        region: whose entry value is read.
        gate: the read-out.
        limits: name of a value, float32 [2]: the threshold and the negated floor.
    """
    score = _constant_score(builder, region) if gate.pooling == "constant" else _score(builder, region, gate)
    agreed = builder.cast(builder.op("Less", [score, limits]), TensorProto.FLOAT)
    builder.cast(builder.op("ReduceMin", [agreed], keepdims=0), TensorProto.BOOL, output=names.gate(region.name))


def _constant_score(builder: Builder, region: Region) -> str:
    """Zero for every input: the runtime folds the whole gate away and keeps one branch."""
    return builder.constant([[0.0, 0.0]], name=names.score(region.name))


def _score(builder: Builder, region: Region, gate: Gate) -> str:
    column = gate.weight.reshape(-1, 1)
    weight = builder.constant(np.concatenate([column, -column], axis=1), name=f"{names.gate(region.name)}/weight")
    bias = builder.constant([gate.bias, -gate.bias], name=f"{names.gate(region.name)}/bias")
    return builder.op("Gemm", [_pooled(builder, region), weight, bias], output=names.score(region.name))


def _pooled(builder: Builder, region: Region) -> str:
    """Entry value averaged over all axes but batch and features: float32 [batch, C]; a mean passes NaN on."""
    axes = [axis for axis in range(1, len(region.dims)) if axis != region.channel_axis]
    wide = builder.to_float32(region.entry, region.elem_type)
    return builder.reduce("ReduceMean", wide, axes) if axes else wide
