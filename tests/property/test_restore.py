"""Whatever the network: compiled and restored, it is what it was, byte for byte."""

from __future__ import annotations

from hypothesis import event, given
from hypothesis import strategies as st

from skipc.compiler.build import build
from skipc.passes.flow import Flow
from skipc.passes.policy import POLICIES, with_policy
from skipc.passes.restore import Restore
from tests.compiled import deciding, plan_for, with_sides
from tests.gated import surveyed
from tests.graphs import Network
from tests.property.random_networks import networks
from tests.property.test_gating import apart, drawn_blocks

GRANULARITIES = st.sampled_from(("batch", "sample", "token"))


@given(
    network=networks(),
    data=st.data(),
    exposed=st.booleans(),
    granularity=GRANULARITIES,
    policy=st.sampled_from(POLICIES),
)
def test_restored_networks(network: Network, data: st.DataObject, exposed: bool, granularity: str, policy: str) -> None:
    found = surveyed(network)
    plain = deciding(drawn_blocks(data, apart(with_sides(found, network).blocks)), granularity)
    blocks = with_policy(plain, policy, Flow.of(found.model.graph))
    event(f"{len(blocks)} blocks")
    if not blocks:
        return
    model = build(found.model, plan_for(blocks), decisions=exposed, level_input=exposed)
    restored = Restore().apply(model)
    assert restored.SerializeToString(deterministic=True) == network.model.SerializeToString(deterministic=True)
