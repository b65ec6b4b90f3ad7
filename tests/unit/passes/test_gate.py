"""A batch is bypassed only if each of its samples scores inside the window; whatever is no number runs in full."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from skipc.passes.base import run_passes
from skipc.passes.expose import ExposeDecisions, with_outputs
from skipc.passes.inject import InjectGates
from skipc.passes.window import InputWindow
from skipc.runtime import names
from skipc.runtime.plan import Block, Gate
from tests.gated import block, random_gate, run, surveyed
from tests.graphs import OPSETS, Network, conv_net, mlp, transformer

INF, NAN = np.inf, np.nan
Scores = NDArray[np.float32]


def exposed(network: Network, gate: Gate | None = None) -> tuple[onnx.ModelProto, Block]:
    """The network with its first region gated, decisions and scores among its outputs."""
    found = surveyed(network)
    first = block(found.survey.blocks[0])
    first = replace(first, gate=gate or first.gate)
    return run_passes(found.model, [InjectGates((first,), InputWindow()), ExposeDecisions((first,))]), first


def echo() -> onnx.ModelProto:
    """A gated network whose score is the first feature of its entry, which is the first feature of its input."""
    network = mlp(blocks=1, width=6)
    for item in network.model.graph.initializer:
        if item.name in ("w0", "w1"):
            values = np.eye(6, dtype=np.float32) if item.name == "w0" else np.zeros(6, np.float32)
            item.CopyFrom(onnx.numpy_helper.from_array(values, item.name))
    weight = np.eye(6, dtype=np.float32)[0]
    return exposed(network, Gate("mean", weight, 0.0, floor=-np.inf))[0]


ECHO = echo()


def decided(scores: list[float], threshold: float, floor: float) -> list[float]:
    """Decisions for samples with these scores."""
    x = np.zeros((len(scores), 6), np.float32)
    x[:, 0] = scores
    limits = np.array([[threshold], [-floor]], np.float32)
    found = run(ECHO, {"x": x, names.WINDOW: limits}, [names.DECISIONS])[names.DECISIONS]
    assert found.shape == (len(scores), 1)
    return [float(value) for value in found[:, 0]]


@pytest.mark.parametrize(
    ("scores", "threshold", "floor", "open_"),
    [
        ([0.5], 1.0, -INF, True),
        ([1.0], 1.0, -INF, False),
        ([1.5], 1.0, -INF, False),
        ([0.5], -INF, -INF, False),
        ([0.5], INF, -INF, True),
        ([0.5], 1.0, 0.5, False),
        ([0.5], 1.0, 0.25, True),
        ([0.5], 1.0, INF, False),
        ([0.5], NAN, -INF, False),
    ],
    ids=["below", "at", "above", "never", "always", "at the floor", "above the floor", "floor above all", "nan"],
)
def test_one_sample_is_bypassed_between_floor_and_threshold(
    scores: list[float], threshold: float, floor: float, open_: bool
) -> None:
    assert decided(scores, threshold, floor) == [float(open_)]


@pytest.mark.parametrize("odd", [1.5, NAN, INF, -INF], ids=["above", "nan", "inf", "-inf"])
@pytest.mark.parametrize("threshold", [1.0, INF])
@pytest.mark.parametrize("place", [0, 2])
def test_one_sample_outside_the_window_keeps_the_whole_batch(odd: float, threshold: float, place: int) -> None:
    if odd == 1.5 and threshold == INF:
        pytest.skip("inside the window")
    scores = [0.5, 0.25, 0.0]
    assert decided(scores, threshold, -INF) == [1.0] * 3
    scores[place] = odd
    assert decided(scores, threshold, -INF) == [0.0] * 3


@pytest.mark.parametrize("odd", [NAN, INF, -INF])
@pytest.mark.parametrize("network", [transformer(), conv_net(), mlp()], ids=["transformer", "conv", "mlp"])
def test_an_entry_that_is_no_number_runs_in_full(network: Network, odd: float) -> None:
    gated, _ = exposed(network)
    feeds = {**network.feeds(), names.WINDOW: np.full((2, 1), INF, np.float32)}
    assert run(gated, feeds, [names.DECISIONS])[names.DECISIONS].all()
    poisoned = onnx.ModelProto()
    poisoned.CopyFrom(gated)
    weight = next(item for item in poisoned.graph.initializer if item.name == "w0")
    array = onnx.numpy_helper.to_array(weight).copy()
    array[:] = odd
    weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
    assert not run(poisoned, feeds, [names.DECISIONS])[names.DECISIONS].any()


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("build", [transformer, conv_net, mlp], ids=["transformer", "conv", "mlp"])
def test_the_score_is_a_read_out_of_the_mean(build: Callable[..., Network], opset: int) -> None:
    network = build(opset=opset)
    gated, first = exposed(network)
    feeds = {**network.feeds(batch=3, length=6), names.WINDOW: np.full((2, 1), -INF, np.float32)}
    region, gate = first.region, first.gate
    found = run(with_outputs(gated, [region.entry]), feeds)
    entry = np.moveaxis(found[region.entry].astype(np.float64), region.channel_axis, -1)
    pooled = entry.reshape(3, -1, region.channels).mean(axis=1)
    expected = pooled @ gate.weight.astype(np.float64) + gate.bias
    # Sums of at most 36 x 16 float32 products near 1: 600 roundings of 6e-8 at worst.
    np.testing.assert_allclose(found[names.SCORES][:, 0], expected, rtol=0, atol=4e-5)


def test_half_precision_is_pooled_in_float32() -> None:
    network = mlp(elem_type=TensorProto.FLOAT16)
    gated, first = exposed(network)
    score = next(node for node in gated.graph.node if names.score(first.region.name) in node.output)
    casts = {node.output[0]: node for node in gated.graph.node if node.op_type == "Cast"}
    assert casts[score.input[0]].input[0] == first.region.entry
    assert casts[score.input[0]].attribute[0].i == TensorProto.FLOAT


def test_onnx_reference_decides_the_same() -> None:
    reference = ReferenceEvaluator(ECHO)
    random = np.random.default_rng(0)
    for _ in range(20):
        x = random.standard_normal((2, 6)).astype(np.float32)
        limits = np.array([[0.5], [1.0]], np.float32)
        feeds = {"x": x, names.WINDOW: limits}
        found = run(ECHO, feeds, [names.DECISIONS])[names.DECISIONS]
        expected = bool(((x[:, 0] < 0.5) & (x[:, 0] > -1.0)).all())
        (judged,) = list(reference.run([names.DECISIONS], feeds))
        assert found.tolist() == np.asarray(judged).tolist() == [[float(expected)]] * 2


def test_the_condition_is_a_scalar() -> None:
    inferred = onnx.shape_inference.infer_shapes(ECHO).graph
    (condition,) = (item for item in inferred.value_info if item.name == names.gate("feed-forward.0"))
    assert condition.type.tensor_type.elem_type == TensorProto.BOOL
    assert list(condition.type.tensor_type.shape.dim) == []


def test_a_constant_gate_follows_the_threshold_alone() -> None:
    constant = replace(random_gate(12), pooling="constant", weight=np.zeros(0, np.float32), bias=0.0)
    network = mlp()
    gated, _ = exposed(network, constant)
    for threshold, share in ((-INF, 0.0), (INF, 1.0)):
        limits = np.array([[threshold], [INF]], np.float32)
        found = run(gated, {**network.feeds(batch=3), names.WINDOW: limits})
        assert found[names.DECISIONS].tolist() == [[share]] * 3
        assert found[names.SCORES].tolist() == [[0.0]] * 3
