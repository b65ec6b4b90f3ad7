"""Put regions behind `If` nodes: the one rewriting that changes how a model computes.

Each region's own nodes move unchanged into the `else` branch (``skipc/<region>/full``), weights stay where they were
unless they are convolution kernels, and the bypass becomes the `then` branch. The `If` writes the region's exit value
under its old name, so nothing behind it changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableSequence, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import onnx
from onnx import helper

from skipc.passes.base import copied, opset_of
from skipc.passes.builder import Builder, Fragment
from skipc.passes.flow import Flow, NodeSet, members, node_inputs, node_set
from skipc.passes.gate import write_gate
from skipc.passes.narrow import Hidden, constants_of, find_hidden, narrowed
from skipc.passes.normalize import copied_node, sort_nodes
from skipc.passes.operators import CONVOLUTION_OPS
from skipc.passes.surrogate import write_bypass
from skipc.runtime import names
from skipc.runtime.plan import Array, Block, Region

_Named = TypeVar("_Named", onnx.TensorProto, onnx.ValueInfoProto)

FIRST = -1.0
"""Preferred place of nodes that belong before all others."""


class Window(Protocol):
    """Where the gates' thresholds and floors come from."""

    def add_to(self, model: onnx.ModelProto, count: int) -> Fragment:
        """Add inputs or initializers to the model; return the nodes that write `limits_name` of each gate."""
        ...


def limits_name(gate: int) -> str:
    """Name of the limits of a gate, float32 [2]: its threshold and its negated floor."""
    return f"skipc/window/limits_{gate}"


@dataclass(frozen=True)
class InputWindow:
    """Thresholds and negated floors are a graph input: the instrumented model."""

    def add_to(self, model: onnx.ModelProto, count: int) -> Fragment:
        """See `Window.add_to`."""
        model.graph.input.append(helper.make_tensor_value_info(names.WINDOW, onnx.TensorProto.FLOAT, [2, count]))
        builder = Builder("skipc/window", opset_of(model))
        _pick(builder, names.WINDOW, count)
        return builder.fragment()


@dataclass(frozen=True)
class LevelWindow:
    """Thresholds and floors are tables in the file, and a level picks the row: the shipped model.

    Attributes:
        thresholds: [levels][gates].
        floors: [gates].
        level: the row in force.
        as_input: also list the level among the graph's inputs, where a caller may override it.
    """

    thresholds: tuple[tuple[float, ...], ...]
    floors: tuple[float, ...]
    level: int
    as_input: bool = False

    def add_to(self, model: onnx.ModelProto, count: int) -> Fragment:
        """See `Window.add_to`."""
        if len(self.floors) != count or any(len(row) != count for row in self.thresholds):
            raise ValueError(f"the table of thresholds does not fit {count} gates")
        if self.as_input:
            model.graph.input.append(helper.make_tensor_value_info(names.LEVEL, onnx.TensorProto.INT64, []))
        builder = Builder("skipc/window", opset_of(model))
        level = builder.constant(self.level, np.int64, name=names.LEVEL)
        table = builder.constant(self.thresholds, name=names.THRESHOLDS)
        floors = builder.constant([self.floors], name=names.FLOORS)
        row = builder.op("Gather", [table, self._row(builder, level)], axis=0)
        row = builder.op("Reshape", [row, builder.constant([1, count], np.int64)])
        _pick(builder, builder.op("Concat", [row, builder.op("Neg", [floors])], axis=0), count)
        return builder.fragment()

    def _row(self, builder: Builder, level: str) -> str:
        """The row of the table; a caller's negative level means 0, where an index would count from the boldest row."""
        if not self.as_input:
            return level
        negative = builder.op("Less", [level, builder.constant(0, np.int64)])
        return builder.op("Where", [negative, builder.constant(0, np.int64), level])


def _pick(builder: Builder, window: str, count: int) -> None:
    for gate in range(count):
        index = builder.constant(gate, np.int64)
        builder.op("Gather", [window, index], axis=1, output=limits_name(gate))


