"""Products in 8 bits: exactly, and as this machine's processor computes them."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from skipc.runtime.session import open_session
from tests.gated import Array, Arrays

LEVELS = 64


@cache
def saturates() -> bool:
    """Whether ONNX Runtime's sums of products of unsigned by signed bytes overflow 16 bits and are cut off.

    On x86 processors without VNNI it adds pairs of them in 16 bits; its documentation of quantization advises to use
    seven bits for the weights there.
    """
    value = helper.make_tensor_value_info("x", TensorProto.UINT8, None)
    weight = helper.make_tensor("w", TensorProto.INT8, [LEVELS, LEVELS], [127] * LEVELS**2)
    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    result = helper.make_tensor_value_info("y", TensorProto.INT32, None)
    graph = helper.make_graph([node], "one", [value], [result], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    found = open_session(model.SerializeToString()).run({"x": np.full((LEVELS, LEVELS), 255, np.uint8)})["y"]
    return bool((found != 255 * 127 * LEVELS).any())


def exactly(model: onnx.ModelProto, feeds: Arrays) -> dict[str, Array]:
    """Run a model by onnx.reference, whose products are exact on every processor."""
    outputs = [item.name for item in model.graph.output]
    return dict(zip(outputs, ReferenceEvaluator(model).run(outputs, dict(feeds)), strict=True))
