"""Tell in the graph itself what each gate is: viewers show a node's metadata beside it."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from skipc.passes.base import copied
from skipc.runtime import names
from skipc.runtime.plan import Block, Plan


@dataclass(frozen=True)
class AnnotateGates:
    """Write region, bypass, score and threshold into the metadata of every `If` that stands for a region."""

    plan: Plan

    def apply(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return the annotated copy."""
        model = copied(model)
        nodes = {node.name: node for node in model.graph.node}
        for gate, block in enumerate(self.plan.blocks):
            for key, value in _annotations(block, gate).items():
                nodes[names.block(block.region.name)].metadata_props.add(key=key, value=value)
        return model


def _annotations(block: Block, number: int) -> dict[str, str]:
    """Nothing that another level or another certificate would change."""
    region, gated = block.region, block.gate.pooling != "constant"
    return {
        "skipc.region": f"{region.name}, a {region.kind} region of {len(region.nodes)} nodes from {region.entry}",
        "skipc.bypass": block.bypass.kind,
        "skipc.score": names.score(region.name) if gated else "the same for every input",
        "skipc.threshold": f"column {number} of {names.THRESHOLDS}, row {names.LEVEL}",
    }
