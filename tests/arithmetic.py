"""What this machine's processor makes of products in 8 bits."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from onnx import TensorProto, helper

from skipc.runtime.session import open_session

LEVELS = 64


@cache
def saturates() -> bool:
    """Whether ONNX Runtime's sums of products of unsigned by signed bytes overflow 16 bits and are cut off.

    On x86 processors without VNNI it adds pairs of them in 16 bits; its documentation of quantization advises to use
    seven bits for the weights there.
    """
    values = [helper.make_tensor_value_info(name, TensorProto.UINT8, None) for name in ("x",)]
    weight = helper.make_tensor("w", TensorProto.INT8, [LEVELS, LEVELS], [127] * LEVELS**2)
    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    result = helper.make_tensor_value_info("y", TensorProto.INT32, None)
    graph = helper.make_graph([node], "one", values, [result], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    found = open_session(model.SerializeToString()).run({"x": np.full((LEVELS, LEVELS), 255, np.uint8)})["y"]
    return bool((found != 255 * 127 * LEVELS).any())


def require_exact_products() -> None:
    """Skip a test that compares with exact products where the processor does not give them."""
    if saturates():
        pytest.skip("products of bytes saturate on this processor")
