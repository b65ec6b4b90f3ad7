"""Whatever the network: gates shut, it is the original bit for bit; gates open, it is the bypassed network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import event, given
from hypothesis import strategies as st

from skipc.passes.flow import Flow
from skipc.passes.policy import POLICIES, with_policy
from skipc.runtime import names
from skipc.runtime.plan import Block, Region
from tests.compiled import deciding, with_sides
from tests.gated import KINDS, assert_equal, assert_gated, block, instrumented, run, surveyed, window
from tests.graphs import Network
from tests.property.random_networks import networks


def apart(regions: Sequence[Region]) -> list[Region]:
    """The regions without those that overlap an earlier one."""
    kept: list[Region] = []
    for region in regions:
        if all(set(region.nodes).isdisjoint(other.nodes) for other in kept):
            kept.append(region)
    return kept


def drawn_blocks(data: st.DataObject, regions: Sequence[Region]) -> list[Block]:
    kinds = data.draw(st.lists(st.sampled_from(KINDS), min_size=len(regions), max_size=len(regions)))
    return [block(region, kind, seed) for seed, (region, kind) in enumerate(zip(regions, kinds, strict=True))]


@given(network=networks(), data=st.data())
def test_gated_networks(network: Network, data: st.DataObject) -> None:
    found = surveyed(network)
    blocks = drawn_blocks(data, apart(found.survey.blocks))
    event(f"{len(blocks)} blocks")
    if blocks:
        assert_gated(found.model, blocks, network.feeds(batch=3, length=4, seed=1))


@given(
    network=networks(),
    data=st.data(),
    policy=st.sampled_from(POLICIES[1:]),
    granularity=st.sampled_from(("batch", "sample")),
)
def test_gates_shut_or_open_do_the_same_by_every_policy(
    network: Network, data: st.DataObject, policy: str, granularity: str
) -> None:
    """Shut, the original, bit for bit; open, what gates that read their own entry do, bit for bit."""
    found = surveyed(network)
    plain = deciding(drawn_blocks(data, apart(with_sides(found, network).blocks)), granularity)
    blocks = with_policy(plain, policy, Flow.of(found.model.graph))
    event(f"{len(plain)} blocks, {len(blocks)} gates")
    if not blocks:
        return
    feeds = network.feeds(batch=3, length=4, seed=1)
    models = [(instrumented(found.model, items), len(items)) for items in (blocks, plain)]
    shut = run(models[0][0], {**feeds, names.WINDOW: window(len(blocks), -np.inf)})
    assert_equal(shut, run(found.model, feeds))
    opened, expected = (run(model, {**feeds, names.WINDOW: window(gates, np.inf)}) for model, gates in models)
    assert_equal(opened, expected)


@given(network=networks())
def test_regions_are_closed(network: Network) -> None:
    """Nothing but the exit is read outside, nothing that depends on the entry comes in from elsewhere."""
    found = surveyed(network)
    nodes = {node.name: node for node in found.model.graph.node}
    outputs = {item.name for item in found.model.graph.output}
    for region in found.survey.regions:
        inside = set(region.nodes)
        assert set(region.tail) <= inside
        written = {name for node in inside for name in nodes[node].output} - {region.exit}
        read = {name for node in nodes.keys() - inside for name in nodes[node].input}
        assert not written & (read | outputs)
        assert region.exit in {name for node in inside for name in nodes[node].output}
