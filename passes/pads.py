"""Take unequal padding out of convolutions: onnx-ad differentiates them as if they padded both ends alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from skipc.passes.base import copied
from skipc.passes.normalize import copied_node


@dataclass(frozen=True)
class SplitPads:
    """Write convolutions that pad one end more than the other as `Pad` and a convolution without padding.

    What is computed stays the same. For differentiating only: ONNX Runtime is slower with two nodes.
    """

    def apply(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return the copy."""
        model = copied(model)
        nodes: list[onnx.NodeProto] = []
        for node in model.graph.node:
            pads = _pads(node)
            half = len(pads) // 2
            kept = copied_node(node)
            if pads[:half] != pads[half:]:
                nodes.append(_pad_before(model.graph, kept, pads))
            nodes.append(kept)
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        return model


def _pads(node: onnx.NodeProto) -> list[int]:
    """Explicit padding of a convolution, first all beginnings, then all ends; empty for every other node."""
    if node.op_type != "Conv":
        return []
    return next((list(item.ints) for item in node.attribute if item.name == "pads"), [])


def _pad_before(graph: onnx.GraphProto, node: onnx.NodeProto, pads: list[int]) -> onnx.NodeProto:
    """The `Pad` in front of a convolution, which reads from it and pads nothing itself any more."""
    half, padded = len(pads) // 2, f"skipc/pads/{node.name}"
    whole = np.array([0, 0, *pads[:half], 0, 0, *pads[half:]], np.int64)
    graph.initializer.append(numpy_helper.from_array(whole, f"{padded}/pads"))
    found = helper.make_node("Pad", [node.input[0], f"{padded}/pads"], [padded], name=padded)
    node.input[0] = padded
    for item in node.attribute:
        if item.name == "pads":
            item.ints[:] = [0] * len(pads)
    return found
