"""Which nodes carry weights, and how many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from skipc.passes.candidate import ValueType
from skipc.passes.flow import Flow, NodeSet, members
from skipc.runtime.plan import Dim


@dataclass(frozen=True)
class Weights:
    """The constants of a graph as weights.

    Attributes:
        flow: of the graph.
        types: of its values; those computed from constants alone included.
        shapes: of its initializers.
    """

    flow: Flow
    types: Mapping[str, ValueType]
    shapes: Mapping[str, tuple[int, ...]]

    def any_in(self, nodes: NodeSet) -> bool:
        """Whether a node of the set reads a matrix or a kernel."""
        return any(self.is_heavy(i) for i in members(nodes))

    def is_heavy(self, node: int) -> bool:
        """Whether a node reads a constant that spreads over two axes or more: a matrix or a kernel, not a scale."""
        return any(sum(extent != 1 for extent in self._dims(name)) >= 2 for name in self._constants(node))

    def count(self, nodes: NodeSet) -> int:
        """Elements of all constants that the nodes read, each counted once."""
        read = {name for i in members(nodes) for name in self._constants(i)}
        return sum(prod(extent for extent in self._dims(name) if isinstance(extent, int)) for name in read)

    def _constants(self, node: int) -> tuple[str, ...]:
        return tuple(name for name in self.flow.inputs[node] if self.flow.is_constant(name))

    def _dims(self, name: str) -> tuple[Dim, ...]:
        if name in self.shapes:
            return self.shapes[name]
        known = self.types.get(name)
        return known.dims if known else ()
