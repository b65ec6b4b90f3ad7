"""Gate policies: how many gates there are, and from which value each of them reads its answer.

On CUDA an `If` waits for its condition to reach the host. A gate that reads an earlier value than its own region's
entry is answered earlier, and the wait can overlap with the regions between; one gate for several regions waits once
(neither is measured on a GPU yet).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from skipc.passes.flow import Flow, node_set, subgraphs
from skipc.passes.gate import reading_of
from skipc.passes.operators import CONVOLUTION_OPS
from skipc.runtime.plan import ORIGINAL, Block, Bypass, Dim, Gate, Part, Region

AHEAD = 1
"""Regions by which a gate looks ahead; the entries of neighbouring regions are alike."""

RUN = 4
"""Neighbouring regions that one gate decides for at most, where they are among the first or need not be steady: what
the first read tells little of what the others will make of it. Behind them one answer does for all neighbours."""

POLICIES = ("block", "ahead", "early", "merged")
"""Each gate reads its own region's entry value, the one of the gated block before, or the first block's; or runs of
neighbouring regions have one gate, which reads the entry of the first."""


def with_policy(
    blocks: Sequence[Block],
    policy: str,
    flow: Flow,
    steady: Collection[str] | None = None,
    between: Collection[Region] = (),
) -> tuple[Block, ...]:
    """The blocks with gates that read what the policy says.

    Gates that average nothing (of tokens, of a second look, constant) stay as they are; so does a gate where the
    earlier value has other rows. A gate that reads another value has a read-out of zeros, to be fitted anew.

    Args:
        blocks: in graph order.
        policy: one of `POLICIES`.
        flow: of the normalised model.
        steady: names of the regions that may share a gate, any number of them behind the first `RUN`; None for all of
            them, no more than `RUN` each.
        between: regions that may run as they are between others that share a gate, one behind the other.
    """
    if policy == "block":
        return tuple(blocks)
    if policy == "merged":
        return _merged(blocks, flow, steady, {region.entry: region for region in between})
    back = {"ahead": AHEAD, "early": len(blocks)}[policy]
    return tuple(_reading(block, blocks[max(0, number - back)].region) for number, block in enumerate(blocks))


def _reading(block: Block, source: Region) -> Block:
    gate, region = block.gate, block.region
    if source.entry == region.entry or not _may_read(gate, region.dims, source.dims):
        return block
    reading = reading_of(source, replace(gate, reading=None))
    weight = np.zeros(source.channels, np.float32)
    return replace(block, gate=replace(gate, weight=weight, bias=0.0, floor=-np.inf, reading=reading))


def _may_read(gate: Gate, own: Sequence[Dim], earlier: Sequence[Dim]) -> bool:
    """Whether an earlier value has a row for each row of the region, and its mask's tokens where there is one."""
    if gate.pooling != "mean":
        return False
    return own[:2] == earlier[:2] and len(own) == len(earlier) if gate.mask else own[:1] == earlier[:1]


def _merged(
    blocks: Sequence[Block], flow: Flow, steady: Collection[str] | None, between: Mapping[str, Region]
) -> tuple[Block, ...]:
    position = {node.name: i for i, node in enumerate(flow.nodes)}
    may_share = {block.region.name for block in blocks} if steady is None else set(steady)
    runs: list[list[Block]] = []
    for number, block in enumerate(blocks):
        before = runs[-1] if runs else []
        own = [each for each in before if each.bypass.kind != ORIGINAL]
        deep = steady is not None and number - len(own) >= RUN
        able = (deep or len(own) < RUN) and {block.region.name, *(each.region.name for each in own)} <= may_share
        bridge = _bridge(before[-1], block, flow, position, between) if before and able else None
        if bridge is None:
            runs.append([block])
        else:
            before += [*bridge, block]
    return tuple(joined(run) if len(run) > 1 else run[0] for run in runs)


def _bridge(
    last: Block, block: Block, flow: Flow, position: dict[str, int], between: Mapping[str, Region]
) -> list[Block] | None:
    """The regions that run as they are between two blocks that can share a gate; None where they cannot."""
    bridge: list[Block] = []
    while not _joins(last, block, flow, position):
        region = between.get(last.region.exit)
        if region is None or not _works_twice(flow, position, region):
            return None
        gap = replace(last, region=region, bypass=Bypass(ORIGINAL))
        if not _joins(last, gap, flow, position):
            return None
        bridge.append(gap)
        last = gap
    return bridge


def _works_twice(flow: Flow, position: dict[str, int], region: Region) -> bool:
    """Whether a copy of a region may run in another branch.

    Not where weights work well, or at all, in one branch only, nor with graphs of its own, in which nothing is renamed.
    """
    nodes = [flow.nodes[position[name]] for name in region.nodes]
    tied = CONVOLUTION_OPS | {"DequantizeLinear"}
    return not any(node.op_type in tied or list(subgraphs(node)) for node in nodes)


def _joins(last: Block, block: Block, flow: Flow, position: dict[str, int]) -> bool:
    """Whether a block can share the gate of the one before: nothing lies between, and nothing else reads its entry."""
    gate = block.gate
    if last.region.exit != block.region.entry or gate.pooling != "mean" or last.gate.pooling != "mean":
        return False
    if (gate.granularity, gate.mask) != (last.gate.granularity, last.gate.mask):
        return False
    # Nodes that nobody uses count too: they stay where they are.
    nodes = node_set(position[name] for name in block.region.nodes)
    between = last.region.exit
    return between not in flow.graph_outputs and not flow.consumers[between] & ~nodes


def joined(run: Sequence[Block]) -> Block:
    """One block for several, each of which reads what the one before writes, with the gate of the first."""
    regions = [block.region for block in run]
    first, last = regions[0], regions[-1]
    exits = {region.exit for region in regions}
    region = Region(
        name=f"{first.name}..{last.name}",
        kind="layer",
        entry=first.entry,
        merge=last.merge,
        exit=last.exit,
        nodes=tuple(name for region in regions for name in region.nodes),
        tail=last.tail,
        elem_type=first.elem_type,
        dims=first.dims,
        channel_axis=first.channel_axis,
        sides=tuple(dict.fromkeys(side for region in regions for side in region.sides if side not in exits)),
    )
    parts = tuple(Part(block.region, block.bypass) for block in run)
    return replace(run[0], region=region, bypass=Bypass("chain", parts=parts))
