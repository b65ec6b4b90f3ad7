"""What a compilation changed, region by region: as JSON for programs and in words for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx

from skipc.passes.flow import node_inputs, subgraphs
from skipc.runtime import names
from skipc.runtime.plan import Block, Plan

Json = dict[str, Any]


def difference_json(original: onnx.ModelProto, compiled: onnx.ModelProto, plan: Plan) -> Json:
    """What `skipc diff` prints.

    Args:
        original: as `skipc restore` gives it back, normalised, so that nodes have the names of the plan.
        compiled: the compiled model.
        plan: the plan inside it.
    """
    nodes = {node.name: node for node in original.graph.node}
    sizes = _weight_sizes(original.graph)
    regions = [_region_json(block, gate, plan, nodes, sizes, compiled) for gate, block in enumerate(plan.blocks)]
    inside = {name for block in plan.blocks for name in block.region.nodes}
    return {
        "regions": regions,
        "padding_left_out": [plan.padding.mask, *plan.padding.values] if plan.padding else [],
        "nodes": {"original": len(nodes), "moved": len(inside), "compiled": sum(1 for _ in _all_nodes(compiled.graph))},
        "size_bytes": {"original": original.ByteSize(), "compiled": compiled.ByteSize()},
        "inputs_added": [item.name for item in compiled.graph.input if names.is_ours(item.name)],
        "outputs_added": [item.name for item in compiled.graph.output if names.is_ours(item.name)],
        "metadata_added": [item.key for item in compiled.metadata_props if names.is_ours(item.key)],
    }


def _region_json(
    block: Block,
    gate: int,
    plan: Plan,
    nodes: dict[str, onnx.NodeProto],
    sizes: dict[str, int],
    compiled: onnx.ModelProto,
) -> Json:
    region = block.region
    moved = [nodes[name] for name in region.nodes if name in nodes]
    branches = {names.branch(graph.name): graph for node in compiled.graph.node for graph in _graphs_below(node)}
    full, bypass = (branches.get(names.branch(name)) for name in (names.full(region.name), names.bypass(region.name)))
    return {
        "name": region.name,
        "kind": region.kind,
        "entry": region.entry,
        "exit": region.exit,
        "if": names.block(region.name),
        "nodes": _operators(moved),
        "parameters": _parameters(moved, sizes),
        "weights_moved": [item.name for item in full.initializer] if full else [],
        "bypass": {
            "kind": block.bypass.kind,
            "nodes": _operators(bypass.node) if bypass else {},
            "parameters": _bypass_parameters(bypass, compiled.graph) if bypass else 0,
        },
        "gate": {
            "pooling": block.gate.pooling,
            "granularity": block.gate.granularity,
            "nodes": _operators(node for node in compiled.graph.node if node.name.startswith(names.gate(region.name))),
            "threshold": _finite(plan.thresholds[plan.level][gate]),
        },
    }


def _finite(threshold: float) -> float | str:
    return threshold if np.isfinite(threshold) else ("always" if threshold > 0 else "never")


def _operators(nodes: Iterable[onnx.NodeProto]) -> dict[str, int]:
    """Number of nodes by operator, the commonest first."""
    return dict(Counter(node.op_type for node in nodes).most_common())


def _weight_sizes(graph: onnx.GraphProto) -> dict[str, int]:
    """Number of elements of each initializer."""
    return {item.name: int(np.prod(item.dims, dtype=np.int64)) for item in graph.initializer}


def _parameters(nodes: Sequence[onnx.NodeProto], sizes: dict[str, int]) -> int:
    """Elements of the initializers that the nodes read, each counted once."""
    return sum(sizes.get(name, 0) for name in {name for node in nodes for name in node_inputs(node)})


def _bypass_parameters(branch: onnx.GraphProto, graph: onnx.GraphProto) -> int:
    return _parameters(branch.node, {**_weight_sizes(graph), **_weight_sizes(branch)})


def _all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for inner in subgraphs(node):
            yield from _all_nodes(inner)


def _graphs_below(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for graph in subgraphs(node):
        yield graph
        for inner in graph.node:
            yield from _graphs_below(inner)


def difference_text(found: Json) -> str:
    """The same in words."""
    nodes, size = found["nodes"], found["size_bytes"]
    lines = [
        f"{nodes['moved']} of {nodes['original']} nodes stand behind {len(found['regions'])} gates; "
        f"{nodes['compiled']} nodes in all",
        f"{size['original'] / 1e6:.3g} MB before, {size['compiled'] / 1e6:.3g} MB now",
    ]
    for region in found["regions"]:
        lines += _region_lines(region)
    if found["padding_left_out"]:
        mask, *values = found["padding_left_out"]
        lines.append(f"padding, by {mask}, is left out from {len(values)} values on: {', '.join(values)}")
    for what in ("inputs", "outputs", "metadata"):
        if found[f"{what}_added"]:
            lines.append(f"{what} added: {', '.join(found[f'{what}_added'])}")
    return "\n".join(lines)


def _region_lines(region: Json) -> list[str]:
    bypass, gate = region["bypass"], region["gate"]
    moved = region["weights_moved"]
    lines = [
        f"{region['name']}: from {region['entry']} to {region['exit']}",
        f"  moved into {region['if']}: {_counted(region['nodes'])} ({region['parameters']:,} parameters)",
        f"  {bypass['kind']} bypass: {_counted(bypass['nodes'])} ({bypass['parameters']:,} parameters)",
        f"  gate: {_gate_words(gate)}",
    ]
    return [*lines, f"  weights that moved with it: {', '.join(moved)}"] if moved else lines


def _gate_words(gate: Json) -> str:
    limit = gate["threshold"]
    verdict = f"{limit} bypassed" if isinstance(limit, str) else f"bypassed below {limit:.4g}"
    if gate["pooling"] == "constant":
        return f"the same for every input, {verdict}"
    read = "margin of the read-out" if gate["pooling"] == "top" else f"{gate['pooling']} of the entry"
    return f"{read}, {_counted(gate['nodes'])}, one decision a {gate['granularity']}, {verdict}"


def _counted(operators: dict[str, int]) -> str:
    total = sum(operators.values())
    listed = ", ".join(name if count == 1 else f"{count} {name}" for name, count in operators.items())
    return f"{total} node{'' if total == 1 else 's'} ({listed})" if operators else "no node"
