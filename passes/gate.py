"""Write a gate: from a region's entry value to the condition of its `If`.

score = pool(x) · w + b, float32 [batch, 1]; a sample agrees to the bypass where ``floor < score < threshold``. Both
comparisons are false for NaN, and the floor catches negative infinity, so that what calibration never saw runs in full.
"""

from __future__ import annotations

from onnx import TensorProto

from skipc.passes.builder import Builder
from skipc.runtime import names
from skipc.runtime.plan import Gate, Region


def write_score(builder: Builder, region: Region, gate: Gate) -> str:
    """Add the nodes that compute a gate's score and return its name; float32 [batch, 1]."""
    pooled = builder.to_float32(_pooled(builder, region, gate.pooling), region.elem_type)
    weight = builder.constant(gate.weight.reshape(-1, 1), name=f"{names.score(region.name)}/weight")
    bias = builder.constant([gate.bias], name=f"{names.score(region.name)}/bias")
    return builder.op("Gemm", [pooled, weight, bias], output=names.score(region.name))


def _pooled(builder: Builder, region: Region, pooling: str) -> str:
    """Entry value reduced to [batch, features]."""
    axes = [axis for axis in range(1, len(region.dims)) if axis != region.channel_axis]
    if not axes:
        return region.entry
    if pooling == "first":
        first = builder.constant(0, "int64")
        return builder.op("Gather", [region.entry, first], axis=axes[0])
    wide = builder.to_float32(region.entry, region.elem_type)
    return builder.reduce("ReduceMax" if pooling == "max" else "ReduceMean", wide, axes)


def write_condition(builder: Builder, region: Region, floor: str, threshold: str) -> tuple[str, str]:
    """Add the comparison of a score with its window.

    Returns:
        names of the per-sample agreement, float32 [batch, 1], and of the condition, a bool scalar: all samples agree.
    """
    score = names.score(region.name)
    above = builder.op("Greater", [score, floor])
    below = builder.op("Less", [score, threshold])
    agreed = builder.cast(builder.op("And", [above, below]), TensorProto.FLOAT)
    least = builder.op("ReduceMin", [agreed], keepdims=0)
    return agreed, builder.cast(least, TensorProto.BOOL, output=names.gate(region.name))
