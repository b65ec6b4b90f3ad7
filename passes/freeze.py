"""Hold the scales of values that are quantized as they come, so that what one row gives cannot depend on the others."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from skipc.passes.base import copied
from skipc.passes.flow import subgraphs
from skipc.passes.integers import FUSED

DYNAMIC = "DynamicQuantizeLinear"

COUPLING = frozenset({DYNAMIC, FUSED, "DynamicQuantizeLSTM"})
"""Operators whose scale follows the range of all that they are given; only the first shows it."""


def quantizes_dynamically(model: onnx.ModelProto) -> bool:
    """Whether a value's scale follows its range, over all samples of a batch."""
    return _quantizes(model.graph)


def _quantizes(graph: onnx.GraphProto) -> bool:
    return any(node.op_type in COUPLING or any(map(_quantizes, subgraphs(node))) for node in graph.node)


def scales_of(model: onnx.ModelProto) -> tuple[str, ...]:
    """Scales and zero points that a model computes from the range of its values."""
    return tuple(name for node in model.graph.node if node.op_type == DYNAMIC for name in node.output[1:])


@dataclass(frozen=True)
class FreezeScales:
    """Make the scales and zero points of dynamic quantizers inputs of the graph, under their own names.

    For running and not for shipping. Ensures that a model fed what it would compute gives the same values.
    """

    def apply(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return the copy."""
        model = copied(model)
        for node in model.graph.node:
            if node.op_type != DYNAMIC:
                continue
            scale, zero_point = node.output[1:]
            model.graph.input.append(helper.make_tensor_value_info(scale, TensorProto.FLOAT, []))
            model.graph.input.append(helper.make_tensor_value_info(zero_point, TensorProto.UINT8, []))
            node.op_type = "QuantizeLinear"
            node.input.extend([scale, zero_point])
            del node.output[1:]
        kept = [item for item in model.graph.value_info if item.name not in {i.name for i in model.graph.input}]
        del model.graph.value_info[:]
        model.graph.value_info.extend(kept)
        return model
