"""Gate policies: from which value each of several gates reads its answer.

On CUDA an `If` waits for its condition to reach the host. A gate that reads an earlier value than its own region's
entry is answered earlier, and the wait can overlap with the regions between (not yet measured on a GPU).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from skipc.passes.gate import reading_of
from skipc.runtime.plan import Block, Dim, Gate, Region

AHEAD = 1
"""Regions by which a gate looks ahead; the entries of neighbouring regions are alike."""

POLICIES = ("block", "ahead", "early")
"""Each gate reads its own region's entry value, the one of the gated block before, or the first block's."""


def with_policy(blocks: Sequence[Block], policy: str) -> tuple[Block, ...]:
    """The blocks with gates that read what the policy says.

    Gates that average nothing (of tokens, of a second look, constant) stay as they are; so does a gate where the
    earlier value has other rows. A gate that reads another value has a read-out of zeros, to be fitted anew.

    Args:
        blocks: in graph order.
        policy: ``block`` reads the region's own entry, ``ahead`` that of the block before, ``early`` the first block's.
    """
    if policy == "block":
        return tuple(blocks)
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
