"""Compile small networks without data: random gates and bypasses, frozen into a file as `skipc compile` would."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from skipc.compiler.build import build
from skipc.runtime.plan import Block, Plan
from tests.gated import block, surveyed
from tests.graphs import Network


def plan_for(blocks: Sequence[Block]) -> Plan:
    """Two levels: never, and always."""
    thresholds = ((-np.inf,) * len(blocks), (np.inf,) * len(blocks))
    return Plan("digest", {}, tuple(blocks), thresholds, 1, None, "top1", 1, 1, "cpu", 0, {"skipc": "0"})


def compiled(network: Network, kind: str = "linear", *, exposed: bool = False) -> onnx.ModelProto:
    """Every block of a network behind its gate.

    Args:
        network: to compile.
        kind: of all bypasses.
        exposed: whether with the optional inputs and outputs.
    """
    found = surveyed(network)
    blocks = [block(region, kind, seed) for seed, region in enumerate(found.survey.blocks)]
    return build(found.model, plan_for(blocks), decisions=exposed, level_input=exposed)
