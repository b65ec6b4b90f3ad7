"""Write new nodes: a thin layer over onnx-graphsurgeon that names everything under one prefix.

What exists is moved as it is, in protobuf, so that nothing of it is lost; only what is new is built here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto, numpy_helper
from onnx.helper import tensor_dtype_to_np_dtype

from skipc.runtime.plan import Array

AXES_AS_INPUT = {"ReduceMean": 18, "ReduceMax": 18, "ReduceMin": 18, "ReduceSum": 13, "Unsqueeze": 13}

PACKED = ("int4", "uint4")
"""Types of two elements in a byte, which onnx-graphsurgeon cannot write."""


@dataclass(frozen=True)
class Fragment:
    """New nodes with the initializers that they read.

    Attributes:
        nodes: in an order that they can run in.
        initializers: read by them, or by what computes weights.
        weights: nodes that compute weights from constants alone, which runtimes do once, when they load the model. They
            belong into the graph around the branches.
    """

    nodes: tuple[onnx.NodeProto, ...]
    initializers: tuple[onnx.TensorProto, ...]
    weights: tuple[onnx.NodeProto, ...] = ()


class Builder:
    """Collects nodes; values are passed around by name.

    Args:
        prefix: of the names of all nodes, values and initializers that get no name of their own.
        opset: version of the default operator set to write for.
    """

    def __init__(self, prefix: str, opset: int) -> None:
        self._prefix = prefix
        self._opset = opset
        self._graph = gs.Graph(opset=opset)
        self._count = 0
        self._tensors: dict[str, gs.Tensor] = {}
        self._packed: list[onnx.TensorProto] = []

    def name(self, stem: str) -> str:
        """A name under the prefix that nothing has yet."""
        self._count += 1
        return f"{self._prefix}/{stem}_{self._count}"

    def constant(self, values: Any, dtype: Any = np.float32, *, name: str = "") -> str:
        """Add an initializer and return its name."""
        name = name or self.name("const")
        array = np.array(values, dtype=dtype, order="C")
        if array.dtype.name in PACKED:
            self._packed.append(numpy_helper.from_array(array, name))
        else:
            self._tensors[name] = gs.Constant(name, array)
        return name

    def op(
        self,
        op_type: str,
        inputs: Sequence[str],
        *,
        output: str = "",
        others: Sequence[str] = (),
        unread: int = 0,
        domain: str = "",
        **attrs: Any,
    ) -> str:
        """Add a node and return the name of its first output.

        Args:
            op_type: of the operator.
            inputs: names of values.
            output: name of the first output; empty for a new one.
            others: names of further outputs.
            unread: number of outputs behind these, which nobody reads.
            domain: of the operator set; empty for ONNX's own.
            attrs: attributes.
        """
        output = output or self.name(op_type)
        operands = [self._tensor(name) for name in inputs]
        results = [self._tensor(name) for name in (output, *others, *(self.name(op_type) for _ in range(unread)))]
        kind = {"op": op_type, "domain": domain or None}
        self._graph.layer(**kind, name=output, inputs=operands, outputs=results, attrs=attrs)
        return output

    def several(self, op_type: str, inputs: Sequence[str], outputs: int) -> tuple[str, ...]:
        """Add a node and return the names of all its outputs."""
        found = tuple(self.name(op_type) for _ in range(outputs))
        operands, results = ([self._tensor(name) for name in names] for names in (inputs, found))
        self._graph.layer(op=op_type, name=found[0], inputs=operands, outputs=results)
        return found

    def _tensor(self, name: str) -> gs.Tensor:
        return self._tensors.setdefault(name, gs.Variable(name))

    def reduce(self, op_type: str, value: str, axes: Sequence[int], *, keepdims: int = 0, output: str = "") -> str:
        """Add a reduction, with the axes where the opset wants them."""
        if self._opset < AXES_AS_INPUT[op_type]:
            return self.op(op_type, [value], output=output, axes=list(axes), keepdims=keepdims)
        return self.op(op_type, [value, self.constant(axes, np.int64)], output=output, keepdims=keepdims)

    def unsqueeze(self, value: str, axis: int, *, output: str = "") -> str:
        """Add an axis of extent one, with its position where the opset wants it."""
        if self._opset < AXES_AS_INPUT["Unsqueeze"]:
            return self.op("Unsqueeze", [value], output=output, axes=[axis])
        return self.op("Unsqueeze", [value, self.constant([axis], np.int64)], output=output)

    def cast(self, value: str, elem_type: int, *, output: str = "") -> str:
        """Add a cast to an ONNX element type."""
        return self.op("Cast", [value], output=output, to=int(elem_type))

    def to_float32(self, value: str, elem_type: int) -> str:
        """The value in float32; scores are pooled and compared in float32 whatever the model's type."""
        return value if elem_type == TensorProto.FLOAT else self.cast(value, TensorProto.FLOAT)

    def fragment(self) -> Fragment:
        """What was collected."""
        graph = gs.export_onnx(self._graph, do_type_check=False).graph
        return Fragment(tuple(graph.node), (*graph.initializer, *self._packed))


def as_type(array: Array, elem_type: int) -> Array:
    """An array in the element type of the model."""
    return array.astype(tensor_dtype_to_np_dtype(elem_type))
