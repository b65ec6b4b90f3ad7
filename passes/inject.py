"""Put regions behind `If` nodes: the one rewriting that changes how a model computes.

Each region's own nodes move unchanged into the `else` branch (``skipc/<region>/full``), weights stay where they were
unless they belong beside their nodes (`placement.py`), and the bypass becomes the `then` branch. The `If` writes the
region's exit value under its old name, so nothing behind it changes.

Where every row decides for itself, the first `If` tells "none needs the region" from "some do", its `else` branch runs
the region for those rows, and a second one runs the bypass for the others if there are any. The two do not nest: ONNX
Runtime prepares weights for the branch of an `If`, but not for a branch within a branch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from skipc.passes.base import copied, opset_of
from skipc.passes.builder import Builder, Fragment
from skipc.passes.cut import Cut, renamed, result, take
from skipc.passes.flow import NodeSet, members, node_inputs
from skipc.passes.gate import decides_by_row, is_by_token, reading_of, write_condition, write_mask
from skipc.passes.normalize import copied_node, sort_nodes
from skipc.passes.placement import for_branch
from skipc.passes.rows import RowWriter
from skipc.passes.second_look import is_second_look, look_again, write_first_look
from skipc.passes.shared import groups_of, has_shared_rows, write_gates
from skipc.passes.window import Window, limits_name
from skipc.runtime import names
from skipc.runtime.plan import Block, Region

FIRST = -1.0
"""Preferred place of nodes that belong before all others."""

Placed = list[tuple[float, onnx.NodeProto]]
"""Nodes with their preferred places."""


@dataclass(frozen=True)
class InjectGates:
    """Put each block's region behind an `If` with its gate and its bypass.

    Requires a normalised model whose regions do not overlap. Ensures that with every gate shut the same nodes compute
    the same values in the same order.

    Attributes:
        blocks: to gate.
        window: of thresholds and floors.
    """

    blocks: tuple[Block, ...]
    window: Window

    def apply(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return the gated copy."""
        model = copied(model)
        placed: Placed = []
        _place(model, placed, self.window.add_to(model, len(self.blocks)), FIRST)
        _place(model, placed, _masks(self.blocks, opset_of(model)), FIRST)
        return _gated(model, self.blocks, placed, limits=True)


