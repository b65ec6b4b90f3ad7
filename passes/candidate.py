"""The values of the search for regions: types of values, candidates, refusals."""

from __future__ import annotations

from dataclasses import dataclass

from skipc.passes.flow import NodeSet
from skipc.runtime.plan import Dim


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
class Candidate:
    """A region as node positions.

    Attributes:
        entry: value that comes in.
        merge: value at which the paths meet.
        exit: value that goes out.
        nodes: all that is inside.
        tail: those of them that lie behind the merge.
        dead: those of them whose result nobody uses.
    """

    entry: str
    merge: str
    exit: str
    nodes: NodeSet
    tail: NodeSet = 0
    dead: NodeSet = 0
