"""Weights whose data lie in a file of their own, in a model too large to be held in memory.

Such a tensor stays a reference all the way: passes move it about and never read it. Small ones, which hold shapes and
scales, are read when the model is, and remember the place that they came from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx
from onnx import TensorProto, helper

from skipc.passes.flow import subgraphs

MARK = "skipc.inlined"
"""Key of the entry of `external_data` that tells a tensor which was read from one that never lay elsewhere."""


def tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """All tensors in a graph: initializers, those in attributes, and those in subgraphs."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield attribute.t
            yield from attribute.tensors
        for inner in subgraphs(node):
            yield from tensors(inner)


def is_external(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor refers to data in another file."""
    return tensor.data_location == TensorProto.EXTERNAL


def entries(tensor: onnx.TensorProto) -> Mapping[str, str]:
    """Where the data of a tensor lie, or lay: ``location``, ``offset`` and ``length`` as they are written."""
    return {entry.key: entry.value for entry in tensor.external_data}


def refers(model: onnx.ModelProto) -> bool:
    """Whether a model has weights in another file."""
    return any(is_external(tensor) for tensor in tensors(model.graph))


def locations(model: onnx.ModelProto) -> tuple[str, ...]:
    """The files that a model's weights lie in, in the order of the graph."""
    found = (entries(tensor).get("location", "") for tensor in tensors(model.graph) if is_external(tensor))
    return tuple(dict.fromkeys(found))


def put_inline(tensor: onnx.TensorProto, data: bytes) -> None:
    """Give a tensor the data that it refers to."""
    tensor.raw_data = data
    tensor.data_location = TensorProto.DEFAULT
    tensor.external_data.add(key=MARK, value="1")


def refer_again(tensor: onnx.TensorProto) -> None:
    """Undo `put_inline`; any other tensor stays as it is."""
    if MARK in entries(tensor):
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        del tensor.external_data[-1]


def without_references(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with an input in place of each weight that lies elsewhere: what the checker can see without its data."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    fed = {item.name for item in copy.graph.input}
    for tensor in taken(copy.graph):
        if tensor.name not in fed:
            copy.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return copy


def taken(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    """Remove from a graph and those inside it the initializers that refer to other files, and return copies."""
    found = []
    for i in reversed(range(len(graph.initializer))):
        if is_external(graph.initializer[i]):
            copy = onnx.TensorProto()
            copy.CopyFrom(graph.initializer[i])
            found.append(copy)
            del graph.initializer[i]
    for node in graph.node:
        for inner in subgraphs(node):
            found += taken(inner)
    return found