@dataclass(frozen=True)
class ImposeDecisions:
    """Like `InjectGates`, with every row's decision an input of the graph: to see what a block does to its rows.

    The inputs are called `names.agreed`, float32 [batch] or [batch, sequence]: 1 bypasses a row.
    """

    blocks: tuple[Block, ...]

    def apply(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return the gated copy."""
        model = copied(model)
        for block in self.blocks:
            rank = 2 if block.gate.granularity == "token" else 1
            agreed = names.agreed(block.region.name)
            model.graph.input.append(helper.make_tensor_value_info(agreed, TensorProto.FLOAT, [None] * rank))
        placed: Placed = []
        looks = tuple(block for block in self.blocks if is_second_look(block))
        _place(model, placed, _masks(looks, opset_of(model)), FIRST)
        return _gated(model, self.blocks, placed, limits=False)


@dataclass(frozen=True)
class ReplaceRegions:
    """Put each block's bypass in place of its region for good: what a static compressor would do."""

    blocks: tuple[Block, ...]

    def apply(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return the copy without the regions."""
        model = copied(model)
        cut = Cut.of(model, self.blocks)
        inside = cut.inside(self.blocks)
        placed: Placed = []
        for block in self.blocks:
            _replace(cut, block, placed)
        _keep_rest(cut, inside, placed)
        _drop_unused(model.graph)
        return model


def _gated(model: onnx.ModelProto, blocks: Sequence[Block], placed: Placed, *, limits: bool) -> onnx.ModelProto:
    """Put the blocks behind their `If` nodes, in place; with gates, or with decisions that are there already."""
    cut = Cut.of(model, blocks)
    inside, opset = cut.inside(blocks), opset_of(model)
    groups = groups_of(blocks) if limits else tuple((number,) for number in range(len(blocks)))
    group_of = {number: group for group in groups for number in group}
    for number, (block, moved) in enumerate(zip(blocks, inside, strict=True)):
        group, region = group_of[number], block.region
        builder = Builder(names.gate(region.name), opset)
        read = reading_of(region, block.gate).value if limits else region.entry
        if is_second_look(block):
            write_first_look(builder, block)
        if not limits:
            write_condition(builder, region, names.agreed(region.name))
        elif number == group[0]:
            write_gates(builder, [blocks[i] for i in group], [limits_name(i) for i in group], opset)
        _place(model, placed, builder.fragment(), cut.flow.producer.get(read, FIRST) + 0.5)
        shared, indexed = len(group) > 1, has_shared_rows(group, blocks, opset)
        bypass = Fragment((), ()) if is_second_look(block) else _settled(cut, region, cut.bypass(block, opset))
        placed += [(FIRST, node) for node in bypass.weights]
        placed += [(float(next(members(moved))), node) for node in _ifs(cut, block, bypass, moved, shared, indexed)]
    _keep_rest(cut, inside, placed)
    return model


def _masks(blocks: Sequence[Block], opset: int) -> Fragment:
    builder = Builder("skipc/mask", opset)
    for mask in dict.fromkeys(block.gate.mask for block in blocks if block.gate.mask):
        write_mask(builder, mask)
    return builder.fragment()


def _ifs(cut: Cut, block: Block, bypass: Fragment, moved: NodeSet, shared: bool, indexed: bool) -> list[onnx.NodeProto]:
    """The `If` that stands for a region, or two and their condition where its rows decide for themselves.

    Args:
        cut: of the model.
        block: of the region.
        bypass: of the block.
        moved: the region's nodes.
        shared: whether the condition of the second `If` is there already.
        indexed: whether the positions of the rows are.
    """
    region, opset = block.region, opset_of(cut.model)
    if is_second_look(block):
        branches = look_again(cut, block, moved, opset)
        return [_if_node(names.block(region.name), names.gate(region.name), region.exit, *branches)]
    name, condition, prefix = names.block(region.name), names.gate(region.name), names.bypass(region.name)
    then = helper.make_graph(bypass.nodes, prefix, [], [result(region, prefix)], bypass.initializers)
    kept = frozenset(value for node in (*bypass.nodes, *bypass.weights) for value in node_inputs(node))
    full = cut.full_branch(region, cut.full_nodes(region, moved), moved, kept)
    if not decides_by_row(block.gate):
        return [_if_node(name, condition, region.exit, then, full)]
    writer = RowWriter(region, is_by_token(block.gate), opset, indexed)
    mixed, rows = names.mixed(region.name), names.rows(region.name)
    some = writer.branch(names.full(region.name), full.node, agreed=False, base=region.entry)
    some.initializer.extend(full.initializer)
    if block.bypass.kind == "identity":
        return [_if_node(name, condition, region.exit, then, some)]
    renaming = [renamed(node, {prefix: rows}) for node in bypass.nodes]
    others = writer.branch(rows, renaming, agreed=True, base=mixed, prefix=rows)
    others.initializer.extend(bypass.initializers)
    builder = Builder(f"{mixed}/otherwise", opset)
    builder.op("Identity", [mixed], output=f"{mixed}/same")
    same = helper.make_graph(builder.fragment().nodes, f"{mixed}/same", [], [result(region, f"{mixed}/same")])
    disagree = f"{mixed}/condition"
    if not shared:
        _tell_mixed(region, then, some, opset)
    return [
        _if_node(name, condition, mixed, then, some, *(() if shared else (disagree,))),
        _if_node(f"{mixed}/if", disagree, region.exit, others, same),
    ]


def _tell_mixed(region: Region, then: onnx.GraphProto, some: onnx.GraphProto, opset: int) -> None:
    """Add to both branches whether rows disagree: not where none needs the region, else where any does not."""
    prefix = names.mixed(region.name)
    no = numpy_helper.from_array(np.array(False))
    then.node.append(helper.make_node("Constant", [], [f"{prefix}/none"], name=f"{prefix}/none", value=no))
    builder = Builder(f"{prefix}/disagree", opset)
    most = builder.op("ReduceMax", [names.agreed(region.name)], keepdims=0)
    builder.cast(most, TensorProto.BOOL, output=f"{prefix}/any")
    some.node.extend(builder.fragment().nodes)
    for branch, value in ((then, "none"), (some, "any")):
        branch.output.append(helper.make_tensor_value_info(f"{prefix}/{value}", TensorProto.BOOL, []))


def _if_node(
    name: str, condition: str, output: str, then: onnx.GraphProto, otherwise: onnx.GraphProto, *more: str
) -> onnx.NodeProto:
    node = helper.make_node("If", [condition], [output, *more], name=name)
    for key, graph in (("then_branch", then), ("else_branch", otherwise)):
        graph.name = names.branch(graph.name)
        node.attribute.append(helper.make_attribute(key, graph))
    return node


def _settled(cut: Cut, region: Region, fragment: Fragment) -> Fragment:
    """A bypass with its weights where they belong, by the same rules as those of its region."""
    elem_types = {item.name: item.data_type for item in fragment.initializers}
    inside = for_branch(fragment.nodes, region.weights, elem_types)
    cut.model.graph.initializer.extend(item for item in fragment.initializers if item.name not in inside)
    inner = tuple(item for item in fragment.initializers if item.name in inside)
    return Fragment(fragment.nodes, inner, fragment.weights)


def _replace(cut: Cut, block: Block, placed: Placed) -> None:
    """Add a region's bypass in its place, without gate or `If`."""
    region, moved = block.region, cut.moved(block)
    fragment = cut.bypass(block, opset_of(cut.model), alone=True)
    nodes = tuple(renamed(node, {names.bypass(region.name): region.exit}) for node in fragment.nodes)
    _place(cut.model, placed, Fragment(nodes, fragment.initializers), float(next(members(moved))))


def _keep_rest(cut: Cut, inside: Sequence[NodeSet], placed: Placed) -> None:
    moved = frozenset(i for nodes in inside for i in members(nodes))
    placed += [(float(i), copied_node(node)) for i, node in enumerate(cut.flow.nodes) if i not in moved]
    sort_nodes(cut.model.graph, placed)


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Remove constants that nothing reads any more."""
    read = {name for node in graph.node for name in node_inputs(node)} | {item.name for item in graph.output}
    kept = [node for node in graph.node if node.op_type != "Constant" or not read.isdisjoint(node.output)]
    del graph.node[:]
    graph.node.extend(kept)
    unread = [item.name for item in graph.initializer if item.name not in read]
    take(graph.initializer, unread, ())


def _place(model: onnx.ModelProto, placed: Placed, fragment: Fragment, place: float) -> None:
    placed += [(place, node) for node in fragment.nodes]
    model.graph.initializer.extend(fragment.initializers)
