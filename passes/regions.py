"""Find the regions of a graph: closed parts with one entry and one exit of the same type, around a residual path.

The search goes by structure, not by operator names (`search.py`); among regions inside one another `nesting.py`
chooses; here they are named. Runs of neighbouring regions form layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

import onnx

from skipc.passes.candidate import Candidate, Rejection, ValueType
from skipc.passes.flow import Flow, NodeSet, members, node_set
from skipc.passes.nesting import choose
from skipc.passes.operators import ATTENTION_OPS, CONTRACTION_OPS, CONVOLUTION_OPS, PRODUCT_OPS
from skipc.passes.search import Search
from skipc.passes.weights import Weights
from skipc.runtime.plan import Region


@dataclass(frozen=True)
class Survey:
    """What a graph offers.

    Attributes:
        blocks: regions of which none overlaps another.
        layers: runs of them.
        rejected: the refusals.
        nodes: number of nodes in the graph.
        parameters: number of weights that each region reads, by its name; under the empty name those of the graph.
    """

    blocks: tuple[Region, ...]
    layers: tuple[Region, ...]
    rejected: tuple[Rejection, ...]
    nodes: int = 0
    parameters: Mapping[str, int] = field(default_factory=dict)

    @property
    def regions(self) -> tuple[Region, ...]:
        """Blocks and layers together."""
        return self.blocks + self.layers


def find_regions(model: onnx.ModelProto, types: Mapping[str, ValueType]) -> Survey:
    """Find the regions of a normalised model.

    Args:
        model: normalised, so that every node has a unique name and the graph is sorted.
        types: type of every value that may be an entry or an exit; a value that is not in it bounds no region.
    """
    flow = Flow.of(model.graph)
    shapes = {item.name: tuple(item.dims) for item in model.graph.initializer}
    search = Search(flow, types, Weights(flow, types, shapes))
    outcomes = [search.at(node) for node in members(flow.live & flow.useful)]
    choice = choose(search, [item for item in outcomes if isinstance(item, Candidate)])
    refused = (*(item for item in outcomes if isinstance(item, Rejection)), *choice.refused)
    position = {node.name: i for i, node in enumerate(flow.nodes)}
    blocks = _named(search, choice.kept)
    layers = _layers(blocks)
    inside = {item.name: node_set(position[name] for name in item.nodes) for item in (*blocks, *layers)}
    inside[""] = node_set(range(len(flow.nodes)))
    return Survey(
        blocks,
        layers,
        tuple(sorted(refused, key=lambda item: position[item.node])),
        len(flow.nodes),
        {name: search.weights.count(nodes) for name, nodes in inside.items()},
    )


def _kind(search: Search, nodes: NodeSet) -> str:
    op_types = frozenset(search.flow.nodes[i].op_type for i in members(nodes))
    contractions = [i for i in members(nodes) if search.flow.nodes[i].op_type in CONTRACTION_OPS]
    if op_types & ATTENTION_OPS or sum(len(search.flow.data_inputs(i)) > 1 for i in contractions) > 1:
        return "attention"
    if op_types & CONVOLUTION_OPS:
        return "convolution"
    products = [i for i in members(nodes) if search.flow.nodes[i].op_type in PRODUCT_OPS and search.weights.is_heavy(i)]
    return "feed-forward" if len(products) > 1 else "residual"


def _named(search: Search, found: Sequence[Candidate]) -> tuple[Region, ...]:
    counters: dict[str, Iterator[int]] = {}
    named = []
    for item in sorted(found, key=lambda item: search.flow.producer[item.merge]):
        own_type = search.types[item.entry]
        kind = _kind(search, item.nodes & ~item.dead)
        number = next(counters.setdefault(kind, count()))
        named.append(
            Region(
                name=f"{kind}.{number}",
                kind=kind,
                entry=item.entry,
                merge=item.merge,
                exit=item.exit,
                nodes=_names(search.flow, item.nodes),
                tail=_names(search.flow, item.tail),
                elem_type=own_type.elem_type,
                dims=own_type.dims,
                channel_axis=search.channel_axis(item),
            )
        )
    return tuple(named)


def _names(flow: Flow, nodes: NodeSet) -> tuple[str, ...]:
    """Names of the nodes in a node set, in graph order."""
    return tuple(flow.nodes[i].name for i in members(nodes))


def _layers(blocks: Sequence[Region]) -> tuple[Region, ...]:
    """Each attention with the blocks behind it up to the next attention, where exit and entry coincide."""
    groups: list[list[Region]] = []
    for block in blocks:
        if block.kind == "attention" and not (groups and _only_attention(groups[-1]) and _follows(groups[-1], block)):
            groups.append([block])
        elif groups and _follows(groups[-1], block):
            groups[-1].append(block)
    whole = [group for group in groups if not _only_attention(group)]
    return tuple(_joined(f"layer.{number}", group) for number, group in enumerate(whole))


def _only_attention(group: Sequence[Region]) -> bool:
    return all(block.kind == "attention" for block in group)


def _follows(group: Sequence[Region], block: Region) -> bool:
    return group[-1].exit == block.entry


def _joined(name: str, group: Sequence[Region]) -> Region:
    last = group[-1]
    return replace(
        last,
        name=name,
        kind="layer",
        entry=group[0].entry,
        nodes=tuple(node for block in group for node in block.nodes),
    )
