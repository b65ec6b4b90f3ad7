"""What a number format allows."""

from __future__ import annotations

import onnx
import pytest

from skipc.compiler.tolerance import BFLOAT16, FLOAT16, FLOAT32, QUANTIZED, shut_tolerance
from tests.graphs import Net, mlp


@pytest.mark.parametrize(
    ("elem_type", "expected"),
    [
        (onnx.TensorProto.FLOAT, FLOAT32),
        (onnx.TensorProto.FLOAT16, FLOAT16),
        (onnx.TensorProto.BFLOAT16, BFLOAT16),
    ],
)
def test_the_coarsest_type_decides(elem_type: int, expected: float) -> None:
    assert shut_tolerance(mlp(elem_type=elem_type).model) == expected


def test_a_cast_to_half_precision_counts() -> None:
    net = Net()
    net.node("Cast", net.node("Cast", "x", to=onnx.TensorProto.FLOAT16), to=onnx.TensorProto.FLOAT, output="y")
    network = net.network([net.tensor("x", "batch", 8)], [net.tensor("y", "batch", 8)])
    assert shut_tolerance(network.model) == FLOAT16


def test_quantized_graphs_are_allowed_a_few_steps() -> None:
    model = mlp().model
    model.graph.node.add(op_type="QuantizeLinear")
    assert shut_tolerance(model) == QUANTIZED
