"""Run a bfloat16 model where nothing computes in bfloat16: ONNX Runtime has no such kernels on the CPU.

Every bfloat16 value becomes float32, which holds it exactly. What a graph's structure decides is the same in both:
types but for that one, shapes, and whether two graphs with the same nodes compute the same.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from skipc.passes.base import copied
from skipc.passes.external import is_external, tensors
from skipc.passes.flow import subgraphs

NARROW, WIDE = TensorProto.BFLOAT16, TensorProto.FLOAT

TYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_dtype", "stash_type"})
"""Attributes of ONNX's operators that hold an element type."""


def is_narrow(model: onnx.ModelProto) -> bool:
    """Whether a model computes in bfloat16 somewhere."""
    return any(tensor.data_type == NARROW for tensor in tensors(model.graph)) or any(
        _casts(node) for node in _nodes(model.graph)
    )


def widened(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with float32 in place of bfloat16; weights in other files keep their type and must not be bfloat16."""
    model = copied(model)
    for tensor in tensors(model.graph):
        if tensor.data_type == NARROW and not is_external(tensor):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for node in _nodes(model.graph):
        for attribute in node.attribute:
            if attribute.name in TYPE_ATTRIBUTES and attribute.i == NARROW:
                attribute.i = WIDE
    for graph in _graphs(model.graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.elem_type == NARROW:
                value.type.tensor_type.elem_type = WIDE
    return model


def _casts(node: onnx.NodeProto) -> bool:
    return any(item.name in TYPE_ATTRIBUTES and item.i == NARROW for item in node.attribute)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from _graphs(inner)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    return (node for inner in _graphs(graph) for node in inner.node)
