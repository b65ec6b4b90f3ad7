"""Cut regions out of a model: what moves into a branch, what stays, and what stands in for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableSequence, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import onnx
from onnx import helper

from skipc.passes.builder import Builder, Fragment
from skipc.passes.eight_bits import KIND as EIGHT_BITS
from skipc.passes.eight_bits import in_8_bits
from skipc.passes.flow import Flow, NodeSet, members, node_set
from skipc.passes.heads import hidden_of
from skipc.passes.narrow import Hidden, Narrowed, constants_of, narrowed
from skipc.passes.normalize import copied_node
from skipc.passes.placement import SUB_BYTE, for_branch
from skipc.passes.products import Form, form_of
from skipc.passes.surrogate import Formats, write_bypass
from skipc.runtime import names
from skipc.runtime.plan import ORIGINAL, Array, Block, Bypass, Region

_Named = TypeVar("_Named", onnx.TensorProto, onnx.ValueInfoProto)


@dataclass(frozen=True)
class Cut:
    """Cuts regions out of one model, which it changes: weights that move are taken from it, new ones are added."""

    model: onnx.ModelProto
    flow: Flow
    position: Mapping[str, int]
    constants: Mapping[str, Array]

    @classmethod
    def of(cls, model: onnx.ModelProto, blocks: Sequence[Block]) -> Cut:
        """Prepare to cut; the arrays of constants are read only where a bypass multiplies by weights."""
        flow = Flow.of(model.graph)
        bypasses = [bypass for block in blocks for bypass in _bypasses(block.bypass)]
        multiplies = any("weight" in bypass.arrays or bypass.kind == EIGHT_BITS for bypass in bypasses)
        constants = constants_of(model.graph) if multiplies else {}
        return cls(model, flow, {node.name: i for i, node in enumerate(flow.nodes)}, constants)

    def inside(self, blocks: Sequence[Block]) -> tuple[NodeSet, ...]:
        """All that moves into the branches, block by block; refuses overlapping regions."""
        found = tuple(self.moved(block) for block in blocks)
        seen = 0
        for nodes in found:
            if seen & nodes:
                raise ValueError("regions overlap")
            seen |= nodes
        return found

    def _set(self, node_names: Iterable[str]) -> NodeSet:
        return node_set(self.position[name] for name in node_names)

    def moved(self, block: Block) -> NodeSet:
        """A region's nodes, and the constant nodes that only nodes read of which the bypass has no copy."""
        if block.bypass.parts:
            return self.flow.union([self.moved(part) for part in parts_of(block)], range(len(block.bypass.parts)))
        nodes = self._set(block.region.nodes)
        readers = 0 if block.bypass.kind in (EIGHT_BITS, ORIGINAL) else nodes & ~self._set(block.region.tail)
        copied = self._hidden(block.region).nodes if block.bypass.kind == "narrow" else 0
        readers &= ~copied
        feeding = self.flow.union(self.flow.ancestors, members(nodes)) & ~self.flow.live
        for i in sorted(members(feeding), reverse=True):
            read_by = node_set(self._readers(i))
            kept = nodes if copied >> i & 1 else readers
            if read_by and not read_by & ~kept and not self._leaves(i):
                readers |= 1 << i
        return nodes | readers

    def _readers(self, node: int) -> Iterable[int]:
        return (i for name in self.flow.nodes[node].output for i in members(self.flow.consumers.get(name, 0)))

    def _leaves(self, node: int) -> bool:
        return any(name in self.flow.graph_outputs for name in self.flow.nodes[node].output)

    def full_nodes(self, region: Region, moved: NodeSet) -> list[onnx.NodeProto]:
        """Copies of a region's nodes that write `names.full`."""
        return [renamed(self.flow.nodes[i], {region.exit: names.full(region.name)}) for i in members(moved)]

    def full_branch(
        self, region: Region, nodes: Sequence[onnx.NodeProto], moved: NodeSet, kept: frozenset[str] = frozenset()
    ) -> onnx.GraphProto:
        """The branch that runs a region for all rows, with the weights that belong into it.

        Args:
            region: that the branch stands for.
            nodes: of the branch.
            moved: the original nodes that they come from.
            kept: values that something outside the branch reads as well.
        """
        branch = helper.make_graph(nodes, names.full(region.name), [], [result(region, names.full(region.name))])
        branch.initializer.extend(self._take_weights(region, nodes, moved, kept))
        written = {name for node in nodes for name in node.output}
        branch.value_info.extend(take(self.model.graph.value_info, written | {region.exit}, written))
        return branch

    def _take_weights(
        self, region: Region, nodes: Sequence[onnx.NodeProto], moved: NodeSet, kept: frozenset[str]
    ) -> list[onnx.TensorProto]:
        """Weights of which this region is the only reader and that belong into its branch."""
        graph = self.model.graph
        elem_types = {item.name: item.data_type for item in graph.initializer}
        wanted = for_branch(nodes, region.weights, elem_types) & elem_types.keys()
        own = {name for name in wanted if not self.flow.consumers.get(name, -1) & ~moved}
        own -= {item.name for item in graph.input} | self.flow.graph_outputs | kept
        return take(graph.initializer, own, own)

    def bypass(self, block: Block, opset: int, *, alone: bool = False) -> Fragment:
        """The nodes of a bypass with a copy of the region's tail; they write the value `names.bypass`.

        Args:
            block: of the region.
            opset: to write for.
            alone: whether the region itself goes, so that its weights are not there to take parts from.
        """
        if block.bypass.parts:
            return self._chained(block, opset, alone)
        if block.bypass.kind == EIGHT_BITS:
            return self._in_8_bits(block.region, opset)
        if block.bypass.kind == ORIGINAL:
            return self._as_it_is(block.region)
        region, prefix = block.region, names.bypass(block.region.name)
        builder = Builder(prefix, opset)
        narrow = self._narrowed(block, alone)
        formats = Formats(narrow.entry if narrow.nodes else self._entry(region), narrow.hidden)
        written = write_bypass(builder, region, block.bypass, narrow.value, formats)
        if not region.tail or block.bypass.kind == "identity":
            builder.op("Identity", [written], output=prefix)
            fragment = builder.fragment()
            return _behind(narrow, fragment)
        inside = [self.flow.nodes[self.position[name]] for name in region.tail]
        new = {region.merge: written, region.exit: prefix}
        new |= {name: f"{prefix}/tail/{name}" for node in inside for name in node.output if name and name not in new}
        fragment = builder.fragment()
        tail = [renamed(node, new, f"{prefix}/tail") for node in inside]
        return _behind(narrow, Fragment((*fragment.nodes, *tail), fragment.initializers))

    def _in_8_bits(self, region: Region, opset: int) -> Fragment:
        """A copy of the whole region, tail included, with its products in 8 bits."""
        prefix = names.bypass(region.name)
        inside = list(members(self._set(region.nodes)))
        written = [name for i in inside for name in self.flow.nodes[i].output if name]
        new = {name: f"{prefix}/copy/{name}" for name in written} | {region.exit: prefix}
        return in_8_bits(self.flow, self.constants, inside, new, prefix, opset)

    def _as_it_is(self, region: Region) -> Fragment:
        """A copy of the whole region, tail included."""
        prefix = names.bypass(region.name)
        inside = [self.flow.nodes[i] for i in members(self._set(region.nodes))]
        new = {name: f"{prefix}/copy/{name}" for node in inside for name in node.output if name} | {region.exit: prefix}
        return Fragment(tuple(renamed(node, new, prefix) for node in inside), ())

    def _chained(self, block: Block, opset: int, alone: bool) -> Fragment:
        """The bypasses of a chain's parts, each of which reads what the one before it writes."""
        nodes: list[onnx.NodeProto] = []
        tensors: list[onnx.TensorProto] = []
        weights: list[onnx.NodeProto] = []
        new: dict[str, str] = {}
        for part in parts_of(block):
            fragment = self.bypass(part, opset, alone=alone)
            written = names.bypass(part.region.name)
            last = {written: names.bypass(block.region.name)} if part.region.exit == block.region.exit else {}
            nodes += [renamed(node, {**new, **last}) for node in fragment.nodes]
            tensors += fragment.initializers
            weights += fragment.weights
            new = {part.region.exit: written}
        return Fragment(tuple(nodes), tuple(tensors), tuple(weights))

    def _narrowed(self, block: Block, alone: bool) -> Narrowed:
        """The hidden layer of a narrow bypass; nothing for other kinds."""
        if block.bypass.kind != "narrow":
            return Narrowed()
        hidden = self._hidden(block.region)
        units = block.bypass.arrays["units"]
        entry = self._entry(block.region)
        referable = frozenset[str]() if alone else self._referable(block.region, hidden)
        return narrowed(self.flow, self.constants, hidden, units, names.kept(block.region.name), entry, referable)

    def _referable(self, region: Region, hidden: Hidden) -> frozenset[str]:
        """Weights of a hidden layer that stay in the graph around the branches."""
        graph = self.model.graph
        elem_types = {item.name: item.data_type for item in graph.initializer if item.name in hidden.slices}
        nodes = [self.flow.nodes[i] for i in members(hidden.nodes)]
        theirs = {item.name for item in graph.input} | for_branch(nodes, region.weights, elem_types)
        return frozenset(name for name, elem_type in elem_types.items() if elem_type not in SUB_BYTE) - theirs

    def _entry(self, region: Region) -> Form | None:
        """How a region writes products of its entry value."""
        return form_of(self.flow, self.constants, self._set(region.nodes), region.entry)

    def _hidden(self, region: Region) -> Hidden:
        found = hidden_of(self.flow, self.constants, region)
        if found is None:
            raise ValueError(f"region {region.name} has no hidden layer to narrow")
        return found


