"""A convolution after a Pad is the convolution that pads by itself."""

from __future__ import annotations

import numpy as np
import pytest

from skipc.passes.base import run_passes
from skipc.passes.pads import SplitPads
from tests.gated import run
from tests.graphs import OPSETS, Net, Network, conv_net


def strided(pads: list[int], opset: int) -> Network:
    net = Net(opset)
    value = net.conv("image", 3, 8, 3)
    value = net.node("Conv", value, net.weight(8, 8, 3, 3), kernel_shape=[3, 3], strides=[2, 2], pads=pads)
    net.node("Gemm", net.node("Flatten", value), net.weight(72, 5), net.weight(5), output="logits")
    return net.network([net.tensor("image", "batch", 3, 6, 6)], [net.tensor("logits", "batch", 5)])


@pytest.mark.parametrize("opset", [OPSETS[0], OPSETS[-1]])
@pytest.mark.parametrize("pads", [[0, 0, 1, 1], [1, 0, 0, 1], [0, 1, 1, 0]])
def test_unequal_padding_is_taken_out(pads: list[int], opset: int) -> None:
    network = strided(pads, opset)
    split = run_passes(network.model, [SplitPads()])
    assert [node.op_type for node in split.graph.node].count("Pad") == 1
    feeds = network.feeds()
    # The kernel sums the same terms, perhaps in another order: a few hundred values near 1 in float32.
    np.testing.assert_allclose(run(split, feeds)["logits"], run(network.model, feeds)["logits"], rtol=0, atol=1e-5)


def test_equal_padding_stays() -> None:
    network = conv_net()
    split = run_passes(network.model, [SplitPads()])
    assert split.SerializeToString() == network.model.SerializeToString()
