"""What is known of the values of a graph and of its branches while padding is taken out of it (`padding.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import onnx

from skipc.passes.builder import Fragment


@dataclass(frozen=True)
class Space:
    """Real tokens side by side, and the way back.

    Attributes:
        keep: bool [batch, sequence]: true for real tokens.
        index: their positions among all tokens, int64 [tokens].
        inverse: for each of all tokens its place among the real ones, int64 [batch, sequence]; 0 at padding.
    """

    keep: str
    index: str
    inverse: str


@dataclass
class Scope:
    """What is known of the values of one graph, those around it included.

    Attributes:
        graph: rewritten.
        parent: the scope around it.
        space: of values that have a row for each token here; None where none has.
        chosen: places in the space around this one of the tokens that this one holds; empty where both are the same.
        nodes: of the graph, as rewritten so far.
        home: values written here whose tokens lie side by side, with their space.
        written: all values written here.
        plain: by such a value, the same with padding.
        packed: by a value with padding and a space's index, the same without.
        ranks: of constants; None where it is not known.
        scales: values that are one number for all tokens, or one for each feature: of dynamic quantization.
    """

    graph: onnx.GraphProto
    parent: Scope | None
    space: Space | None
    chosen: str = ""
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    home: dict[str, Space] = field(default_factory=dict)
    written: set[str] = field(default_factory=set)
    plain: dict[str, str] = field(default_factory=dict)
    packed: dict[tuple[str, str], str] = field(default_factory=dict)
    ranks: dict[str, int | None] = field(default_factory=dict)
    scales: set[str] = field(default_factory=set)

    @property
    def branch(self) -> str:
        """Name of the result of a branch; empty outside of branches."""
        return self.graph.output[0].name if self.parent else ""

    def chain(self) -> Iterator[Scope]:
        """This scope and those around it."""
        scope: Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.parent

    def space_of(self, name: str) -> Space | None:
        """The space of a value whose tokens lie side by side; None for every other."""
        return next((scope.home[name] for scope in self.chain() if name in scope.home), None)

    def owner(self, name: str) -> Scope:
        """Where a value is written; the outermost scope for inputs."""
        *inner, outermost = self.chain()
        return next((scope for scope in inner if name in scope.written), outermost)

    def rank(self, name: str) -> int | None:
        """Rank of a constant; None for every other value."""
        return next((scope.ranks[name] for scope in self.chain() if name in scope.ranks), None)

    def is_constant(self, name: str) -> bool:
        """Whether a value is the same for every input."""
        return any(name in scope.ranks for scope in self.chain())

    def has_rows(self, name: str) -> bool:
        """Whether a value is neither a constant nor a scale."""
        return bool(name) and not self.is_constant(name) and not any(name in scope.scales for scope in self.chain())

    def add(self, fragment: Fragment) -> None:
        """Append new nodes."""
        self.nodes += fragment.nodes
        self.graph.initializer.extend(fragment.initializers)


def constant_rank(node: onnx.NodeProto, scope: Scope) -> int | None:
    """Rank of what a node computes from constants alone, as far as that can be told."""
    if node.op_type == "Constant":
        return len(node.attribute[0].t.dims) if node.attribute[0].name == "value" else None
    ranks = [scope.rank(name) for name in node.input if name]
    if node.op_type == "Gather" and None not in ranks:
        return sum(rank for rank in ranks if rank is not None) - 1
    if node.op_type in ("Cast", "DequantizeLinear", "Identity", "Neg", "Transpose"):
        return ranks[0]
    return None
