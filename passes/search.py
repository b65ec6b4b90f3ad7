"""The rules by which a node closes a region, or does not.

A node at which a value x meets a function of x, and whose result has the type of x, closes a residual region; what is
between the two is its inside. Whatever follows up to the next node that carries a weight (an activation, a
normalisation) and keeps the type belongs to the region as its tail. Values inside that are needed outside (shapes,
masks, a key-value cache) are computed before the region, if enough of its weights is left. Nodes whose result nobody
uses come along with what they read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

from onnx import TensorProto

from skipc.passes.candidate import Candidate, Rejection, ValueType
from skipc.passes.flow import Flow, NodeSet, members, subgraphs
from skipc.passes.layout import channel_axis
from skipc.passes.operators import FLOAT_TYPES, MOVING_OPS
from skipc.passes.weights import Weights

MAX_TAIL = 24

LEAST_LEFT = 0.25
"""Share of a region's weights that must stay in it when what others need of it is computed outside."""


@dataclass(frozen=True)
class Search:
    """Asks one node at a time; each method asks one question about the graph."""

    flow: Flow
    types: Mapping[str, ValueType]
    weights: Weights

    def at(self, node: int) -> Candidate | Rejection | None:
        """The region that closes at a node; None where no two paths from one value meet."""
        entry = self._skipped_value(node)
        if entry is None:
            return self._added(node)
        merge = self.flow.nodes[node].output[0]
        nodes = self.flow.between(entry, node)
        if not self.weights.any_in(nodes):
            return self.rejection(node, "no-weights", "nothing between the two paths carries a weight matrix")
        if not self.weights.any_in(nodes & self.flow.carries(entry)):
            return self.rejection(node, "shape-only", "what meets the value here depends on its shape alone")
        elem_type = self.types[merge].elem_type
        if elem_type not in FLOAT_TYPES:
            name = TensorProto.DataType.Name(elem_type).lower()
            return self.rejection(node, "element-type", f"its values are {name}, and bypasses are floating-point")
        return self._closed(Candidate(entry, merge, merge, nodes))

    def _skipped_value(self, node: int) -> str | None:
        """The value x of the node's own type that reaches it both by a light path and through other nodes."""
        inputs = self.flow.data_inputs(node)
        if len(inputs) < 2 or len(self.flow.nodes[node].output) < 1:
            return None
        own_type = self.types.get(self.flow.nodes[node].output[0])
        if own_type is None or own_type.elem_type == TensorProto.BOOL or len(own_type.dims) < 2:
            return None
        for near in inputs:
            path = tuple(self._light_path(near, own_type))
            siblings = self._siblings(path)
            others = [name for name in inputs if name != near and name not in siblings]
            for value in path:
                if self.types.get(value) == own_type and self._depends(others, value):
                    return value
        return None

    def _light_path(self, value: str, own_type: ValueType) -> Iterator[str]:
        """A value and those it is made from, element by element, by nodes with one data input and no weight matrix."""
        while value in self.types and self.types[value].dims == own_type.dims:
            yield value
            made_by = self.flow.producer.get(value)
            if made_by is None or not self._is_light(made_by):
                return
            value = self.flow.data_inputs(made_by)[0]

    def _siblings(self, path: Sequence[str]) -> frozenset[str]:
        """Other results of the nodes along a path: a quantized value and its scale are one value, not two paths."""
        made_by = (self.flow.producer.get(name) for name in path)
        results = {name for node in made_by if node is not None for name in self.flow.nodes[node].output}
        return frozenset(results - set(path))

    def _is_light(self, node: int) -> bool:
        moves = self.flow.nodes[node].op_type in MOVING_OPS
        return not moves and not self.weights.is_heavy(node) and len(self.flow.data_inputs(node)) == 1

    def _depends(self, names: Sequence[str], value: str) -> bool:
        reached = self.flow.reached_from(value)
        made_by = (self.flow.producer.get(name) for name in names)
        return any(node is not None and reached >> node & 1 for node in made_by)

    def _added(self, node: int) -> Candidate | Rejection | None:
        """The region whose result a node with several results adds to the value that skips it, as optimisers fuse them.

        SkipLayerNormalization gives the sum and, normalised, what the next block reads. Such a node stays whole: the
        region ends before it, and begins at the normalised result of the one before.
        """
        inputs = [name for name in self.flow.data_inputs(node) if name in self.flow.producer]
        own_type = self.types.get(self.flow.nodes[node].output[0]) if self.flow.nodes[node].output else None
        for near, result in permutations(inputs, 2) if own_type else ():
            for entry in self._normalised(node, near):
                if self.types.get(entry) == self.types.get(result) == own_type and self._depends([result], entry):
                    return self._before(node, entry, result)
        return None

    def _normalised(self, node: int, near: str) -> Iterator[str]:
        """Values that the block which ends at a node may begin at instead of the value that skips it."""
        made_by = self.flow.producer[near]
        if len(self.flow.data_inputs(made_by)) > 1:
            yield from (name for name in self.flow.nodes[made_by].output if name and name != near)
        if sum(bool(self.flow.readers(name)) for name in self.flow.nodes[node].output) > 1:
            yield near

    def _before(self, node: int, entry: str, result: str) -> Candidate | Rejection:
        """The region between two values that ends before a node."""
        nodes = self.flow.between(entry, self.flow.producer[result])
        if not self.weights.any_in(nodes & self.flow.carries(entry)):
            return self.rejection(node, "no-weights", "nothing between the two paths carries a weight matrix")
        return self._closed(Candidate(entry, result, result, nodes))

    def _closed(self, item: Candidate) -> Candidate | Rejection:
        """The candidate without what must stay outside, with its tail and with the dead nodes that hang on it."""
        node = self.flow.producer[item.merge]
        escaping = self.flow.escaping(item.nodes, item.merge)
        hoisted = self.flow.union(self.flow.ancestors, (self.flow.producer[name] for name in escaping)) & item.nodes
        if hoisted >> node & 1:
            what = "the node at which it ends has another result that is read too; compile before fusing"
            return self._added(node) or self.rejection(node, "two-results", what)
        kept = replace(item, nodes=item.nodes & ~hoisted)
        left = self.weights.count(kept.nodes) / max(1, self.weights.count(item.nodes))
        if not self.weights.any_in(kept.nodes) or (self.weights.any_in(hoisted) and left < LEAST_LEFT):
            names = ", ".join(escaping[:3])
            what = f"values inside it are needed elsewhere ({names}), and little but computing them is left: {left:.0%}"
            return self.rejection(node, "value-escapes", f"{what} of its weights")
        if not isinstance(self.types[item.entry].dims[self.channel_axis(kept)], int):
            return self.rejection(node, "dynamic-features", "its feature axis has no fixed extent")
        return self._with_dead(self._with_tail(kept))

    def _with_dead(self, item: Candidate) -> Candidate | Rejection:
        """The candidate with all nodes that read its inside and whose result nobody uses."""
        written = (name for i in members(item.nodes) for name in self.flow.nodes[i].output if name != item.exit)
        readers = self.flow.union(self.flow.descendants, self._dead_readers(written))
        if readers & self.flow.reached_from(item.exit):
            node = self.flow.producer[item.merge]
            what = "an unused node reads its inside and its result; remove unused nodes first (onnxslim does)"
            return self.rejection(node, "unused-reader", what)
        return replace(item, nodes=item.nodes | readers, dead=readers)

    def _dead_readers(self, names: Iterator[str]) -> Iterator[int]:
        for name in names:
            yield from members(self.flow.consumers.get(name, 0) & ~self.flow.useful)

    def _with_tail(self, item: Candidate) -> Candidate:
        """Extend the exit over light nodes up to the last value of the same type through which everything flows."""
        tail, value = 0, item.merge
        best = item
        while value not in self.flow.graph_outputs and tail.bit_count() < MAX_TAIL:
            step = self.flow.readers(value) & ~tail
            grown = tail | (step & -step)
            if not step or not self._light_extension(item, grown):
                break
            tail = grown
            leaving = self._leaving(tail, item.merge)
            value = leaving[0] if leaving else value
            if len(leaving) == 1 and value != best.exit and self.types.get(value) == self.types[item.merge]:
                best = replace(item, exit=value, nodes=item.nodes | tail, tail=tail)
        return best

    def _light_extension(self, item: Candidate, tail: NodeSet) -> bool:
        inside = {item.merge} | {name for i in members(tail) for name in self.flow.nodes[i].output}
        fed = all(name in inside for i in members(tail) for name in self.flow.data_inputs(i))
        # Both branches hold the tail, under new names, and names inside a subgraph are not rewritten.
        plain = not any(tuple(subgraphs(self.flow.nodes[i])) for i in members(tail))
        return fed and plain and not self.weights.any_in(tail)

    def _leaving(self, tail: NodeSet, merge: str) -> tuple[str, ...]:
        """Values that nodes outside the tail still read, in order of the earliest such reader."""
        names = (merge, *(name for i in members(tail) for name in self.flow.nodes[i].output if name))
        readers = {name: self.flow.readers(name) & ~tail for name in names}
        left = [name for name in names if readers[name] or name in self.flow.graph_outputs]
        return tuple(sorted(left, key=lambda name: readers[name] & -readers[name]))

    def channel_axis(self, item: Candidate) -> int:
        """The axis of the entry along which its features lie."""
        return channel_axis(self.flow, self.types, item.entry, item.nodes)

    def rejection(self, node: int, rule: str, reason: str) -> Rejection:
        """A refusal of the candidate that closes at a node."""
        return Rejection(self.flow.nodes[node].name, rule, reason)
