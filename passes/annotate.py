"""Tell in the graph itself what each gate is: viewers show a node's metadata beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from skipc.passes.base import copied
from skipc.runtime import names
from skipc.runtime.plan import ALWAYS, NEVER, Block, Plan


@dataclass(frozen=True)
class AnnotateGates:
    """Write region, bypass, score and thresholds into the metadata of every `If` that stands for a region."""

    plan: Plan

    def apply(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return the annotated copy."""
        model = copied(model)
        nodes = {node.name: node for node in model.graph.node}
        for gate, block in enumerate(self.plan.blocks):
            limits = [row[gate] for row in self.plan.thresholds]
            for key, value in _annotations(block, limits).items():
                nodes[names.block(block.region.name)].metadata_props.add(key=key, value=value)
        return model


def _annotations(block: Block, limits: list[float]) -> dict[str, str]:
    region, gate = block.region, block.gate
    gated = gate.pooling != "constant"
    return {
        "skipc.region": f"{region.name}, a {region.kind} region of {len(region.nodes)} nodes from {region.entry}",
        "skipc.bypass": block.bypass.kind,
        "skipc.score": names.score(region.name) if gated else "the same for every input",
        "skipc.thresholds": ", ".join(f"level {level}: {_limit(limit)}" for level, limit in enumerate(limits)),
    }


def _limit(limit: float) -> str:
    return f"{limit:.4g}" if np.isfinite(limit) else ALWAYS if limit > 0 else NEVER
