"""Bypasses do without the test for NaN behind softmax."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from skipc.passes.nan_guard import without_nan_guards
from skipc.runtime.session import open_session
from tests.gated import Array

Nodes = list[onnx.NodeProto]
CONSTANTS = {"zero": np.zeros(1, np.float32), "zeros": np.zeros(5, np.float32)}


def attention(mask: str = "mask", filling: str = "zero", tested: str = "chances") -> Nodes:
    """What exporters of PyTorch's scaled dot product attention write."""
    return [
        helper.make_node("MatMul", ["q", "k"], ["scores"]),
        helper.make_node("Neg", ["mask"], ["own-mask"]),
        helper.make_node("Add", ["scores", mask], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["chances"], axis=-1),
        helper.make_node("IsNaN", [tested], ["bad"]),
        helper.make_node("Where", ["bad", filling, "chances"], ["safe"]),
        helper.make_node("MatMul", ["safe", "v"], ["mixed"]),
    ]


def outcome(nodes: Nodes, added: list[onnx.TensorProto], feeds: dict[str, Array]) -> Array:
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape) for name, array in feeds.items()]
    constants = [onnx.numpy_helper.from_array(array, name) for name, array in CONSTANTS.items()]
    result = helper.make_tensor_value_info("mixed", TensorProto.FLOAT, [4, 4])
    graph = helper.make_graph(nodes, "attention", inputs, [result], [*constants, *added])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return open_session(model.SerializeToString()).run(feeds, ["mixed"])["mixed"]


def feeds(mask: Array) -> dict[str, Array]:
    random = np.random.default_rng(0)
    made = {name: random.standard_normal((4, 4)).astype(np.float32) for name in "qkv"}
    return {**made, "mask": mask.astype(np.float32)}


def test_the_same_comes_out_wherever_there_is_a_key_to_see() -> None:
    mask = np.triu(np.full((4, 4), -np.inf), 1)
    mask[2] = -np.inf
    plain = outcome(attention(), [], feeds(mask))
    nodes, added = without_nan_guards(attention(), CONSTANTS, "prefix")
    assert [node.op_type for node in nodes] == ["MatMul", "Neg", "Max", "Add", "Softmax", "MatMul"]
    assert [item.name for item in added] == ["prefix/lowest"]
    found = outcome(nodes, added, feeds(mask))
    np.testing.assert_array_equal(found[[0, 1, 3]], plain[[0, 1, 3]])
    np.testing.assert_array_equal(plain[2], 0.0)
    np.testing.assert_allclose(found[2], feeds(mask)["v"].mean(axis=0), rtol=1e-5)


def test_two_of_them_share_what_is_lowest() -> None:
    second = attention()
    for node in second:
        node.input[:] = [name if name in ("q", "k", "v", "mask", "zero") else f"{name}-2" for name in node.input]
        node.output[:] = [f"{name}-2" for name in node.output]
    nodes, added = without_nan_guards([*attention(), *second], CONSTANTS, "prefix")
    assert sum(node.op_type == "Max" for node in nodes) == 2
    assert len(added) == 1


@pytest.mark.parametrize(
    "nodes",
    [
        attention(mask="own-mask"),
        attention(filling="zeros"),
        attention(filling="v"),
        attention(tested="masked"),
        [node for node in attention() if node.op_type != "Softmax"],
        [node for node in attention() if node.op_type != "Add"],
    ],
    ids=["own mask", "filled with several", "filled with what is computed", "another value", "no softmax", "no mask"],
)
def test_others_stay(nodes: Nodes) -> None:
    before = [node.SerializeToString() for node in nodes]
    found, added = without_nan_guards(nodes, CONSTANTS, "prefix")
    assert [node.SerializeToString() for node in found] == before
    assert added == []
