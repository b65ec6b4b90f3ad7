"""A region that mixes rows may not be run for some of them, and the reason says so."""

from __future__ import annotations

import pytest

from skipc.compiler.data import Batch
from skipc.compiler.independence import dependent
from tests.gated import block, deciding, surveyed
from tests.graphs import Net, Network, mlp


def mixing() -> Network:
    """A residual block that subtracts the mean over the batch before its product."""
    net = Net()
    value = net.linear("x", 6, 12)
    centred = net.node("Sub", value, net.mean(value, [0]))
    value = net.node("Add", value, net.node("Tanh", net.linear(centred, 12, 12)))
    net.node("MatMul", value, net.weight(12, 3), output="y")
    return net.network([net.tensor("x", "batch", 6)], [net.tensor("y", "batch", 3)])


@pytest.mark.parametrize(("network", "refused"), [(mixing(), True), (mlp(blocks=1), False)])
def test_rows_that_depend_on_one_another_are_told(network: Network, refused: bool) -> None:
    found = surveyed(network)
    item = deciding(block(found.survey.blocks[0]), "sample")
    batch = Batch(network.feeds(batch=4), (0, 1, 2, 3), None)
    reasons = dependent(found.model, [item], [batch])
    assert bool(reasons) == refused
    if refused:
        assert "a row changes by" in reasons[item.region.name]


def test_without_a_batch_of_several_nothing_is_proved() -> None:
    found = surveyed(mlp(blocks=1))
    item = deciding(block(found.survey.blocks[0]), "sample")
    assert "no batch of several samples" in dependent(found.model, [item], [])[item.region.name]
