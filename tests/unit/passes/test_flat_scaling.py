"""Derivatives times scalars are the same over flat values, and nothing else is touched."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ad
import pytest

from skipc.passes.base import run_passes
from skipc.passes.flat_scaling import FlatScaling
from tests.gated import run
from tests.graphs import OPSETS, Net, Network

AXES_AS_INPUT = 13


def scaled(opset: int, shape: tuple[int, ...]) -> Network:
    """A product and a quotient with a scalar, one with a scalar that the model widens itself, one with a value."""
    net = Net(opset)
    value = net.node("Div", "x", net.constant(np.full(shape, 1.7, np.float32)))
    value = net.node("Mul", value, net.constant(np.full(shape, 0.3, np.float32)))
    scalar = net.constant(np.float32(0.7))
    if opset < AXES_AS_INPUT:
        widened = net.node("Unsqueeze", scalar, axes=[0])
    else:
        widened = net.node("Unsqueeze", scalar, net.constant(np.array([0], np.int64)))
    value = net.node("Mul", value, widened)
    net.node("Mul", net.node("Tanh", value), value, output="y")
    return net.network([net.tensor("x", 2, 4)], [net.tensor("y", 2, 4)])


@pytest.mark.parametrize("opset", [OPSETS[0], OPSETS[-1]])
@pytest.mark.parametrize("shape", [(), (1,)])
@pytest.mark.parametrize("seeds", [1, 3])
def test_derivatives_stay_the_same(opset: int, shape: tuple[int, ...], seeds: int) -> None:
    network = scaled(opset, shape)
    typed = onnx.shape_inference.infer_shapes(network.model)
    reverse = onnx_ad.reverse(typed, inputs=["x"], outputs=["y"], layout="onnx")
    seed, name = reverse.graph.input[-1].name, reverse.graph.output[-1].name
    flat = run_passes(reverse, [FlatScaling(seed)])
    made = {node.output[0] for node in flat.graph.node if node.output[0].startswith("skipc/flat/")}
    assert made
    values = {value for node in network.model.graph.node for value in node.output}
    before, after = ([node for node in model.graph.node if node.output[0] in values] for model in (reverse, flat))
    assert before
    assert after == before
    directions = np.random.default_rng(0).standard_normal((2, 4, seeds)).astype(np.float32)
    feeds = {**network.feeds(), seed: directions}
    np.testing.assert_array_equal(run(flat, feeds)[name], run(reverse, feeds)[name])
