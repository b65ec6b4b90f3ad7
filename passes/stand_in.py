"""Run a model without its weights: nodes make them up, each when it is first needed.

Shapes and types of values do not depend on what weights hold, and neither does whether two graphs with the same nodes
compute the same. So a model too large for memory is run with stand-ins of which few are there at a time.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from skipc.passes.base import copied
from skipc.passes.external import refers, taken
from skipc.passes.flow import Flow, members
from skipc.passes.normalize import copied_node, sort_nodes
from skipc.passes.widen import is_narrow, widened

FILLING = 0.01
LARGEST = 0.05
"""Random matrices lie between its negative and itself."""

GAINS = (0.5, 1.5)
"""Random vectors lie between these: variances and scales are positive."""


def runnable(model: onnx.ModelProto, *, random: bool = False) -> onnx.ModelProto:
    """The model itself, or one with stand-ins for the weights that are not in it, or with float32 for bfloat16."""
    model = StandIns(random).apply(model) if refers(model) else model
    return widened(model) if is_narrow(model) else model


@dataclass(frozen=True)
class StandIns:
    """Put nodes in place of the initializers that refer to other files.

    Each is held back until a value is there that its first reader needs too; otherwise a runtime might make up all of
    them first.

    Attributes:
        random: draw the elements, by a seed made from the name; else all are equal. A runtime goes on drawing from run
            to run, so that only the n-th runs of two sessions can be compared.
    """

    random: bool = False

    def apply(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return the copy that needs no other file."""
        model = copied(model)
        graph = model.graph
        tensors = taken(graph)
        fed = {tensor.name for tensor in tensors}
        for i in reversed([i for i, item in enumerate(graph.input) if item.name in fed]):
            del graph.input[i]
        flow = Flow.of(graph)
        placed = [(float(i), copied_node(node)) for i, node in enumerate(flow.nodes)]
        for tensor in tensors:
            name = f"skipc/stand-in/{tensor.name}"
            graph.initializer.append(numpy_helper.from_array(np.array(tensor.dims, np.int64), f"{name}/dims"))
            place, awaited = _first_reader(flow, tensor.name)
            placed += [(place, node) for node in (*_shape(name, awaited), *self._values(tensor, name))]
        graph.initializer.append(numpy_helper.from_array(np.array(0, np.int64), "skipc/stand-in/zero"))
        sort_nodes(graph, placed)
        return model

    def _values(self, tensor: onnx.TensorProto, name: str) -> list[onnx.NodeProto]:
        filling = helper.make_tensor("", TensorProto.FLOAT, [1], [FILLING])
        nodes = [helper.make_node("ConstantOfShape", [f"{name}/shape"], [f"{name}/filled"], value=filling)]
        if self.random:
            low, high = (-LARGEST, LARGEST) if len(tensor.dims) > 1 else GAINS
            seed = float(zlib.crc32(tensor.name.encode()) % 2**20)
            drawn = helper.make_node(
                "RandomUniformLike", [nodes[-1].output[0]], [f"{name}/drawn"], low=low, high=high, seed=seed
            )
            nodes.append(drawn)
        nodes.append(helper.make_node("Cast", [nodes[-1].output[0]], [f"{name}/cast"], to=tensor.data_type))
        if tensor.data_type == TensorProto.FLOAT:
            nodes.pop()
        nodes[-1].output[0] = tensor.name
        return nodes


def _shape(name: str, awaited: str) -> list[onnx.NodeProto]:
    """The shape of a stand-in, once a value is there: its extents plus nothing for each element of the value."""
    if not awaited:
        return [helper.make_node("Identity", [f"{name}/dims"], [f"{name}/shape"])]
    return [
        helper.make_node("Size", [awaited], [f"{name}/size"]),
        helper.make_node("Mul", [f"{name}/size", "skipc/stand-in/zero"], [f"{name}/nothing"]),
        helper.make_node("Add", [f"{name}/dims", f"{name}/nothing"], [f"{name}/shape"]),
    ]


def _first_reader(flow: Flow, weight: str) -> tuple[float, str]:
    """The place of the first node that needs a weight, and the last of the values that it waits for anyway."""
    readers = flow.union(flow.descendants, members(flow.consumers.get(weight, 0)))
    live = readers & flow.live
    if not live:
        return -1.0, ""
    first = next(members(live))
    waits = max(flow.data_inputs(first), key=lambda name: flow.producer.get(name, -1))
    return first - 0.5, waits
