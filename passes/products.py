"""Products with a constant weight, in the number formats that models come in, and products with new weights like them.

Dynamic int8: ``DynamicQuantizeLinear → MatMulInteger → Cast → Mul`` by the scales of value and weight. A quantizer
whose scale is fed instead (`passes.freeze`) is taken for the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from skipc.passes.builder import Builder
from skipc.passes.flow import Flow, NodeSet, members
from skipc.passes.normalize import copied_node
from skipc.runtime.plan import Array

QUANTIZERS = ("DynamicQuantizeLinear", "QuantizeLinear")

FULL_RANGE, REDUCED_RANGE = 127, 64
"""Largest magnitude of 8-bit weights; quantizers reduce it for processors whose 16-bit sums would overflow."""


@dataclass(frozen=True)
class Integers:
    """How one product with 8-bit weights is written.

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


@dataclass(frozen=True)
class Product:
    """A product of a value with a constant weight.

    Attributes:
        value: in float.
        weight: name of the constant.
        input_axis: axis of the weight along which the value's units lie.
        output_axis: axis of the weight along which the result's units lie.
        others: constants beside the weight that may have an extent of their own for each unit of the result.
        integers: how it is written in 8 bits; None in float.
    """

    value: str
    weight: str
    input_axis: int
    output_axis: int
    others: tuple[str, ...] = ()
    integers: Integers | None = None


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """An attribute of a node."""
    found = [helper.get_attribute_value(item) for item in node.attribute if item.name == name]
    return found[0] if found else default


def product_at(flow: Flow, constants: Mapping[str, Array], position: int) -> Product | None:
    """The product whose result in float this node writes; None where it writes none."""
    node = flow.nodes[position]
    if node.op_type == "Mul":
        return _integer_product(flow, constants, node)
    if node.op_type == "Conv":
        plain = node.input[1] in constants and attribute(node, "group", 1) == 1
        return Product(node.input[0], node.input[1], 1, 0, tuple(node.input[2:])) if plain else None
    if node.op_type not in ("MatMul", "Gemm") or constants.get(node.input[1], np.zeros(0)).ndim != 2:
        return None
    turned = node.op_type == "Gemm" and bool(attribute(node, "transB", 0))
    return Product(node.input[0], node.input[1], int(turned), int(not turned), tuple(node.input[2:]))


def _integer_product(flow: Flow, constants: Mapping[str, Array], node: onnx.NodeProto) -> Product | None:
    """The product of which this Mul applies the scales."""
    for result, scales in (tuple(node.input), tuple(reversed(node.input))):
        product = _producer(flow, _producer(flow, result, "Cast"), "MatMulInteger")
        pair = _producer(flow, scales, "Mul")
        if product is None or pair is None or constants.get(product.input[1], np.zeros(0)).ndim != 2:
            continue
        quantizer = _producer(flow, product.input[0], *QUANTIZERS)
        if quantizer is None or len(product.input) < 3:
            continue
        scale, zero_point = _scale_of(quantizer)
        beside = [name for name in pair.input if name != scale]
        if scale not in pair.input or len(beside) != 1 or beside[0] not in constants or product.input[2] != zero_point:
            continue
        form = Integers(quantizer, scale, zero_point, *_levels(constants[product.input[1]]))
        others = (beside[0], *product.input[3:])
        return Product(form.value, product.input[1], 0, 1, others, form)
    return None


def _producer(flow: Flow, value: str | onnx.NodeProto | None, *op_types: str) -> onnx.NodeProto | None:
    """The node of one of these types that writes a value, or the first input of a node."""
    name = value.input[0] if isinstance(value, onnx.NodeProto) else value
    made_by = flow.producer.get(name or "")
    return flow.nodes[made_by] if made_by is not None and flow.nodes[made_by].op_type in op_types else None


def _scale_of(quantizer: onnx.NodeProto) -> tuple[str, str]:
    """Names of the scale and the zero point that a quantizer computes or is given."""
    found = quantizer.output[1:3] if quantizer.op_type == "DynamicQuantizeLinear" else quantizer.input[1:3]
    return (found[0], found[1]) if len(found) == 2 else ("", "")


def _levels(weight: Array) -> tuple[int, int]:
    """Element type and largest magnitude of new weights beside these."""
    unsigned = weight.dtype == np.uint8
    largest = int(np.abs(weight.astype(np.int32) - 128 * unsigned).max(initial=0))
    elem_type = TensorProto.UINT8 if unsigned else TensorProto.INT8
    return elem_type, REDUCED_RANGE if 0 < largest <= REDUCED_RANGE else FULL_RANGE


def integers_of(flow: Flow, constants: Mapping[str, Array], inside: NodeSet, value: str) -> Integers | None:
    """How products of a value with 8-bit weights are written among these nodes; None where there are none."""
    readers = (flow.nodes[i] for i in members(flow.consumers.get(value, 0) & inside))
    for quantizer in (node for node in readers if node.op_type in QUANTIZERS and node.input[0] == value):
        for i in members(flow.reached_from(quantizer.output[0]) & inside):
            found = _integer_product(flow, constants, flow.nodes[i]) if flow.nodes[i].op_type == "Mul" else None
            if found is not None and found.integers is not None and found.integers.quantizer.name == quantizer.name:
                return found.integers
    return None


def write_product(builder: Builder, form: Integers, value: str, weight: Array) -> str:
    """Add value · weight in 8 bits, the weight with a scale for each column, and return the name of the result.

    Args:
        builder: collects the nodes.
        form: of the product that this one is written like.
        value: in float.
        weight: float [inputs, outputs].
    """
    quantized, scale, zero_point = _quantized(builder, form, value)
    levels, steps = quantized_weight(weight, form.largest)
    middle = 128 if form.elem_type == TensorProto.UINT8 else 0
    dtype = helper.tensor_dtype_to_np_dtype(form.elem_type)
    operands = [builder.constant(levels + middle, dtype), zero_point, builder.constant(middle, dtype)]
    product = builder.cast(builder.op("MatMulInteger", [quantized, *operands]), TensorProto.FLOAT)
    return builder.op("Mul", [product, builder.op("Mul", [scale, builder.constant(steps)])])


def _quantized(builder: Builder, form: Integers, value: str) -> tuple[str, str, str]:
    """The value in 8 bits with its scale and zero point, as the form has it or by a quantizer of its own."""
    if form.is_there and value == form.value:
        return form.quantizer.output[0], form.scale, form.zero_point
    if form.quantizer.op_type == "QuantizeLinear":
        return builder.op("QuantizeLinear", [value, form.scale, form.zero_point]), form.scale, form.zero_point
    quantized, scale, zero_point = builder.several("DynamicQuantizeLinear", [value], 3)
    return quantized, scale, zero_point


def quantized_weight(weight: Array, largest: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Levels of a weight [inputs, outputs], symmetric about zero, and the size of a step in each column, [outputs]."""
    highest = np.abs(weight).max(axis=0, initial=0.0)
    steps = (np.where(highest > 0, highest, 1.0) / largest).astype(np.float32)
    levels = np.clip(np.rint(weight / steps), -largest, largest)
    return levels.astype(np.int64), steps
