"""The way back: from a compiled model to its original, node for node and weight for weight.

`RecordOriginal` ends every compilation: it undoes the rewriting once, sees what that does not bring back (orders, types
of values that have moved), and writes it into the metadata. `Restore` undoes and uses it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, MutableSequence, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import onnx

from skipc.passes.base import copied
from skipc.passes.cut import renamed
from skipc.passes.external import refer_again, tensors
from skipc.passes.flow import subgraphs
from skipc.passes.normalize import copied_node
from skipc.passes.original import Order, Original, order_of, places_of, remember, remembered
from skipc.passes.rows import rows_name
from skipc.passes.stamp import plan_of
from skipc.runtime import names
from skipc.runtime.errors import InputError
from skipc.runtime.plan import Plan, Region

_Item = TypeVar("_Item", onnx.NodeProto, onnx.TensorProto, onnx.ValueInfoProto)


@dataclass(frozen=True)
class RecordOriginal:
    """Write into a compiled model what of its original it no longer tells.

    Attributes:
        original: normalised; its own `skipc.original` says what normalising changed.
    """

    original: onnx.ModelProto

    def apply(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return the copy that remembers.

        Raises:
            ValueError: the original cannot be put together from the model.
        """
        undone, normalised = _undone(model).graph, self.original.graph
        lost = _lost(normalised.value_info, undone.value_info)
        found = [item.name for item in (*undone.value_info, *lost)]
        before = remembered(self.original)
        nodes = _names(normalised.node)
        unsorted = [nodes[place] for place in places_of(before.nodes, len(nodes), where="")] if before.nodes else nodes
        lost_nodes = _lost(normalised.node, undone.node)
        lost_initializers = _lost(normalised.initializer, undone.initializer)
        present = [*undone.node, *lost_nodes]
        remembering = replace(
            before,
            lost_value_info=lost,
            lost_nodes=lost_nodes,
            lost_initializers=lost_initializers,
            changed_nodes=_changed_nodes(normalised.node, present),
        )
        original = remembering.with_orders(
            order_of(unsorted, _names(present)),
            order_of(_names(normalised.initializer), _names([*undone.initializer, *lost_initializers])),
            order_of(_names(normalised.value_info), found),
        )
        model = copied(model)
        remember(model, original)
        return model


@dataclass(frozen=True)
class Restore:
    """Give the original back from a compiled model.

    Requires what `skipc compile` wrote, at any level, with or without its optional inputs and outputs.
    """

    def apply(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return the original.

        Raises:
            InputError: the model was not compiled by skipc, or was changed afterwards.
        """
        original = remembered(model)
        restored = _undone(model)
        graph = restored.graph
        graph.value_info.extend(original.lost_value_info)
        graph.node.extend(original.lost_nodes)
        graph.initializer.extend(original.lost_initializers)
        _reorder(graph.node, original.nodes)
        _reorder(graph.initializer, original.initializers)
        _reorder(graph.value_info, original.value_info)
        changed = {node.name: node for node in original.changed_nodes}
        for node in graph.node:
            if node.name in changed:
                node.CopyFrom(changed[node.name])
            _rename(node, original.node_names.get(node.name, node.name))
        for tensor in tensors(graph):
            refer_again(tensor)
        _restore_header(restored, original)
        return restored


def _lost(wanted: Sequence[_Item], found: Sequence[_Item]) -> tuple[_Item, ...]:
    """What was not found again, by name; some exporters write the type of a value several times."""
    left = Counter(item.name for item in found)
    lost = []
    for item in wanted:
        if left[item.name] > 0:
            left[item.name] -= 1
        else:
            lost.append(item)
    return tuple(lost)


def _changed_nodes(wanted: Sequence[onnx.NodeProto], found: Sequence[onnx.NodeProto]) -> tuple[onnx.NodeProto, ...]:
    """The original's version of the nodes that did not come back as they were."""
    undone = {node.name: node for node in found}
    return tuple(node for node in wanted if undone.get(node.name) != node)


def _rename(node: onnx.NodeProto, name: str | None) -> None:
    if name is None:
        node.ClearField("name")
    else:
        node.name = name


def _restore_header(model: onnx.ModelProto, original: Original) -> None:
    model.ir_version = original.ir_version or model.ir_version
    kept = [item for item in model.metadata_props if not names.is_ours(item.key)]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)