def _behind(narrow: Narrowed, fragment: Fragment) -> Fragment:
    """A fragment with what is left of a hidden layer before it."""
    tensors = (*narrow.initializers, *fragment.initializers)
    return Fragment((*narrow.nodes, *fragment.nodes), tensors, narrow.weights)


def parts_of(block: Block) -> tuple[Block, ...]:
    """The parts of a chain as blocks of their own."""
    return tuple(replace(block, region=part.region, bypass=part.bypass) for part in block.bypass.parts)


def _bypasses(bypass: Bypass) -> tuple[Bypass, ...]:
    """A bypass, or those of the parts of a chain."""
    return tuple(part.bypass for part in bypass.parts) or (bypass,)


def result(region: Region, name: str) -> onnx.ValueInfoProto:
    """The type of a branch's result, open dimensions nameless.

    Where the original does not know that two are equal, knowing it would let ONNX Runtime pick other fusions than in
    the original, slower ones among them.
    """
    dims = [dim if isinstance(dim, int) else None for dim in region.dims]
    return helper.make_tensor_value_info(name, region.elem_type, dims)


def take(items: MutableSequence[_Named], wanted: Iterable[str], kept: Iterable[str]) -> list[_Named]:
    """Remove the items with these names from a repeated field, and return copies of those to keep elsewhere."""
    wanted, kept = frozenset(wanted), frozenset(kept)
    copies = [type(item).FromString(item.SerializeToString()) for item in items if item.name in wanted & kept]
    for i in reversed([i for i, item in enumerate(items) if item.name in wanted]):
        del items[i]
    return copies


def renamed(node: onnx.NodeProto, new: Mapping[str, str], prefix: str = "") -> onnx.NodeProto:
    """A copy of a node that reads and writes values under new names."""
    copy = copied_node(node)
    copy.input[:] = [new.get(name, name) for name in node.input]
    copy.output[:] = [new.get(name, name) for name in node.output]
    copy.name = f"{prefix}/{node.name}" if prefix else node.name
    return copy
