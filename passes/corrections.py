"""Let what bypasses write be corrected by inputs of the graph, and measure how far values are off: for learning.

A bypass writes f · weight + shift, with f what is left of a hidden layer, or the entry value. A correction adds
f · Δ to that, and a shift for every row: the derivative by the shift of rows is what Δ's is made of (g by row gives
fᵀ g), so that no graph has to sum weight gradients up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx
from onnx import TensorProto, helper

from skipc.passes.base import copied, opset_of
from skipc.passes.builder import Builder
from skipc.passes.flow import Flow
from skipc.passes.mask import ShiftMerges
from skipc.passes.normalize import sort_nodes
from skipc.runtime import names
from skipc.runtime.plan import Region


@dataclass(frozen=True)
class Correction:
    """Where a bypass can be corrected.

    Attributes:
        region: float32, with its features last.
        features: name of the values that Δ is applied to, in the model with the bypass in place.
        count: how many features there are.
    """

    region: Region
    features: str
    count: int

    @property
    def merged(self) -> str:
        """Name of the value that is corrected."""
        return names.merged(self.region.name)


@dataclass(frozen=True)
class AddCorrections:
    """Add inputs for each correction: `names.weight`, float32 [features, C], and `names.shift`, of the rows' shape.

    Requires a model with these bypasses in place (`ReplaceRegions`).
    """

    corrections: tuple[Correction, ...]

    def apply(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return the copy with the inputs."""
        shifted = tuple(replace(correction.region, merge=correction.merged) for correction in self.corrections)
        model = ShiftMerges(shifted).apply(model)
        flow = Flow.of(model.graph)
        nodes = list(model.graph.node)
        placed: list[tuple[float, onnx.NodeProto]] = []
        for correction in self.corrections:
            weight, place = names.weight(correction.merged), flow.producer[correction.merged]
            extents = [correction.count, correction.region.channels]
            model.graph.input.append(helper.make_tensor_value_info(weight, TensorProto.FLOAT, extents))
            builder = Builder(weight, opset_of(model))
            product = builder.op("MatMul", [correction.features, weight])
            nodes[place].input[0] = builder.op("Add", [nodes[place].input[0], product])
            placed += [(place - 0.5, node) for node in builder.fragment().nodes]
        sort_nodes(model.graph, [*enumerate(nodes), *placed])
        return model


@dataclass(frozen=True)
class AddError:
    """Add the output `names.ERROR`, float32 [1]: the sum over values v of weight · ‖v - w‖².

    Each w is an input `names.wanted`, of the value's shape; the weights are the input `names.ERROR_WEIGHTS`, float32
    [values].

    Attributes:
        values: names of float32 values, with their ranks.
    """

    values: tuple[tuple[str, int], ...]

    def apply(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return the copy with the output in place of its others."""
        model = copied(model)
        builder = Builder(names.ERROR, opset_of(model))
        found: list[str] = []
        for value, rank in self.values:
            wanted = names.wanted(value)
            model.graph.input.append(helper.make_tensor_value_info(wanted, TensorProto.FLOAT, [None] * rank))
            off = builder.op("Sub", [value, wanted])
            squares = builder.op("Mul", [off, off])
            total = builder.reduce("ReduceSum", squares, range(rank), keepdims=1)
            found.append(builder.op("Reshape", [total, builder.constant([1], "int64")]))
        joined = builder.op("Concat", found, axis=0)
        weights = helper.make_tensor_value_info(names.ERROR_WEIGHTS, TensorProto.FLOAT, [len(self.values)])
        model.graph.input.append(weights)
        weighed = builder.op("Mul", [joined, names.ERROR_WEIGHTS])
        builder.reduce("ReduceSum", weighed, [0], keepdims=1, output=names.ERROR)
        fragment = builder.fragment()
        model.graph.node.extend(fragment.nodes)
        model.graph.initializer.extend(fragment.initializers)
        del model.graph.output[:]
        model.graph.output.append(helper.make_tensor_value_info(names.ERROR, TensorProto.FLOAT, [1]))
        return model
