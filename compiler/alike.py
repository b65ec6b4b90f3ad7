"""Blocks that compute the same with other weights take the same time, so they may be timed together."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import onnx

from skipc.runtime.plan import Block, Bypass

WEIGHT = 64
"""Elements from which on an initializer is a weight, and not part of computing a shape."""


def alike(blocks: Sequence[Block], model: onnx.ModelProto) -> tuple[tuple[int, ...], ...]:
    """Positions of blocks in groups of those that take the same time.

    Alike are blocks whose nodes with weights are of the same operators and extents, whose bypasses are of one kind and
    size, and whose gates decide for the same rows.

    Args:
        blocks: to compare.
        model: normalised original.
    """
    extents = {item.name: tuple(item.dims) for item in model.graph.initializer if np.prod(item.dims) >= WEIGHT}
    nodes = {node.name: node for node in model.graph.node}
    groups: dict[Hashable, list[int]] = {}
    for place, block in enumerate(blocks):
        groups.setdefault(_signature(block, nodes, extents), []).append(place)
    return tuple(map(tuple, groups.values()))


def _signature(
    block: Block, nodes: dict[str, onnx.NodeProto], extents: dict[str, tuple[int, ...]]
) -> tuple[Hashable, ...]:
    weighted = []
    for name in block.region.nodes:
        shapes = tuple(extents[value] for value in nodes[name].input if value in extents)
        if shapes:
            weighted.append((nodes[name].op_type, shapes))
    parts = tuple((part.bypass.kind, part.region.kind, _sizes(part.bypass)) for part in block.bypass.parts)
    own = _sizes(block.bypass)
    return block.region.kind, tuple(weighted), block.bypass.kind, own, parts, block.gate.granularity


def _sizes(bypass: Bypass) -> tuple[Hashable, ...]:
    return tuple(sorted((name, array.shape) for name, array in bypass.arrays.items()))