def _names(items: Sequence[_Item]) -> list[str]:
    return [item.name for item in items]


def _reorder(items: MutableSequence[_Item], order: Order) -> None:
    places = places_of(order, len(items), where=names.ORIGINAL_KEY)
    copies = [_copied(item) for item in items]
    del items[:]
    items.extend(copies[place] for place in places)


def _copied(item: _Item) -> _Item:
    """A deep copy of a part of a graph."""
    copy = type(item)()
    copy.CopyFrom(item)
    return copy


def _undone(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every region's own nodes back in their place and without all that skipc added."""
    plan = plan_of(model, where="")
    model = copied(model)
    graph = model.graph
    blocks = _blocks(graph, plan)
    nodes = [node for item in graph.node for node in _original_nodes(item, blocks)]
    moved = [inner for node, _ in blocks.values() for inner in _graphs_below(node)]
    weights = [_copied(item) for inner in moved for item in inner.initializer]
    types = [_copied(item) for inner in moved for item in inner.value_info]
    del graph.node[:]
    graph.node.extend(nodes)
    for field in (graph.initializer, graph.value_info, graph.input, graph.output):
        _drop_ours(field)
    _add_theirs(graph.initializer, weights)
    _add_theirs(graph.value_info, types)
    return model


def _blocks(graph: onnx.GraphProto, plan: Plan) -> dict[str, tuple[onnx.NodeProto, Region]]:
    """The `If` of every planned region, by its name."""
    found = {node.name: node for node in graph.node}
    regions = {names.block(block.region.name): block.region for block in plan.blocks}
    missing = sorted(regions.keys() - found.keys())
    if missing:
        raise _changed(f"the node {missing[0]} is gone")
    return {name: (found[name], region) for name, region in regions.items()}


def _original_nodes(node: onnx.NodeProto, blocks: dict[str, tuple[onnx.NodeProto, Region]]) -> Iterator[onnx.NodeProto]:
    """What stood in a node's place: itself, the nodes of a region, or nothing."""
    if node.name in blocks:
        yield from _region_nodes(*blocks[node.name])
    elif not names.is_ours(node.name):
        yield copied_node(node)


def _region_nodes(node: onnx.NodeProto, region: Region) -> Iterator[onnx.NodeProto]:
    full = names.full(region.name)
    graph = next((inner for inner in _graphs_below(node) if names.branch(inner.name) == names.branch(full)), None)
    if graph is None:
        raise _changed(f"the subgraph {full} is gone")
    new = _original_names(graph, region)
    for inner in graph.node:
        if names.is_ours(inner.name):
            continue
        yield renamed(inner, new)


def _original_names(graph: onnx.GraphProto, region: Region) -> dict[str, str]:
    """The original's name of a value by the one in the full branch, which runs for all rows or for some."""
    full = names.full(region.name)
    rows = rows_name(full, "")
    taken = (name for node in graph.node for name in node.input if name.startswith(rows))
    result = {full: region.exit, f"{full}/result": region.exit}
    return {**result, **{name: name.removeprefix(rows) for name in taken}}


def _graphs_below(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The branches of a node of ours, and those of our nodes inside them."""
    for graph in subgraphs(node):
        yield graph
        for inner in graph.node:
            if names.is_ours(inner.name):
                yield from _graphs_below(inner)


def _drop_ours(field: MutableSequence[_Item]) -> None:
    for i in reversed([i for i, item in enumerate(field) if names.is_ours(item.name)]):
        del field[i]


def _add_theirs(field: MutableSequence[_Item], items: Sequence[_Item]) -> None:
    """Append the items that skipc has not made and that are not there yet."""
    present = {item.name for item in field}
    for item in items:
        if not names.is_ours(item.name) and item.name not in present:
            present.add(item.name)
            field.append(item)


def _changed(what: str) -> InputError:
    hint = "restore from the file as `skipc compile` wrote it"
    return InputError("original-changed", f"the model was changed after it was compiled: {what}", hint=hint)
