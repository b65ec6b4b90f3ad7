"""Take the axis of seeds out of products with scalars, where a sweep has a single seed.

onnx-ad gives derivatives a last axis, along which its seeds lie, and scalars that they are multiplied by an axis of
extent one. ONNX Runtime's CPU kernels broadcast one such axis against another element by element.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import onnx

from skipc.passes.base import copied, opset_of
from skipc.passes.builder import Builder
from skipc.passes.flow import Flow
from skipc.passes.normalize import sort_nodes


@dataclass(frozen=True)
class OneSeed:
    """Multiply and divide by scalars without the axis of seeds. Requires that there is one seed."""

    def apply(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return the copy."""
        model = copied(model)
        flow, scalars = Flow.of(model.graph), _scalars(model.graph)
        placed: list[tuple[float, onnx.NodeProto]] = []
        for place, node in enumerate(model.graph.node):
            made_by = flow.producer.get(node.input[1]) if node.op_type in ("Mul", "Div") else None
            widened = None if made_by is None else flow.nodes[made_by]
            if widened is None or widened.op_type != "Unsqueeze" or widened.input[0] not in scalars:
                placed.append((place, node))
                continue
            builder = Builder(f"skipc/seed/{node.name or node.output[0]}", opset_of(model))
            alone = builder.op(node.op_type, [builder.squeeze(node.input[0], -1), widened.input[0]])
            builder.unsqueeze(alone, -1, output=node.output[0])
            fragment = builder.fragment()
            model.graph.initializer.extend(fragment.initializers)
            placed += [(place, new) for new in fragment.nodes]
        sort_nodes(model.graph, placed)
        return model


def _scalars(graph: onnx.GraphProto) -> set[str]:
    """Names of constants with one element."""
    found = {item.name for item in graph.initializer if prod(item.dims) == 1}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value" and prod(node.attribute[0].t.dims) == 1:
            found.add(node.output[0])
    return found
