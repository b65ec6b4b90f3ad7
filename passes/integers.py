"""Products in dynamic 8 bits: a value is quantized by its range as it comes, its weight beforehand.

``DynamicQuantizeLinear → MatMulInteger → Cast → Mul`` by the scales of value and weight. A quantizer whose scale is fed
instead (`passes.freeze`) is taken for the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from skipc.passes.builder import Builder
from skipc.passes.normalize import copied_node
from skipc.runtime.plan import Array

QUANTIZERS = ("DynamicQuantizeLinear", "QuantizeLinear")

FUSED = "DynamicQuantizeMatMul"

FULL_RANGE, REDUCED_RANGE = 127, 64
"""Largest magnitude of weights; quantizers reduce it for processors whose 16-bit sums would overflow."""


@dataclass(frozen=True)
class Integers:
    """How a product in 8 bits is written.

    Attributes:
        quantizer: the node that quantizes the value; its first input is the value.
        scale: of the value.
        zero_point: of the value.
        elem_type: of the weights: INT8, or UINT8 about 128.
        largest: magnitude of a weight.
        is_there: whether the quantizer runs already where products are added.
    """

    quantizer: onnx.NodeProto
    scale: str
    zero_point: str
    elem_type: int
    largest: int
    is_there: bool = False

    @property
    def value(self) -> str:
        """The value in float."""
        return str(self.quantizer.input[0])

    def renamed(self, new: Mapping[str, str]) -> Integers:
        """The same where a copy of the quantizer writes its values under new names; itself where there is no copy."""
        if self.quantizer.output[0] not in new:
            return self
        copy = copied_node(self.quantizer)
        copy.output[:] = [new.get(name, name) for name in copy.output]
        scale, zero_point = (new.get(name, name) for name in (self.scale, self.zero_point))
        return replace(self, quantizer=copy, scale=scale, zero_point=zero_point, is_there=True)

    def write(self, builder: Builder, value: str, weight: Array) -> str:
        """Add value · weight, the weight with a scale for each column, and return the name of the result in float.

        Args:
            builder: collects the nodes.
            value: in float.
            weight: float [inputs, outputs].
        """
        quantized, scale, zero_point = self._quantized(builder, value)
        levels, steps = quantized_weight(weight, self.largest)
        middle = 128 if self.elem_type == TensorProto.UINT8 else 0
        dtype = helper.tensor_dtype_to_np_dtype(self.elem_type)
        operands = [builder.constant(levels + middle, dtype), zero_point, builder.constant(middle, dtype)]
        product = builder.cast(builder.op("MatMulInteger", [quantized, *operands]), TensorProto.FLOAT)
        return builder.op("Mul", [product, builder.op("Mul", [scale, builder.constant(steps)])])

    def _quantized(self, builder: Builder, value: str) -> tuple[str, str, str]:
        """The value in 8 bits with its scale and zero point, as it is there or by a quantizer of its own."""
        if self.is_there and value == self.value:
            return self.quantizer.output[0], self.scale, self.zero_point
        if self.quantizer.op_type == "QuantizeLinear":
            return builder.op("QuantizeLinear", [value, self.scale, self.zero_point]), self.scale, self.zero_point
        quantized, scale, zero_point = builder.several("DynamicQuantizeLinear", [value], 3)
        return quantized, scale, zero_point


@dataclass(frozen=True)
class FusedIntegers:
    """The same product as one node, com.microsoft's DynamicQuantizeMatMul, as ONNX Runtime's optimiser writes it.

    Attributes:
        elem_type: of the weights: INT8, or UINT8 about 128.
        largest: magnitude of a weight.
    """

    elem_type: int
    largest: int

    def write(self, builder: Builder, value: str, weight: Array) -> str:
        """Add value · weight, float [inputs, outputs], and return the name of the result."""
        levels, steps = quantized_weight(weight, self.largest)
        middle = 128 if self.elem_type == TensorProto.UINT8 else 0
        dtype = helper.tensor_dtype_to_np_dtype(self.elem_type)
        operands = [builder.constant(levels + middle, dtype), builder.constant(steps), builder.constant(middle, dtype)]
        return builder.op(FUSED, [value, *operands], domain="com.microsoft")


def quantized_weight(weight: Array, largest: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Levels of a weight [inputs, outputs], symmetric about zero, and the size of a step in each column, [outputs]."""
    highest = np.abs(weight).max(axis=0, initial=0.0)
    steps = (np.where(highest > 0, highest, 1.0) / largest).astype(np.float32)
    levels = np.clip(np.rint(weight / steps), -largest, largest)
    return levels.astype(np.int64), steps


def levels_of(weight: Array) -> tuple[int, int]:
    """Element type and largest magnitude of new weights beside these."""
    unsigned = weight.dtype == np.uint8
    largest = int(np.abs(weight.astype(np.int32) - 128 * unsigned).max(initial=0))
    elem_type = TensorProto.UINT8 if unsigned else TensorProto.INT8
    return elem_type, REDUCED_RANGE if 0 < largest <= REDUCED_RANGE else FULL_RANGE
