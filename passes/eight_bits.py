"""The region itself with its products in 8 bits: the bypass that leaves out precision.

Weights get one scale for each column, values one for each row (a token, a sample), so that no row depends on another
and the few tokens of huge values that language models have spoil no others (LLM.int8, arXiv 2208.07339). Everything
between the products stays in float.

Values are written as uint8 about 128 and weights as int8: the pair that processors have instructions for (VNNI).
Weights keep to seven of their bits: on older x86 processors ONNX Runtime adds pairs of products in 16 bits, and no pair
of these overflows, so that all processors compute the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto

from skipc.passes.builder import Builder, Fragment
from skipc.passes.flow import Flow
from skipc.passes.integers import FULL_RANGE, REDUCED_RANGE, quantized_weight
from skipc.passes.normalize import copied_node
from skipc.passes.products import Product, product_at
from skipc.runtime.plan import Array, Region

KIND = "int8"

MIDDLE = 128
"""What stands for zero in a value's 8 bits."""

TINY = 1e-30
"""Keeps rows of zeros from being divided by zero."""


def has_products(flow: Flow, constants: Mapping[str, Array], region: Region) -> bool:
    """Whether a region multiplies by float32 weights."""
    inside = frozenset(region.nodes)
    positions = [i for i, node in enumerate(flow.nodes) if node.name in inside]
    return any(_float_product(flow, constants, i) is not None for i in positions)


def in_8_bits(
    flow: Flow, constants: Mapping[str, Array], inside: Sequence[int], new: Mapping[str, str], prefix: str, opset: int
) -> Fragment:
    """Copies of nodes with their products in 8 bits.

    Args:
        flow: of the normalised model.
        constants: arrays of initializers and constant nodes, by value name.
        inside: positions of the nodes, in graph order.
        new: names of the values that they write.
        prefix: of the names of new nodes and values.
        opset: to write for.
    """
    nodes: list[onnx.NodeProto] = []
    tensors: list[onnx.TensorProto] = []
    quantized: dict[str, tuple[str, str]] = {}
    for i in inside:
        product, node = _float_product(flow, constants, i), flow.nodes[i]
        if product is None:
            nodes.append(_copy(node, new, prefix))
            continue
        builder = Builder(f"{prefix}/{node.name}", opset)
        value = new.get(product.value, product.value)
        if value not in quantized:
            quantized[value] = _quantized(builder, value)
        _write(builder, quantized[value], constants[product.weight], new[node.output[0]])
        fragment = builder.fragment()
        nodes += fragment.nodes
        tensors += fragment.initializers
    return Fragment(tuple(nodes), tuple(tensors))


def _float_product(flow: Flow, constants: Mapping[str, Array], position: int) -> Product | None:
    """The product by a float32 matrix that this node is."""
    if flow.nodes[position].op_type != "MatMul":
        return None
    product = product_at(flow, constants, position)
    return product if product is not None and constants[product.weight].dtype == np.float32 else None


def _copy(node: onnx.NodeProto, new: Mapping[str, str], prefix: str) -> onnx.NodeProto:
    copy = copied_node(node)
    copy.input[:] = [new.get(name, name) for name in node.input]
    copy.output[:] = [new.get(name, name) for name in node.output]
    copy.name = f"{prefix}/{node.name}"
    return copy


def _quantized(builder: Builder, value: str) -> tuple[str, str]:
    """The value in 8 bits, and the size of a step in each of its rows."""
    highest = builder.reduce("ReduceMax", builder.op("Abs", [value]), [-1], keepdims=1)
    step = builder.op("Max", [builder.op("Mul", [highest, builder.constant(1.0 / FULL_RANGE)]), builder.constant(TINY)])
    levels = builder.op("Round", [builder.op("Div", [value, step])])
    moved = builder.op("Add", [levels, builder.constant(float(MIDDLE))])
    return builder.cast(moved, TensorProto.UINT8), step


def _write(builder: Builder, quantized: tuple[str, str], weight: Array, output: str) -> None:
    value, step = quantized
    levels, steps = quantized_weight(weight, REDUCED_RANGE)
    operands = [value, builder.constant(levels, np.int8), builder.constant(MIDDLE, np.uint8)]
    product = builder.cast(builder.op("MatMulInteger", operands), TensorProto.FLOAT)
    builder.op("Mul", [builder.op("Mul", [product, step]), builder.constant(steps)], output=output)
