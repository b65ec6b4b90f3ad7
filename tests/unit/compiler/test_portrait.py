"""What the report shows beside the result, on small networks: gates beside an oracle, opponents, races."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from skipc.compiler.data import Batch
from skipc.compiler.opponents import _quantized
from skipc.compiler.portrait import quality
from skipc.compiler.prices import memory_at_load, race
from skipc.runtime.session import open_session
from tests.gated import block, instrumented, surveyed
from tests.graphs import mlp

LOSSES = np.array([0.0, 0.1, 0.2, 0.3])


def test_a_perfect_gate_is_the_oracle() -> None:
    found = quality("b", 0.5, np.log(LOSSES + 1e-4).astype(np.float32), LOSSES, 1.0)
    assert found.share == 0.5
    assert found.chosen == found.oracle == pytest.approx(0.025)
    assert found.by_chance == pytest.approx(0.075)


def test_a_gate_that_is_wrong_is_worse_than_chance() -> None:
    found = quality("b", 0.25, -LOSSES.astype(np.float32), LOSSES, -1.0)
    np.testing.assert_allclose([found.chosen, found.by_chance, found.oracle], [0.075, 0.0375, 0.0])


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_gate_that_is_never_or_always_open_is_judged_at_a_half(share: float) -> None:
    assert quality("b", share, LOSSES.astype(np.float32), LOSSES, 1.0).share == 0.5


def test_a_race_compares_all_with_the_first() -> None:
    network = mlp()
    session = open_session(network.model.SerializeToString())
    items = [Batch(network.feeds(batch=1, seed=seed), (seed,), None) for seed in range(3)]
    found = race({"original": session, "same": session}, items)
    assert found["original"].speedup is None
    again = found["same"].speedup
    assert again is not None
    assert again.low <= again.median <= again.high
    assert all(0 < item.median <= item.p95 <= item.p99 for item in found.values())


def test_what_loading_takes_is_measured_in_a_process_of_its_own() -> None:
    small, large = (_weighing(mib) for mib in (1, 64))
    found = [memory_at_load(data) for data in (small, large)]
    assert found[0] is not None
    assert found[1] is not None
    assert found[1].peak - found[0].peak > 32
    assert memory_at_load(b"no model") is None


def _weighing(mib: int) -> bytes:
    weight = onnx.numpy_helper.from_array(np.zeros((256, mib << 10), np.float32), "w")
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, None]) for name in ("x", "y")]
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = onnx.helper.make_graph([node], "g", value[:1], value[1:], [weight])
    opset = onnx.helper.make_opsetid("", 21)
    data: bytes = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString()
    return data


def test_the_quantizer_makes_weights_int8_or_says_why_not() -> None:
    model, reason = _quantized(mlp().model, "QInt8")
    assert reason == ""
    assert model is not None
    assert any(item.data_type == onnx.TensorProto.INT8 for item in model.graph.initializer)
    broken, reason = _quantized(mlp().model, "QInt7")
    assert broken is None
    assert "QInt7" in reason


def test_the_branches_of_a_compiled_model_are_quantized_too() -> None:
    found = surveyed(mlp())
    gated = instrumented(found.model, [block(region) for region in found.survey.blocks])
    model, reason = _quantized(gated, "QInt8")
    assert reason == ""
    assert model is not None
    branches = [item.g for node in model.graph.node if node.op_type == "If" for item in node.attribute]
    assert branches
    assert all("MatMul" not in {node.op_type for node in branch.node} for branch in branches)
    open_session(model.SerializeToString())
