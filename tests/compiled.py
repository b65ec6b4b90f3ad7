"""Compile small networks without data: random gates and bypasses, frozen into a file as `skipc compile` would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx

from skipc.compiler.build import build
from skipc.compiler.probe import probe_types
from skipc.compiler.survey import with_rows
from skipc.passes.regions import Survey
from skipc.runtime.plan import Block, Gate, Plan, Target
from tests.gated import Surveyed, block, surveyed
from tests.graphs import Network


def plan_for(blocks: Sequence[Block], targets: tuple[Target, ...] = ()) -> Plan:
    """Two levels: never, and always."""
    thresholds = ((-np.inf,) * len(blocks), (np.inf,) * len(blocks))
    return Plan("digest", {}, tuple(blocks), thresholds, 1, None, "top1", 1, 1, "cpu", 0, {"skipc": "0"}, 0, targets)


def built(found: Surveyed, blocks: Sequence[Block]) -> onnx.ModelProto:
    """The compiled file of these blocks, the second level in force."""
    return build(found.original, plan_for(blocks, found.targets))


def deciding(blocks: Sequence[Block], granularity: str) -> list[Block]:
    """The same blocks with gates that decide by batch, by sample or, where there are tokens, by token."""
    return [replace(item, gate=_gate(item, granularity)) for item in blocks]


def _gate(item: Block, granularity: str) -> Gate:
    if granularity != "token":
        return replace(item.gate, granularity=granularity)
    has_tokens = len(item.region.dims) == 3 and item.region.channel_axis == 2
    return replace(item.gate, granularity="token", pooling="none") if has_tokens else item.gate


def with_sides(found: Surveyed, network: Network) -> Survey:
    """The survey with what it takes to run regions for some rows only."""
    feeds = [network.feeds(batch=1, length=4), network.feeds(batch=2, length=5)]
    return with_rows(found.survey, found.model, probe_types(found.model, feeds))


def compiled(
    network: Network, kind: str = "linear", *, exposed: bool = False, granularity: str = "batch"
) -> onnx.ModelProto:
    """Every block of a network behind its gate.

    Args:
        network: to compile.
        kind: of all bypasses.
        exposed: whether with the optional inputs and outputs.
        granularity: of all gates that can decide so.
    """
    found = surveyed(network)
    regions = with_sides(found, network).blocks
    blocks = deciding([block(region, kind, seed) for seed, region in enumerate(regions)], granularity)
    return build(found.original, plan_for(blocks, found.targets), decisions=exposed, level_input=exposed)
