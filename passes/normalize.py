"""Bring a model into the form that the other passes rely on, changing nothing that it computes."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import onnx

from skipc.passes.base import copied, opset_of
from skipc.passes.flow import Flow, members, subgraphs
from skipc.passes.original import Original, order_of, remember
from skipc.runtime import names
from skipc.runtime.errors import InputError

OLDEST_OPSET = 11
OLDEST_IR = 4


@dataclass(frozen=True)
class Normalize:
    """Give every node a unique name, and sort the nodes if they are not.

    Requires a model that the checker accepts, but for the order of its nodes: converters leave it to runtimes to sort
    them. Ensures that nodes can be told apart by name and that initializers need not be inputs (IR version 4). Refuses
    what is already compiled, and opsets whose `If` skipc does not write.
    """

    def apply(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return the normalised copy."""
        _refuse_compiled(model)
        _refuse_reserved(model.graph)
        _refuse_old(model)
        model = copied(model)
        ir_version = model.ir_version
        model.ir_version = max(ir_version, OLDEST_IR)
        renamed = _rename(model.graph.node)
        before = [node.name for node in model.graph.node]
        sort(model.graph)
        after = [node.name for node in model.graph.node]
        order = order_of(before, after) if before != after else ()
        remember(model, Original(ir_version if ir_version < OLDEST_IR else 0, renamed, order))
        return model


def _rename(nodes: Iterable[onnx.NodeProto]) -> dict[str, str | None]:
    """Make all names unique; the old names of those that changed, None for those without, by the new one."""
    taken: set[str] = set()
    renamed: dict[str, str | None] = {}
    for position, node in enumerate(nodes):
        name = _unique(node.name or f"{node.op_type}_{position}", taken)
        if name != node.name:
            renamed[name] = node.name if node.HasField("name") else None
        node.name = name
    return renamed


def _unique(name: str, taken: set[str]) -> str:
    candidate, number = name, 1
    while candidate in taken:
        candidate, number = f"{name}_{number}", number + 1
    taken.add(candidate)
    return candidate


def _refuse_compiled(model: onnx.ModelProto) -> None:
    if any(item.key in (names.PLAN_KEY, names.ORIGINAL_KEY) for item in model.metadata_props):
        hint = "compile the original (`skipc restore` gives it back), or change the level with `skipc retune`"
        raise InputError("already-compiled", "this model was compiled by skipc already", hint=hint)


def _refuse_reserved(graph: onnx.GraphProto) -> None:
    """Refuse names of nodes, values and initializers that could be taken for what skipc adds."""
    ours = next((name for name in _all_names(graph) if names.is_ours(name)), None)
    if ours is not None:
        hint = f"rename it; names that begin with {ours[:6]!r} are for what skipc adds"
        raise InputError("name-taken", f"the name {ours} is reserved for skipc", where=ours, hint=hint)


def _all_names(graph: onnx.GraphProto) -> Iterator[str]:
    """Names in a graph and in the graphs inside it."""
    yield graph.name
    for item in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        yield item.name
    for sparse in graph.sparse_initializer:
        yield sparse.values.name
    for node in graph.node:
        yield from (node.name, *node.output)
        for inner in subgraphs(node):
            yield from _all_names(inner)


def _refuse_old(model: onnx.ModelProto) -> None:
    version = opset_of(model)
    if version < OLDEST_OPSET:
        hint = f"convert it with onnx.version_converter.convert_version(model, {OLDEST_OPSET}) or newer"
        raise InputError("opset-too-old", f"opset {version} is older than {OLDEST_OPSET}", hint=hint)


def sort(graph: onnx.GraphProto) -> None:
    """Sort a graph's nodes, if they are not sorted yet; those of its subgraphs stay as they are.

    Raises:
        ValueError: the graph has a cycle.
    """
    if not is_sorted(graph):
        sort_nodes(graph, [(float(place), copied_node(node)) for place, node in enumerate(graph.node)])


def is_sorted(graph: onnx.GraphProto) -> bool:
    """Whether every value is written before it is read."""
    flow = Flow.of(graph)
    return all(flow.producer.get(name, -1) < i for i, read in enumerate(flow.inputs) for name in read)


def sort_nodes(graph: onnx.GraphProto, nodes: Sequence[tuple[float, onnx.NodeProto]]) -> None:
    """Replace a graph's nodes by these, sorted so that values are written before they are read.

    Each node comes with its preferred place; ties in the partial order are broken by it, then by the order given.
    """
    places = [place for place, _ in nodes]
    del graph.node[:]
    graph.node.extend(node for _, node in nodes)
    flow = Flow.of(graph)
    waiting = [len({flow.producer[name] for name in read if name in flow.producer}) for read in flow.inputs]
    ready = [(places[i], i) for i, count in enumerate(waiting) if count == 0]
    heapq.heapify(ready)
    order: list[int] = []
    while ready:
        _, i = heapq.heappop(ready)
        order.append(i)
        readers = {reader for name in flow.nodes[i].output if name for reader in members(flow.consumers.get(name, 0))}
        for reader in sorted(readers):
            waiting[reader] -= 1
            if waiting[reader] == 0:
                heapq.heappush(ready, (places[reader], reader))
    if len(order) != len(flow.nodes):
        raise ValueError("the rewritten graph has a cycle")
    kept = [copied_node(flow.nodes[i]) for i in order]
    del graph.node[:]
    graph.node.extend(kept)


def copied_node(node: onnx.NodeProto) -> onnx.NodeProto:
    """A deep copy of a node."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy
