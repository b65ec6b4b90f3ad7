"""Products with scalars are the same without the axis that a single seed lies along."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ad
import pytest

from skipc.passes.base import run_passes
from skipc.passes.one_seed import OneSeed
from tests.gated import run
from tests.graphs import OPSETS, Net, Network


def scaled(opset: int, shape: tuple[int, ...]) -> Network:
    """A product and a quotient with a scalar, and a product with another value."""
    net = Net(opset)
    value = net.node("Div", "x", net.constant(np.full(shape, 1.7, np.float32)))
    value = net.node("Mul", value, net.constant(np.full(shape, 0.3, np.float32)))
    net.node("Mul", net.node("Tanh", value), value, output="y")
    return net.network([net.tensor("x", 2, 4)], [net.tensor("y", 2, 4)])


@pytest.mark.parametrize("opset", [OPSETS[0], OPSETS[-1]])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_derivatives_stay_the_same(opset: int, shape: tuple[int, ...]) -> None:
    network = scaled(opset, shape)
    typed = onnx.shape_inference.infer_shapes(network.model)
    reverse = onnx_ad.reverse(typed, inputs=["x"], outputs=["y"], layout="onnx")
    alone = run_passes(reverse, [OneSeed()])
    before, after = ([node.op_type for node in model.graph.node].count("Squeeze") for model in (reverse, alone))
    assert after - before == 2
    feeds = {**network.feeds(), reverse.graph.input[-1].name: np.ones((2, 4, 1), np.float32)}
    name = reverse.graph.output[-1].name
    np.testing.assert_array_equal(run(alone, feeds)[name], run(reverse, feeds)[name])
