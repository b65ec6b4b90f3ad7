"""Who feeds whom in a graph: an index over an ONNX graph that answers questions of reachability.

Sets of nodes are Python integers used as bit sets (bit i is node i of ``graph.node``), so that "between x and y" is
one `&` even in graphs of many thousand nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import onnx

NodeSet = int

SHAPE_OPS = frozenset({"Shape", "Size"})


def members(nodes: NodeSet) -> Iterator[int]:
    """The positions in a node set, ascending."""
    while nodes:
        low = nodes & -nodes
        yield low.bit_length() - 1
        nodes ^= low


def node_set(positions: Iterable[int]) -> NodeSet:
    """The node set that holds these positions."""
    found = 0
    for position in positions:
        found |= 1 << position
    return found


def captured(graph: onnx.GraphProto) -> frozenset[str]:
    """Values that a subgraph uses but does not define: what it captures from the scopes around it."""
    defined = {item.name for item in graph.input} | {item.name for item in graph.initializer}
    used: set[str] = set()
    for node in graph.node:
        used.update(node_inputs(node))
        defined.update(node.output)
    used.update(item.name for item in graph.output)
    return frozenset(used - defined - {""})


def node_inputs(node: onnx.NodeProto) -> tuple[str, ...]:
    """Values that a node reads, those captured by its subgraphs included; absent optional inputs left out."""
    inner = (name for graph in subgraphs(node) for name in sorted(captured(graph)))
    return tuple(dict.fromkeys(name for name in (*node.input, *inner) if name))


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs among a node's attributes."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


@dataclass(frozen=True)
class Flow:
    """The data flow of one graph. Build it with `Flow.of`; it does not follow later changes of the graph."""

    nodes: tuple[onnx.NodeProto, ...]
    inputs: tuple[tuple[str, ...], ...]
    graph_inputs: frozenset[str]
    graph_outputs: frozenset[str]

    @classmethod
    def of(cls, graph: onnx.GraphProto) -> Flow:
        """Index a topologically sorted graph."""
        initializers = {item.name for item in graph.initializer}
        return cls(
            nodes=tuple(graph.node),
            inputs=tuple(node_inputs(node) for node in graph.node),
            graph_inputs=frozenset(item.name for item in graph.input if item.name not in initializers),
            graph_outputs=frozenset(item.name for item in graph.output),
        )

    @cached_property
    def producer(self) -> dict[str, int]:
        """Position of the node that writes a value; graph inputs and initializers are not in it."""
        return {name: i for i, node in enumerate(self.nodes) for name in node.output if name}

    @cached_property
    def consumers(self) -> dict[str, NodeSet]:
        """The nodes that read a value."""
        found: dict[str, NodeSet] = {}
        for i, names in enumerate(self.inputs):
            for name in names:
                found[name] = found.get(name, 0) | (1 << i)
        return found

    @cached_property
    def live(self) -> NodeSet:
        """Nodes whose result depends on an input of the graph; all others are constants in disguise."""
        found = 0
        for i, names in enumerate(self.inputs):
            if any(self._is_live(name, found) for name in names):
                found |= 1 << i
        return found

    def _is_live(self, name: str, live: NodeSet) -> bool:
        made_by = self.producer.get(name)
        return name in self.graph_inputs if made_by is None else bool(live >> made_by & 1)

    def is_constant(self, name: str) -> bool:
        """Whether a value is the same for every input: an initializer or computed from initializers alone."""
        return not self._is_live(name, self.live)

    @cached_property
    def useful(self) -> NodeSet:
        """Nodes on which an output of the graph depends; all others are dead."""
        return self.union(self.ancestors, (self.producer[name] for name in self.graph_outputs if name in self.producer))

    def readers(self, name: str) -> NodeSet:
        """The nodes that read a value and are of use."""
        return self.consumers.get(name, 0) & self.useful

    def data_inputs(self, node: int) -> tuple[str, ...]:
        """Inputs of a node that depend on an input of the graph."""
        return tuple(name for name in self.inputs[node] if not self.is_constant(name))

    @cached_property
    def ancestors(self) -> tuple[NodeSet, ...]:
        """For each node, the nodes that it depends on, itself included."""
        found: list[NodeSet] = []
        for i, names in enumerate(self.inputs):
            made_by = (self.producer[name] for name in names if name in self.producer)
            found.append(self.union(found, made_by) | 1 << i)
        return tuple(found)

    @cached_property
    def descendants(self) -> tuple[NodeSet, ...]:
        """For each node, the nodes that depend on it, itself included."""
        found: list[NodeSet] = [0] * len(self.nodes)
        for i in reversed(range(len(self.nodes))):
            found[i] = self.union(found, self._readers(i)) | 1 << i
        return tuple(found)

    @cached_property
    def _carried(self) -> tuple[NodeSet, ...]:
        """As `descendants`, but not through nodes that read nothing but a shape."""
        found: list[NodeSet] = [0] * len(self.nodes)
        for i in reversed(range(len(self.nodes))):
            found[i] = self.union(found, self._content_readers(self._readers(i))) | 1 << i
        return tuple(found)

    def _content_readers(self, nodes: Iterable[int]) -> Iterator[int]:
        return (i for i in nodes if self.nodes[i].op_type not in SHAPE_OPS)

    def carries(self, value: str) -> NodeSet:
        """Nodes that depend on what a value holds, and not only on its shape."""
        return self.union(self._carried, self._content_readers(members(self.consumers.get(value, 0))))

    def _readers(self, node: int) -> Iterator[int]:
        for name in self.nodes[node].output:
            yield from members(self.consumers.get(name, 0))

    @staticmethod
    def union(sets: list[NodeSet] | tuple[NodeSet, ...], positions: Iterable[int]) -> NodeSet:
        """Union of the sets at these positions."""
        found = 0
        for position in positions:
            found |= sets[position]
        return found

    def reached_from(self, value: str) -> NodeSet:
        """Nodes that depend on a value."""
        return self.union(self.descendants, members(self.consumers.get(value, 0)))

    def between(self, entry: str, node: int) -> NodeSet:
        """Nodes on a path from a value to a node, that node included."""
        return self.reached_from(entry) & self.ancestors[node]

    def escaping(self, nodes: NodeSet, exit_value: str) -> tuple[str, ...]:
        """Values written inside a node set, other than its exit, that are of use outside it or leave the graph."""
        written = (name for i in members(nodes) for name in self.nodes[i].output if name and name != exit_value)
        return tuple(name for name in written if name in self.graph_outputs or self.readers(name) & ~nodes)
