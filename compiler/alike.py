"""Blocks that compute the same with other weights take the same time, so their measurements may be shared."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace

import numpy as np
import onnx
from numpy.typing import NDArray

from skipc.compiler.impact import Costs
from skipc.runtime.plan import Block

WEIGHT = 64
"""Elements from which on an initializer is a weight, and not part of computing a shape."""


def evened(costs: Costs, blocks: Sequence[Block], model: onnx.ModelProto) -> Costs:
    """Costs with what blocks save, and what splitting their batches costs, averaged over blocks that are alike.

    Alike are blocks whose nodes with weights are of the same operators and extents, whose bypasses are of one kind and
    size, and whose gates decide for the same rows. What is left of a difference in their times is noise.

    Args:
        costs: measured, one of each for a block.
        blocks: in the same order.
        model: normalised original.
    """
    extents = {item.name: tuple(item.dims) for item in model.graph.initializer if np.prod(item.dims) >= WEIGHT}
    nodes = {node.name: node for node in model.graph.node}
    groups: dict[Hashable, list[int]] = {}
    for place, block in enumerate(blocks):
        groups.setdefault(_signature(block, nodes, extents), []).append(place)
    return replace(costs, saved=_shared(costs.saved, groups.values()), split=_shared(costs.split, groups.values()))


def _signature(
    block: Block, nodes: dict[str, onnx.NodeProto], extents: dict[str, tuple[int, ...]]
) -> tuple[Hashable, ...]:
    weighted = []
    for name in block.region.nodes:
        shapes = tuple(extents[value] for value in nodes[name].input if value in extents)
        if shapes:
            weighted.append((nodes[name].op_type, shapes))
    sizes = tuple(sorted((name, array.shape) for name, array in block.bypass.arrays.items()))
    parts = tuple((part.bypass.kind, part.region.kind) for part in block.bypass.parts)
    return block.region.kind, tuple(weighted), block.bypass.kind, sizes, parts, block.gate.granularity


def _shared(values: NDArray[np.float64], groups: Iterable[list[int]]) -> NDArray[np.float64]:
    shared = values.copy()
    for places in groups:
        shared[places] = values[places].mean()
    return shared
