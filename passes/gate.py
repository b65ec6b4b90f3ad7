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
    pooled = _pooled(builder, region)
    weight = builder.constant(gate.weight.reshape(-1, 1), name=f"{names.score(region.name)}/weight")
    bias = builder.constant([gate.bias], name=f"{names.score(region.name)}/bias")
    return builder.op("Gemm", [pooled, weight, bias], output=names.score(region.name))


def _pooled(builder: Builder, region: Region) -> str:
    """Entry value averaged over all axes but batch and features: float32 [batch, C]; a mean passes NaN on."""
    axes = [axis for axis in range(1, len(region.dims)) if axis != region.channel_axis]
    wide = builder.to_float32(region.entry, region.elem_type)
    return builder.reduce("ReduceMean", wide, axes) if axes else wide


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
