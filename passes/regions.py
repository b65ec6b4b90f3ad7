"""Find the regions of a graph: closed parts with one entry and one exit of the same type, around a residual path.

The search goes by structure, not by operator names. A node at which a value x meets a function of x, and whose result
has the type of x, closes a residual region; what is between the two is its inside. Whatever follows up to the next
node that carries a weight (an activation, a normalisation) and keeps the type belongs to the region as its tail.
Values inside that are needed outside are recomputed before the region if that is cheap (shapes, masks); otherwise the
candidate is rejected with a reason. Runs of neighbouring regions form layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count

import onnx

from skipc.passes.flow import Flow, NodeSet, members, subgraphs
from skipc.runtime.plan import Dim, Region

ATTENTION_OPS = frozenset({"Softmax", "Attention", "MultiHeadAttention", "GroupQueryAttention", "QAttention"})
CONVOLUTION_OPS = frozenset({"Conv", "ConvTranspose", "QLinearConv", "ConvInteger", "FusedConv", "NhwcConv"})
FLOAT_TYPES = frozenset({onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16})
MAX_TAIL = 24


@dataclass(frozen=True)
class ValueType:
    """Element type and shape of a value; dims are fixed, named, or None where nothing is known."""

    elem_type: int
    dims: tuple[Dim, ...]


@dataclass(frozen=True)
class Rejection:
    """A candidate that is no region.

    Attributes:
        node: name of the node at which the paths meet.
        rule: stable, kebab-case identifier of the rule that it fails.
        reason: one sentence for a person who knows the model.
    """

    node: str
    rule: str
    reason: str


@dataclass(frozen=True)
class Survey:
    """What a graph offers: blocks (no region inside another one of them), layers made of them, and the refusals."""

    blocks: tuple[Region, ...]
    layers: tuple[Region, ...]
    rejected: tuple[Rejection, ...]

    @property
    def regions(self) -> tuple[Region, ...]:
        """Blocks and layers together."""
        return self.blocks + self.layers


@dataclass(frozen=True)
class _Candidate:
    """A region as node positions."""

    entry: str
    merge: str
    exit: str
    nodes: NodeSet
    tail: NodeSet


def find_regions(model: onnx.ModelProto, types: Mapping[str, ValueType]) -> Survey:
    """Find the regions of a normalised model.

    Args:
        model: normalised, so that every node has a unique name and the graph is sorted.
        types: type of every value that may be an entry or an exit; a value that is not in it bounds no region.
    """
    flow = Flow.of(model.graph)
    search = _Search(flow, types, {item.name: tuple(item.dims) for item in model.graph.initializer})
    found: list[_Candidate] = []
    rejected: list[Rejection] = []
    for node in members(flow.live):
        outcome = search.at(node)
        if isinstance(outcome, Rejection):
            rejected.append(outcome)
        elif outcome is not None:
            found.append(outcome)
    inner = [item for item in found if not any(_holds(item, other) for other in found)]
    outer = [item for item in found if any(_holds(item, other) for other in found)]
    rejected += [search.rejection(flow.producer[item.merge], "nested", "it holds other regions") for item in outer]
    blocks = _named(search, inner)
    return Survey(blocks, _layers(blocks), tuple(rejected))


def _holds(outer: _Candidate, inner: _Candidate) -> bool:
    return outer is not inner and inner.nodes & outer.nodes == inner.nodes


@dataclass(frozen=True)
class _Search:
    """The rules of the search; each method asks one question about the graph."""

    flow: Flow
    types: Mapping[str, ValueType]
    shapes: Mapping[str, tuple[int, ...]]

    def at(self, node: int) -> _Candidate | Rejection | None:
        """The region that closes at a node; None where no two paths from one value meet."""
        merge = self.flow.nodes[node].output[0]
        entry = self._skipped_value(node)
        if entry is None:
            return None
        nodes = self.flow.between(entry, node)
        if not self._has_weights(nodes):
            return self.rejection(node, "no-weights", "nothing between the two paths carries a weight matrix")
        return self._closed(_Candidate(entry, merge, merge, nodes, 0))

    def _skipped_value(self, node: int) -> str | None:
        """The value x of the node's own type that reaches it both by a light path and through other nodes."""
        inputs = self.flow.data_inputs(node)
        if len(inputs) < 2 or len(self.flow.nodes[node].output) < 1:
            return None
        own_type = self.types.get(self.flow.nodes[node].output[0])
        if own_type is None or own_type.elem_type not in FLOAT_TYPES or len(own_type.dims) < 2:
            return None
        for near in inputs:
            others = [name for name in inputs if name != near]
            for value in self._light_path(near):
                if self.types.get(value) == own_type and self._depends(others, value):
                    return value
        return None

    def _light_path(self, value: str) -> Iterator[str]:
        """A value and those it is made from by nodes with one data input and no weight matrix."""
        yield value
        made_by = self.flow.producer.get(value)
        while made_by is not None and not self._is_heavy(made_by) and len(self.flow.data_inputs(made_by)) == 1:
            value = self.flow.data_inputs(made_by)[0]
            yield value
            made_by = self.flow.producer.get(value)

    def _depends(self, names: Sequence[str], value: str) -> bool:
        reached = self.flow.reached_from(value)
        made_by = (self.flow.producer.get(name) for name in names)
        return any(node is not None and reached >> node & 1 for node in made_by)

    def _closed(self, item: _Candidate) -> _Candidate | Rejection:
        """The candidate without what must stay outside, and with its tail."""
        node = self.flow.producer[item.merge]
        escaping = self.flow.escaping(item.nodes, item.merge)
        hoisted = self.flow.union(self.flow.ancestors, (self.flow.producer[name] for name in escaping)) & item.nodes
        if self._has_weights(hoisted):
            names = ", ".join(escaping[:3])
            return self.rejection(node, "value-escapes", f"values inside it are needed elsewhere: {names}")
        if hoisted >> node & 1:
            return self.rejection(node, "value-escapes", "its own result is needed to compute its inside")
        kept = replace(item, nodes=item.nodes & ~hoisted)
        if not isinstance(self.types[item.entry].dims[self.channel_axis(kept)], int):
            return self.rejection(node, "dynamic-features", "its feature axis has no fixed extent")
        return self._with_tail(kept)

    def _with_tail(self, item: _Candidate) -> _Candidate:
        """Extend the exit over light nodes up to the last value of the same type through which everything flows."""
        tail, value = 0, item.merge
        best = item
        while value not in self.flow.graph_outputs and tail.bit_count() < MAX_TAIL:
            step = self.flow.consumers.get(value, 0) & ~tail
            grown = tail | (step & -step)
            if not step or not self._light_extension(item, grown):
                break
            tail = grown
            leaving = self._leaving(tail, item.merge)
            value = leaving[0] if leaving else value
            if len(leaving) == 1 and value != best.exit and self.types.get(value) == self.types[item.merge]:
                best = replace(item, exit=value, nodes=item.nodes | tail, tail=tail)
        return best

    def _light_extension(self, item: _Candidate, tail: NodeSet) -> bool:
        inside = {item.merge} | {name for i in members(tail) for name in self.flow.nodes[i].output}
        fed = all(name in inside for i in members(tail) for name in self.flow.data_inputs(i))
        # Both branches hold the tail, under new names, and names inside a subgraph are not rewritten.
        plain = not any(tuple(subgraphs(self.flow.nodes[i])) for i in members(tail))
        return fed and plain and not self._has_weights(tail)

    def _leaving(self, tail: NodeSet, merge: str) -> tuple[str, ...]:
        """Values that nodes outside the tail still read, in order of the earliest such reader."""
        names = (merge, *(name for i in members(tail) for name in self.flow.nodes[i].output if name))
        readers = {name: self.flow.consumers.get(name, 0) & ~tail for name in names}
        left = [name for name in names if readers[name] or name in self.flow.graph_outputs]
        return tuple(sorted(left, key=lambda name: readers[name] & -readers[name]))

    def _has_weights(self, nodes: NodeSet) -> bool:
        return any(self._is_heavy(i) for i in members(nodes))

    def _is_heavy(self, node: int) -> bool:
        """Whether a node reads a constant that spreads over two axes or more: a matrix or a kernel, not a scale."""
        constants = (name for name in self.flow.inputs[node] if self.flow.is_constant(name))
        return any(sum(extent != 1 for extent in self._constant_dims(name)) >= 2 for name in constants)

    def _constant_dims(self, name: str) -> tuple[Dim, ...]:
        if name in self.shapes:
            return self.shapes[name]
        known = self.types.get(name)
        return known.dims if known else ()

    def channel_axis(self, item: _Candidate) -> int:
        """Features lie behind the batch axis in convolutions (NCHW), and last everywhere else."""
        rank = len(self.types[item.entry].dims)
        return 1 if rank > 2 and self.op_types(item.nodes) & CONVOLUTION_OPS else rank - 1

    def op_types(self, nodes: NodeSet) -> frozenset[str]:
        """Operators in a node set."""
        return frozenset(self.flow.nodes[i].op_type for i in members(nodes))

    def rejection(self, node: int, rule: str, reason: str) -> Rejection:
        """A refusal of the candidate that closes at a node."""
        return Rejection(self.flow.nodes[node].name, rule, reason)

    def names(self, nodes: NodeSet) -> tuple[str, ...]:
        """Names of the nodes in a node set, in graph order."""
        return tuple(self.flow.nodes[i].name for i in members(nodes))


def _kind(op_types: frozenset[str], rank: int) -> str:
    if op_types & ATTENTION_OPS:
        return "attention"
    if op_types & CONVOLUTION_OPS:
        return "convolution"
    return "feed-forward" if rank >= 2 else "residual"


def _named(search: _Search, found: Sequence[_Candidate]) -> tuple[Region, ...]:
    counters: dict[str, Iterator[int]] = {}
    named = []
    for item in sorted(found, key=lambda item: search.flow.producer[item.merge]):
        own_type = search.types[item.entry]
        kind = _kind(search.op_types(item.nodes), len(own_type.dims))
        number = next(counters.setdefault(kind, count()))
        named.append(
            Region(
                name=f"{kind}.{number}",
                kind=kind,
                entry=item.entry,
                merge=item.merge,
                exit=item.exit,
                nodes=search.names(item.nodes),
                tail=search.names(item.tail),
                elem_type=own_type.elem_type,
                dims=own_type.dims,
                channel_axis=search.channel_axis(item),
            )
        )
    return tuple(named)


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