@dataclass(frozen=True)
class InjectGates:
    """Put each block's region behind an `If` with its gate and its bypass.

    Requires a normalised model whose regions do not overlap. Ensures that with every gate shut the same nodes compute
    the same values in the same order.
    """

    blocks: tuple[Block, ...]
    window: Window

    def apply(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return the gated copy."""
        model = copied(model)
        cut = _Cut.of(model, self.blocks)
        inside = cut.inside(self.blocks)
        placed: list[tuple[float, onnx.NodeProto]] = []
        _place(model, placed, self.window.add_to(model, len(self.blocks)), FIRST)
        for gate, block in enumerate(self.blocks):
            cut.replace(block, gate, placed)
        _keep_rest(cut, inside, placed)
        return model


@dataclass(frozen=True)
class ReplaceRegions:
    """Put each block's bypass in place of its region for good: what a static compressor would do."""

    blocks: tuple[Block, ...]

    def apply(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return the copy without the regions."""
        model = copied(model)
        cut = _Cut.of(model, self.blocks)
        inside = cut.inside(self.blocks)
        placed: list[tuple[float, onnx.NodeProto]] = []
        for block in self.blocks:
            cut.replace_statically(block, placed)
        _keep_rest(cut, inside, placed)
        _drop_unused(model.graph)
        return model


def _keep_rest(cut: _Cut, inside: Sequence[NodeSet], placed: list[tuple[float, onnx.NodeProto]]) -> None:
    moved = frozenset(i for nodes in inside for i in members(nodes))
    placed += [(float(i), copied_node(node)) for i, node in enumerate(cut.flow.nodes) if i not in moved]
    sort_nodes(cut.model.graph, placed)


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Remove initializers that nothing reads any more."""
    read = {name for node in graph.node for name in node_inputs(node)} | {item.name for item in graph.output}
    unread = [item.name for item in graph.initializer if item.name not in read]
    _take(graph.initializer, unread, ())


def _place(
    model: onnx.ModelProto, placed: list[tuple[float, onnx.NodeProto]], fragment: Fragment, place: float
) -> None:
    placed += [(place, node) for node in fragment.nodes]
    model.graph.initializer.extend(fragment.initializers)


@dataclass(frozen=True)
class _Cut:
    """Cuts regions out of one model."""

    model: onnx.ModelProto
    flow: Flow
    position: Mapping[str, int]
    constants: Mapping[str, Array]

    @classmethod
    def of(cls, model: onnx.ModelProto, blocks: Sequence[Block]) -> _Cut:
        """Prepare to cut; the arrays of constants are read only where a narrow bypass needs them."""
        flow = Flow.of(model.graph)
        narrow = any(block.bypass.kind == "narrow" for block in blocks)
        constants = constants_of(model.graph) if narrow else {}
        return cls(model, flow, {node.name: i for i, node in enumerate(flow.nodes)}, constants)

    def inside(self, blocks: Sequence[Block]) -> tuple[NodeSet, ...]:
        """All that moves into the branches, block by block; refuses overlapping regions."""
        found = tuple(self._moved(block) for block in blocks)
        seen = 0
        for nodes in found:
            if seen & nodes:
                raise ValueError("regions overlap")
            seen |= nodes
        return found

    def _set(self, node_names: Iterable[str]) -> NodeSet:
        return node_set(self.position[name] for name in node_names)

    def _moved(self, block: Block) -> NodeSet:
        """A region's nodes, and the constant nodes that only nodes read of which the bypass has no copy."""
        nodes = self._set(block.region.nodes)
        readers = nodes & ~self._set(block.region.tail)
        if block.bypass.kind == "narrow":
            readers &= ~self._hidden(block.region).nodes
        feeding = self.flow.union(self.flow.ancestors, members(nodes)) & ~self.flow.live
        for i in sorted(members(feeding), reverse=True):
            read_by = node_set(self._readers(i))
            if read_by and not read_by & ~readers and not self._leaves(i):
                readers |= 1 << i
        return nodes | readers

    def _readers(self, node: int) -> Iterable[int]:
        return (i for name in self.flow.nodes[node].output for i in members(self.flow.consumers.get(name, 0)))

    def _leaves(self, node: int) -> bool:
        return any(name in self.flow.graph_outputs for name in self.flow.nodes[node].output)

    def replace(self, block: Block, gate: int, placed: list[tuple[float, onnx.NodeProto]]) -> None:
        """Add what stands for a region: its gate right behind the value that it reads, and its `If`."""
        region, opset = block.region, opset_of(self.model)
        builder = Builder(names.gate(region.name), opset)
        write_gate(builder, region, block.gate, limits_name(gate))
        _place(self.model, placed, builder.fragment(), self.flow.producer.get(region.entry, FIRST) + 0.5)
        moved = self._moved(block)
        node = helper.make_node("If", [names.gate(region.name)], [region.exit], name=names.block(region.name))
        node.attribute.append(helper.make_attribute("then_branch", self._bypass_branch(block, opset)))
        node.attribute.append(helper.make_attribute("else_branch", self._full_branch(region, moved)))
        placed.append((float(next(members(moved))), node))

    def _full_branch(self, region: Region, moved: NodeSet) -> onnx.GraphProto:
        nodes = [_renamed(self.flow.nodes[i], {region.exit: names.full(region.name)}) for i in members(moved)]
        branch = helper.make_graph(nodes, names.full(region.name), [], [_output(region, names.full(region.name))])
        branch.initializer.extend(self._take_kernels(moved))
        written = {name for node in nodes for name in node.output}
        branch.value_info.extend(_take(self.model.graph.value_info, written | {region.exit}, written))
        return branch

    def _take_kernels(self, moved: NodeSet) -> list[onnx.TensorProto]:
        """Convolution kernels that only this region reads: ONNX Runtime lays them out anew only within their graph."""
        convolutions = [i for i in members(moved) if self.flow.nodes[i].op_type in CONVOLUTION_OPS]
        read = {name for i in convolutions for name in self.flow.nodes[i].input[1:] if name}
        own = {name for name in read if not self.flow.consumers[name] & ~moved}
        own -= {item.name for item in self.model.graph.input} | self.flow.graph_outputs
        return _take(self.model.graph.initializer, own, own)

    def _bypass_branch(self, block: Block, opset: int) -> onnx.GraphProto:
        region, prefix = block.region, names.bypass(block.region.name)
        fragment = self._bypass(block, opset)
        kernels = {name for node in fragment.nodes if node.op_type == "Conv" for name in node.input[1:]}
        inside = [item for item in fragment.initializers if item.name in kernels]
        self.model.graph.initializer.extend(item for item in fragment.initializers if item.name not in kernels)
        return helper.make_graph(fragment.nodes, prefix, [], [_output(region, prefix)], inside)

    def _bypass(self, block: Block, opset: int) -> Fragment:
        """The nodes of a bypass with a copy of the region's tail; they write the value `names.bypass`."""
        region, prefix = block.region, names.bypass(block.region.name)
        builder = Builder(prefix, opset)
        first, tensors, hidden = self._narrowed(block)
        result = write_bypass(builder, region, block.bypass, hidden)
        if not region.tail or block.bypass.kind == "identity":
            builder.op("Identity", [result], output=prefix)
            fragment = builder.fragment()
            return Fragment((*first, *fragment.nodes), (*tensors, *fragment.initializers))
        inside = [self.flow.nodes[self.position[name]] for name in region.tail]
        new = {region.merge: result, region.exit: prefix}
        new |= {name: f"{prefix}/tail/{name}" for node in inside for name in node.output if name and name not in new}
        fragment = builder.fragment()
        tail = [_renamed(node, new, f"{prefix}/tail") for node in inside]
        return Fragment((*first, *fragment.nodes, *tail), (*tensors, *fragment.initializers))

    def _narrowed(self, block: Block) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto], str]:
        """The hidden layer of a narrow bypass; nothing for other kinds."""
        if block.bypass.kind != "narrow":
            return [], [], ""
        hidden = self._hidden(block.region)
        units = block.bypass.arrays["units"]
        return narrowed(self.flow, self.constants, hidden, units, names.bypass(block.region.name))

    def _hidden(self, region: Region) -> Hidden:
        found = find_hidden(self.flow, self.constants, region)
        if found is None:
            raise ValueError(f"region {region.name} has no hidden layer to narrow")
        return found

    def replace_statically(self, block: Block, placed: list[tuple[float, onnx.NodeProto]]) -> None:
        """Add a region's bypass in its place, without gate or `If`."""
        region, moved = block.region, self._moved(block)
        fragment = self._bypass(block, opset_of(self.model))
        nodes = tuple(_renamed(node, {names.bypass(region.name): region.exit}) for node in fragment.nodes)
        _place(self.model, placed, Fragment(nodes, fragment.initializers), float(next(members(moved))))


