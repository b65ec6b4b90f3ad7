"""Which of several regions in one place is offered."""

from __future__ import annotations

from tests.gated import surveyed
from tests.graphs import Net, Network


def parallel(*, entangled: bool) -> Network:
    """Two regions with the same entry; entangled, an unused node reads the inside of both."""
    net = Net()
    value = net.linear("x", 8, 8)
    hidden = [net.linear(value, 8, 8) for _ in range(2)]
    merged = [net.node("Add", value, net.linear(item, 8, 8), name=f"merge_{i}") for i, item in enumerate(hidden)]
    if entangled:
        net.node("Mul", *hidden)
    net.node("Concat", *merged, axis=1, output="y")
    return net.network([net.tensor("x", "batch", 8)], [net.tensor("y", "batch", 16)])


def stacked(depth: int) -> Network:
    """A long skip around so many regions in a row."""
    net = Net()
    first = value = net.linear("x", 8, 8)
    for _ in range(depth):
        value = net.node("Add", value, net.linear(net.linear(value, 8, 8), 8, 8))
    net.node("Add", first, value, output="y", name="long")
    return net.network([net.tensor("x", "batch", 8)], [net.tensor("y", "batch", 8)])


def test_regions_side_by_side_are_both_offered() -> None:
    assert len(surveyed(parallel(entangled=False)).survey.blocks) == 2


def test_of_two_regions_that_share_a_node_the_first_is_offered() -> None:
    survey = surveyed(parallel(entangled=True)).survey
    assert ["merge_0" in item.nodes for item in survey.blocks] == [True]
    assert [(item.node, item.rule) for item in survey.rejected] == [("merge_1", "overlaps")]


def test_a_long_skip_gives_way_to_what_it_spans() -> None:
    survey = surveyed(stacked(3)).survey
    assert len(survey.blocks) == 3
    (refused,) = [item for item in survey.rejected if item.node == "long"]
    assert (refused.rule, refused.reason) == ("nested", "3 other regions lie inside it, with 100% of its weights")


def test_no_two_regions_overlap() -> None:
    blocks = surveyed(stacked(3)).survey.blocks
    inside = [name for item in blocks for name in item.nodes]
    assert len(set(inside)) == len(inside)
