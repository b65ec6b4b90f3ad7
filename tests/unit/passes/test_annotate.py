"""What a viewer shows beside a gate."""

from __future__ import annotations

from skipc.runtime import names
from tests.compiled import compiled
from tests.graphs import conv_net


def test_every_gate_tells_its_region_bypass_score_and_threshold() -> None:
    nodes = {node.name: node for node in compiled(conv_net(), "affine").graph.node if node.op_type == "If"}
    assert nodes.keys() == {names.block("convolution.0"), names.block("convolution.1")}
    found = {item.key: item.value for item in nodes[names.block("convolution.1")].metadata_props}
    assert found == {
        "skipc.region": "convolution.1, a convolution region of 5 nodes from v6",
        "skipc.bypass": "affine",
        "skipc.score": "skipc/convolution.1/score",
        "skipc.threshold": "column 1 of skipc.thresholds, row skipc.level",
    }
