"""How far a model with every gate shut may be from its original when ONNX Runtime optimises both.

Branches keep it from some fusions. In float32 that reorders sums and no more. In half precision every intermediate that
a fusion would have kept in float32 is rounded instead. In quantized graphs a product that is not fused is computed in
float32 instead of 8 bits, which may move a value by a quantization step.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx

FLOAT32 = 1e-5
"""A few hundred roundings of 6e-8 each."""

FLOAT16 = 5e-3
"""A few roundings of 1e-3."""

BFLOAT16 = 4e-2
"""A few roundings of 8e-3."""

QUANTIZED = 5e-2
"""A few steps of 1/255 of a value's range."""

QUANTIZERS = frozenset({"QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "MatMulNBits"})


def shut_tolerance(model: onnx.ModelProto) -> float:
    """The largest difference allowed, relative to the output's largest absolute value."""
    used = {item.data_type for item in model.graph.initializer} | set(_casts(model))
    coarse = {onnx.TensorProto.FLOAT16: FLOAT16, onnx.TensorProto.BFLOAT16: BFLOAT16}
    found = [FLOAT32, *(limit for elem_type, limit in coarse.items() if elem_type in used)]
    if any(node.op_type in QUANTIZERS for node in model.graph.node):
        found.append(QUANTIZED)
    return max(found)


def _casts(model: onnx.ModelProto) -> Iterator[int]:
    """Element types that nodes cast to or hold."""
    for node in model.graph.node:
        for item in node.attribute:
            if node.op_type == "Cast" and item.name == "to":
                yield item.i
            elif item.type == onnx.AttributeProto.TENSOR:
                yield item.t.data_type
