"""Foretell how much larger a compiled file is, and how much more memory loading it takes.

ONNX Runtime holds weights in the branch of an `If` both as they came and as they are used, and laid out anew where they
are kernels; matrices outside that a branch multiplies by are packed for it beside the original.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

import onnx

from skipc.passes.external import entries
from skipc.passes.flow import node_inputs, subgraphs
from skipc.passes.operators import CONVOLUTION_OPS, PRODUCT_OPS
from skipc.runtime import names

KERNELS, OTHERS, READ = 2.8, 1.4, 0.2
"""Bytes held while ONNX Runtime 1.32 loads for each byte: of kernels in branches, of other weights there, and of
matrices outside that branches multiply by; see `benchmarks/results/placement.json`."""


@dataclass(frozen=True)
class Footprint:
    """What a compiled model adds to its original, bytes.

    Attributes:
        file: by which the file grows; data in other files, which both refer to, left out.
        branches: weights of the original that moved into branches.
        load: by which the memory grows that loading it takes on the CPU, predicted.
    """

    file: int
    branches: int
    load: int


def footprint(original: onnx.ModelProto, compiled: onnx.ModelProto) -> Footprint:
    """Compare a compiled model with its original."""
    growth = max(0, compiled.ByteSize() - original.ByteSize())
    branches = [graph for node in compiled.graph.node if names.is_ours(node.name) for graph in subgraphs(node)]
    inside = {item.name: _size(item) for graph in branches for item in graph.initializer}
    outside = {item.name: _size(item) for item in compiled.graph.initializer if len(item.dims) > 1}
    nodes = [node for graph in branches for node in graph.node]
    kernels = set(_read_by(nodes, CONVOLUTION_OPS)) & inside.keys()
    taken = _taken(compiled.graph)
    outside |= taken
    read = set(_read_by(nodes, PRODUCT_OPS)) & outside.keys()
    held = KERNELS * _sum(inside, kernels) + OTHERS * _sum(inside, inside.keys() - kernels) + READ * _sum(outside, read)
    theirs = {name for name in inside if not names.is_ours(name)}
    return Footprint(growth, _sum(inside, theirs), growth + sum(taken.values()) + round(held))


def _taken(graph: onnx.GraphProto) -> dict[str, int]:
    """Sizes of the weights that are taken from others when the model is loaded, by name."""
    weights = {item.name: item for item in graph.initializer}
    found = {}
    for node in graph.node:
        if not names.is_ours(node.name) or node.op_type != "Gather" or not weights.keys() >= set(node.input):
            continue
        whole, index = (weights[name] for name in node.input)
        if len(index.dims) == 1:
            found[node.output[0]] = _size(whole) * index.dims[0] // whole.dims[node.attribute[0].i]
    return found


def _read_by(nodes: list[onnx.NodeProto], op_types: frozenset[str]) -> Iterator[str]:
    return (name for node in nodes if node.op_type in op_types for name in node_inputs(node))


def _sum(sizes: Mapping[str, int], wanted: set[str]) -> int:
    return sum(sizes[name] for name in wanted)


def _size(tensor: onnx.TensorProto) -> int:
    """Bytes of a tensor's elements; four for each where they lie in a field of their type."""
    length = entries(tensor).get("length")
    return int(length) if length else len(tensor.raw_data) or 4 * prod(tensor.dims)
