"""Tell in the graph itself what each gate is: viewers show a node's metadata beside it."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from skipc.passes.base import copied
from skipc.passes.shared import score_columns
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
        columns = score_columns(self.plan.blocks)
        for gate, block in enumerate(self.plan.blocks):
            value, column = columns[block.region.name]
            score = f"{value}, column {column}" if column else value
            for key, value in _annotations(block, gate, score).items():
                nodes[names.block(block.region.name)].metadata_props.add(key=key, value=value)
        return model


def _annotations(block: Block, number: int, score: str) -> dict[str, str]:
    """Nothing that another level or another certificate would change."""
    region, gated = block.region, block.gate.pooling != "constant"
    return {
        "skipc.region": f"{region.name}, a {region.kind} region of {len(region.nodes)} nodes from {region.entry}",
        "skipc.bypass": block.bypass.kind,
        "skipc.score": score if gated else "the same for every input",
        "skipc.threshold": f"column {number} of {names.THRESHOLDS}, row {names.LEVEL}",
    }
