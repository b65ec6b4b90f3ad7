"""Products with a constant weight, in the number formats that models come in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from skipc.passes.bits import WIDTHS, Bits
from skipc.passes.dequantized import LARGEST, Dequantized, stored
from skipc.passes.flow import Flow, NodeSet, members
from skipc.passes.integers import FUSED, QUANTIZERS, FusedIntegers, Integers, levels_of
from skipc.runtime.plan import Array

Form = Integers | FusedIntegers | Bits | Dequantized
"""How a product is written that is none of floats; new ones with other weights are written alike."""


@dataclass(frozen=True)
class Product:
    """A product of a value with a constant weight.

    Attributes:
        value: in float.
        weight: name of the constant, or of what is dequantized from one.
        inputs: units of the value.
        output_axis: axis of the weight along which the result's units lie.
        others: constants beside the weight that may have an extent of their own for each unit of the result.
        form: how it is written; None in float.
    """

    value: str
    weight: str
    inputs: int
    output_axis: int
    others: tuple[str, ...] = ()
    form: Form | None = None


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """An attribute of a node."""
    found = [helper.get_attribute_value(item) for item in node.attribute if item.name == name]
    return found[0] if found else default


def product_at(flow: Flow, constants: Mapping[str, Array], position: int) -> Product | None:
    """The product whose result in float this node writes; None where it writes none."""
    node = flow.nodes[position]
    if node.op_type == "Mul":
        return _integer_product(flow, constants, node)
    if node.op_type == "MatMulNBits":
        return _bits_product(constants, node)
    if node.op_type == FUSED:
        return _fused_product(constants, node)
    weight = stored(flow, constants, node.input[1]) if node.op_type in ("Conv", "MatMul", "Gemm") else ""
    if weight not in constants:
        return None
    shape, others = constants[weight].shape, tuple(node.input[2:])
    form = None if weight == node.input[1] else _dequantized(flow, constants, node.input[1])
    if node.op_type == "Conv":
        if form is not None:
            return None
        return Product(node.input[0], node.input[1], shape[1], 0, others) if attribute(node, "group", 1) == 1 else None
    turned = node.op_type == "Gemm" and bool(attribute(node, "transB", 0))
    if len(shape) != 2:
        return None
    return Product(node.input[0], node.input[1], shape[turned], int(not turned), others, form)


def _dequantized(flow: Flow, constants: Mapping[str, Array], weight: str) -> Dequantized | None:
    node = flow.nodes[flow.producer[weight]]
    kind = constants[node.input[0]].dtype.name
    size = int(attribute(node, "block_size", 0))
    return Dequantized(kind, size, constants[node.input[1]].dtype) if kind in LARGEST else None


def _bits_product(constants: Mapping[str, Array], node: onnx.NodeProto) -> Product | None:
    """A MatMulNBits whose constants are all here; none where inputs are taken out of their order (`g_idx`)."""
    numbers = {name: int(attribute(node, name, 0)) for name in ("K", "bits", "block_size", "accuracy_level")}
    others = tuple(name for name in node.input[2:] if name)
    if numbers["bits"] not in WIDTHS or "".join(node.input[4:5]) or not {node.input[1], *others} <= constants.keys():
        return None
    form = Bits(numbers["bits"], numbers["block_size"], numbers["accuracy_level"], constants[node.input[2]].dtype)
    return Product(node.input[0], node.input[1], numbers["K"], 0, others, form)


def _fused_product(constants: Mapping[str, Array], node: onnx.NodeProto) -> Product | None:
    weight, others = node.input[1], tuple(name for name in node.input[2:] if name)
    if not {weight, *others} <= constants.keys():
        return None
    form = FusedIntegers(*levels_of(constants[weight]))
    return Product(node.input[0], weight, len(constants[weight]), 1, others, form)


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
        weight = constants[product.input[1]]
        form = Integers(quantizer, scale, zero_point, *levels_of(weight))
        return Product(form.value, product.input[1], len(weight), 1, (beside[0], *product.input[3:]), form)
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


def form_of(flow: Flow, constants: Mapping[str, Array], inside: NodeSet, value: str) -> Form | None:
    """How products of a value are written among these nodes; None in float, and where there are none."""
    for reader in members(flow.consumers.get(value, 0) & inside):
        node = flow.nodes[reader]
        found = product_at(flow, constants, reader)
        if found is not None and found.form is not None and found.value == value:
            return None if _between_quantizers(flow, found) else found.form
        if node.op_type in QUANTIZERS and node.input[0] == value:
            behind = (product_at(flow, constants, i) for i in members(flow.reached_from(node.output[0]) & inside))
            forms = (product.form for product in behind if product is not None and product.value == value)
            return next((form for form in forms if isinstance(form, Integers)), None)
    return None


def _between_quantizers(flow: Flow, product: Product) -> bool:
    """Whether a value is dequantized before its product: from outside, the two are not computed as one in 8 bits."""
    return isinstance(product.form, Dequantized) and _producer(flow, product.value, "DequantizeLinear") is not None