def _output(region: Region, name: str) -> onnx.ValueInfoProto:
    """The type of a branch's result, open dimensions nameless.

    Where the original does not know that two are equal, knowing it would let ONNX Runtime pick other fusions than in
    the original, slower ones among them.
    """
    dims = [dim if isinstance(dim, int) else None for dim in region.dims]
    return helper.make_tensor_value_info(name, region.elem_type, dims)


def _take(items: MutableSequence[_Named], wanted: Iterable[str], kept: Iterable[str]) -> list[_Named]:
    """Remove the items with these names from a repeated field, and return copies of those to keep elsewhere."""
    wanted, kept = frozenset(wanted), frozenset(kept)
    copies = [type(item).FromString(item.SerializeToString()) for item in items if item.name in wanted & kept]
    for i in reversed([i for i, item in enumerate(items) if item.name in wanted]):
        del items[i]
    return copies


def _renamed(node: onnx.NodeProto, new: Mapping[str, str], prefix: str = "") -> onnx.NodeProto:
    """A copy of a node that reads and writes values under new names."""
    copy = copied_node(node)
    copy.input[:] = [new.get(name, name) for name in node.input]
    copy.output[:] = [new.get(name, name) for name in node.output]
    copy.name = f"{prefix}/{node.name}" if prefix else node.name
    return copy
