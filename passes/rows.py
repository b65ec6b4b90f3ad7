"""Run a region, or its bypass, for some rows only: gather them, run it on them, scatter them over the others.

Rows are samples along axis 0, or the tokens of all samples together. A region for tokens sees them as the tokens of
one sample. All of it in operators that every runtime has: NonZero, Gather and ScatterND.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from skipc.passes.builder import Builder
from skipc.passes.candidate import ValueType
from skipc.passes.cut import renamed, result
from skipc.passes.flow import Flow
from skipc.runtime import names
from skipc.runtime.plan import Region


def side_values(flow: Flow, region: Region, types: Mapping[str, ValueType]) -> tuple[str, ...]:
    """Values other than the entry that a region reads and that have a row for each sample along axis 0.

    Args:
        flow: of the normalised model.
        region: found in it.
        types: of its values; extents of one name are equal.
    """
    batch = region.dims[0]
    position = {node.name: i for i, node in enumerate(flow.nodes)}
    inside = [position[name] for name in region.nodes]
    written = {name for i in inside for name in flow.nodes[i].output}
    read = dict.fromkeys(name for i in inside for name in flow.data_inputs(i) if name not in written)
    typed = ((name, types.get(name)) for name in read if name != region.entry)
    return tuple(name for name, known in typed if isinstance(batch, str) and known and known.dims[:1] == (batch,))


@dataclass(frozen=True)
class RowWriter:
    """Writes the branches of one region that run for some rows.

    Attributes:
        region: whose rows are told apart.
        tokens: whether they are tokens.
        opset: to write for.
        indexed: whether the positions of the rows are there already, since several gates share them.
    """

    region: Region
    tokens: bool
    opset: int
    indexed: bool = False

    def branch(
        self, name: str, nodes: Sequence[onnx.NodeProto], *, agreed: bool, base: str, prefix: str = ""
    ) -> onnx.GraphProto:
        """The branch that runs nodes for the rows that agree to the bypass, or for those that do not.

        Args:
            name: of the branch and of its result, and what the nodes write the rows' values to.
            nodes: of the region or of its bypass.
            agreed: which rows.
            base: value whose other rows are kept.
            prefix: of the names of copied nodes and of what they write; empty where they are no copies.
        """
        builder = Builder(f"{name}/take", self.opset)
        index = self._index(builder, agreed)
        taken = self._taken(builder, nodes, index, name)
        first = builder.fragment()
        new = {value: f"{prefix}/{value}" for node in nodes for value in node.output if value and prefix}
        written = {name: f"{name}/result"}
        inside = [renamed(node, {**new, **taken, **written}, prefix) for node in nodes]
        builder = Builder(f"{name}/put", self.opset)
        self._put(builder, base, index, f"{name}/result", name)
        last = builder.fragment()
        branch = helper.make_graph([*first.nodes, *inside, *last.nodes], name, [], [result(self.region, name)])
        branch.initializer.extend((*first.initializers, *last.initializers))
        return branch

    def _flat(self, builder: Builder, value: str) -> str:
        """A value with its rows along axis 0."""
        if not self.tokens:
            return value
        return builder.op("Reshape", [value, builder.constant([-1, self.region.channels], np.int64)])

    def _index(self, builder: Builder, agreed: bool) -> str:
        """Positions of the chosen rows, int64 [n]."""
        if self.indexed:
            return names.index(self.region.name, agreed=agreed)
        flat = builder.op("Reshape", [names.agreed(self.region.name), builder.constant([-1], np.int64)])
        chosen = flat if agreed else builder.op("Not", [builder.cast(flat, TensorProto.BOOL)])
        return builder.op("Reshape", [builder.op("NonZero", [chosen]), builder.constant([-1], np.int64)])

    def _taken(self, builder: Builder, nodes: Sequence[onnx.NodeProto], index: str, name: str) -> Mapping[str, str]:
        """Gather the rows of the values that the nodes read: new names by old."""
        read = {value for node in nodes for value in node.input}
        found = {value: rows_name(name, value) for value in (self.region.entry, *self.region.sides) if value in read}
        for value, gathered in found.items():
            if self.tokens:
                rows = builder.op("Gather", [self._flat(builder, value), index], axis=0)
                builder.unsqueeze(rows, 0, output=gathered)
            else:
                builder.op("Gather", [value, index], axis=0, output=gathered)
        return found

    def _put(self, builder: Builder, base: str, index: str, rows: str, output: str) -> None:
        """The base with these rows in place of its own at the index."""
        at = builder.unsqueeze(index, 1)
        if not self.tokens:
            builder.op("ScatterND", [base, at, rows], output=output)
            return
        whole = builder.op("ScatterND", [self._flat(builder, base), at, self._flat(builder, rows)])
        builder.op("Reshape", [whole, builder.op("Shape", [base])], output=output)


def rows_name(branch: str, value: str) -> str:
    """Name of a value's gathered rows in a branch."""
    return f"{branch}/rows/{value}"
