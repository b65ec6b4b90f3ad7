"""A transformer of 3 GB with random weights in a file of its own, written layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WEIGHTS = "large.onnx.data"
ALIGNMENT = 4096
OPSET = 17


@dataclass(frozen=True)
class Size:
    """What the model is to be: a layer has 12 width² weights of 4 bytes each."""

    layers: int = 24
    width: int = 1632
    heads: int = 16
    vocabulary: int = 1000

    @property
    def layer_bytes(self) -> int:
        """Bytes of the weights of one layer."""
        return 12 * self.width**2 * 4


@dataclass
class LargeModel:
    """Collects the nodes of a pre-norm decoder while its weights go straight to the disk."""

    folder: Path
    size: Size
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    end: int = 0

    def write(self) -> Path:
        """Write ``large.onnx`` with its data; where it is."""
        (self.folder / WEIGHTS).unlink(missing_ok=True)
        size = self.size
        value = self._node("Gather", self._weight("embedding", size.vocabulary, size.width), "ids")
        for layer in range(size.layers):
            value = self._node("Add", value, self._attention(f"layer.{layer}", self._norm(f"layer.{layer}.1", value)))
            value = self._node("Add", value, self._perceptron(f"layer.{layer}", self._norm(f"layer.{layer}.2", value)))
        self._node("MatMul", self._norm("last", value), self._weight("head", size.width, 8), output="logits")
        ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "length"])
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "length", 8])
        graph = helper.make_graph(self.nodes, "large", [ids], [logits], self.weights)
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="skipc.benchmarks")
        path = self.folder / "large.onnx"
        path.write_bytes(model.SerializeToString(deterministic=True))
        return path

    def _node(self, op_type: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        name = output or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=f"n{len(self.nodes)}", **attributes))
        return name

    def _weight(self, name: str, *shape: int) -> str:
        """A random matrix, or a vector of ones, appended to the data."""
        scale = np.float32(0.5 / np.sqrt(shape[0]))
        random = np.random.default_rng(len(self.weights))
        array = np.ones(shape, np.float32) if len(shape) == 1 else random.standard_normal(shape, np.float32) * scale
        self.end += -self.end % ALIGNMENT
        with (self.folder / WEIGHTS).open("ab") as file:
            file.truncate(self.end)
            array.tofile(file)
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
        for key, value in (("location", WEIGHTS), ("offset", self.end), ("length", array.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        self.weights.append(tensor)
        self.end += array.nbytes
        return name

    def _constant(self, values: Sequence[int]) -> str:
        name = f"shape.{'.'.join(map(str, values))}"
        if all(item.name != name for item in self.weights):
            self.weights.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def _norm(self, name: str, value: str) -> str:
        scale = self._weight(f"{name}.scale", self.size.width)
        return self._node("LayerNormalization", value, scale, axis=-1)

    def _attention(self, name: str, value: str) -> str:
        width, heads = self.size.width, self.size.heads
        split = self._constant([0, 0, heads, width // heads])
        parts = [self._node("MatMul", value, self._weight(f"{name}.{part}", width, width)) for part in "qkv"]
        shaped = [self._node("Reshape", part, split) for part in parts]
        query, values = (self._node("Transpose", shaped[i], perm=[0, 2, 1, 3]) for i in (0, 2))
        key = self._node("Transpose", shaped[1], perm=[0, 2, 3, 1])
        scores = self._node("Softmax", self._node("MatMul", query, key), axis=-1)
        context = self._node("Transpose", self._node("MatMul", scores, values), perm=[0, 2, 1, 3])
        joined = self._node("Reshape", context, self._constant([0, 0, width]))
        return self._node("MatMul", joined, self._weight(f"{name}.out", width, width))

    def _perceptron(self, name: str, value: str) -> str:
        width = self.size.width
        hidden = self._node("Relu", self._node("MatMul", value, self._weight(f"{name}.up", width, 4 * width)))
        return self._node("MatMul", hidden, self._weight(f"{name}.down", 4 * width, width))
