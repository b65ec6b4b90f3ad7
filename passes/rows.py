"""Run a region for some rows only: gather the rows that need it, run it on them, scatter them over the others.

Rows are samples along axis 0, or the tokens of all samples together. A region for tokens sees them as the tokens of
one sample. All of it in operators that every runtime has: NonZero, Gather and ScatterND.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from skipc.passes.builder import Builder, Fragment
from skipc.passes.cut import renamed, result
from skipc.passes.flow import Flow
from skipc.passes.regions import ValueType
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
    """Writes the branch of one region.

    Attributes:
        region: whose rows are told apart.
        tokens: whether they are tokens.
        opset: to write for.
    """

    region: Region
    tokens: bool
    opset: int

    @property
    def prefix(self) -> str:
        """Of all names in the branch."""
        return names.rows(self.region.name)

    def branch(
        self, full: Sequence[onnx.NodeProto], bypass: Fragment, kernels: Sequence[onnx.TensorProto], *, skip: bool
    ) -> onnx.GraphProto:
        """The branch for some rows.

        Args:
            full: the region's nodes, writing `names.full`.
            bypass: nodes writing `names.bypass`, with those initializers that belong beside them.
            kernels: initializers that belong beside the region's nodes.
            skip: whether the bypass is the entry value itself.
        """
        region = self.region
        taking = Builder(f"{self.prefix}/take", self.opset)
        flat = taking.op("Reshape", [names.agreed(region.name), taking.constant([-1], np.int64)])
        base = self._flat(taking, region.entry)
        refused = taking.op("Not", [taking.cast(flat, TensorProto.BOOL)])
        parts = [("full", refused, names.full(region.name), tuple(full))]
        if not skip:
            parts.append(("bypass", flat, names.bypass(region.name), bypass.nodes))
        putting = Builder(f"{self.prefix}/put", self.opset)
        nodes: list[onnx.NodeProto] = []
        value = base
        for part, chosen, written, original in parts:
            index = self._index(taking, chosen, part)
            taken = self._taken(taking, original, base, index, part)
            nodes += _copied(original, taken, f"{self.prefix}/{part}")
            value = self._put(putting, value, index, f"{self.prefix}/{part}/{written}")
        self._shaped(putting, value)
        nodes = [*taking.fragment().nodes, *nodes, *putting.fragment().nodes]
        branch = helper.make_graph(nodes, self.prefix, [], [result(region, self.prefix)])
        branch.initializer.extend((*taking.fragment().initializers, *putting.fragment().initializers))
        branch.initializer.extend((*kernels, *([] if skip else bypass.initializers)))
        return branch

    def _flat(self, builder: Builder, value: str) -> str:
        """A value with its rows along axis 0."""
        if not self.tokens:
            return value
        return builder.op("Reshape", [value, builder.constant([-1, self.region.channels], np.int64)])

    def _index(self, builder: Builder, chosen: str, part: str) -> str:
        """Positions of the chosen rows, int64 [n]."""
        found = builder.op("NonZero", [chosen])
        return builder.op("Reshape", [found, builder.constant([-1], np.int64)], output=f"{self.prefix}/{part}/index")

    def _taken(
        self, builder: Builder, nodes: Sequence[onnx.NodeProto], base: str, index: str, part: str
    ) -> Mapping[str, str]:
        """Gather the rows of the values that the nodes read: new names by old."""
        region = self.region
        read = {name for node in nodes for name in node.input}
        found = {}
        for value in (region.entry, *region.sides):
            if value not in read:
                continue
            name = f"{self.prefix}/{part}/{value}"
            source = base if value == region.entry else value
            if self.tokens:
                rows = builder.op("Gather", [source, index], axis=0)
                builder.unsqueeze(rows, 0, output=name)
            else:
                builder.op("Gather", [source, index], axis=0, output=name)
            found[value] = name
        return found

    def _put(self, builder: Builder, value: str, index: str, rows: str) -> str:
        """The value with these rows in place of its own at the index."""
        if self.tokens:
            rows = builder.op("Reshape", [rows, builder.constant([-1, self.region.channels], np.int64)])
        return builder.op("ScatterND", [value, builder.unsqueeze(index, 1), rows])

    def _shaped(self, builder: Builder, value: str) -> None:
        if self.tokens:
            builder.op("Reshape", [value, builder.op("Shape", [self.region.entry])], output=self.prefix)
        else:
            builder.op("Identity", [value], output=self.prefix)


def _copied(nodes: Sequence[onnx.NodeProto], taken: Mapping[str, str], prefix: str) -> list[onnx.NodeProto]:
    """Copies of nodes that read gathered values and write everything under new names."""
    new = {name: f"{prefix}/{name}" for node in nodes for name in node.output if name}
    return [renamed(node, {**new, **taken}, prefix) for node in nodes]
