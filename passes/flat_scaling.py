"""Multiply derivatives by scalars as flat values, which is what ONNX Runtime's CPU kernels are fast at.

onnx-ad gives derivatives one axis more, along which its seeds lie, and scalars that they are multiplied by an axis of
extent one. With a single seed, kernels broadcast one such axis against the other, element by element.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import onnx

from skipc.passes.base import copied, opset_of
from skipc.passes.builder import Builder
from skipc.passes.flow import Flow, node_inputs
from skipc.passes.normalize import sort_nodes


@dataclass(frozen=True)
class FlatScaling:
    """Write products and quotients of derivatives and scalars over flat values.

    Attributes:
        seed: name of the graph input that derivatives begin with; the original's own products stay as they are.
    """

    seed: str

    def apply(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return the copy."""
        model = copied(model)
        flow, scalars, derived = Flow.of(model.graph), _scalars(model.graph), self._derived(model.graph)
        placed: list[tuple[float, onnx.NodeProto]] = []
        for place, node in enumerate(model.graph.node):
            made_by = flow.producer.get(node.input[1]) if node.op_type in ("Mul", "Div") else None
            widened = None if made_by is None else flow.nodes[made_by]
            scaled = widened is not None and widened.op_type == "Unsqueeze" and widened.input[0] in scalars
            if widened is None or not scaled or node.input[0] not in derived:
                placed.append((place, node))
                continue
            builder = Builder(f"skipc/flat/{node.output[0]}", opset_of(model))
            flat = builder.op("Reshape", [node.input[0], builder.constant([-1], np.int64)])
            product = builder.op(node.op_type, [flat, widened.input[0]])
            builder.op("Reshape", [product, builder.op("Shape", [node.input[0]])], output=node.output[0])
            fragment = builder.fragment()
            model.graph.initializer.extend(fragment.initializers)
            placed += [(place, new) for new in fragment.nodes]
        sort_nodes(model.graph, placed)
        return model

    def _derived(self, graph: onnx.GraphProto) -> set[str]:
        """Names of values that hold derivatives: all that is made of the seed, but for shapes."""
        found = {self.seed}
        for node in graph.node:
            if node.op_type != "Shape" and not found.isdisjoint(node_inputs(node)):
                found.update(node.output)
        return found


def _scalars(graph: onnx.GraphProto) -> set[str]:
    """Names of constants with one element and no axis or one."""
    held = [(item.name, item.dims) for item in graph.initializer]
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            held.append((node.output[0], node.attribute[0].t.dims))
    return {name for name, dims in held if prod(dims) == 1 and len(dims) <= 1}
