"""Products whose weight a DequantizeLinear makes of few bits, with or without quantized values around them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from skipc.passes.builder import Builder
from skipc.passes.flow import Flow
from skipc.runtime.plan import Array

LARGEST = {"int8": 127, "uint8": 127, "int4": 7, "uint4": 7}
"""Magnitude of a level, about zero or the middle, by type."""


def dequantizer(flow: Flow, constants: Mapping[str, Array], name: str) -> int | None:
    """Position of the node that makes a value of constants in few bits; None where none does."""
    made_by = flow.producer.get(name)
    if name in constants or made_by is None or flow.nodes[made_by].op_type != "DequantizeLinear":
        return None
    return made_by if all(item in constants for item in flow.nodes[made_by].input if item) else None


def stored(flow: Flow, constants: Mapping[str, Array], name: str) -> str:
    """The constant that holds a value's elements, as they are or in few bits."""
    made_by = dequantizer(flow, constants, name)
    return name if made_by is None else str(flow.nodes[made_by].input[0])


@dataclass(frozen=True)
class Dequantized:
    """How a product with a dequantized weight is written.

    Attributes:
        kind: name of the weight's type.
        block_size: inputs that share a scale; 0 for all.
        scale_type: of the scales.
    """

    kind: str
    block_size: int
    scale_type: np.dtype

    def write(self, builder: Builder, value: str, weight: Array) -> str:
        """Add value · weight, symmetric, and return the name of the result.

        Args:
            builder: collects the nodes.
            value: in float.
            weight: float [inputs, outputs].
        """
        levels, steps = _levels(weight, LARGEST[self.kind], self.block_size)
        dtype = helper.tensor_dtype_to_np_dtype(onnx.TensorProto.DataType.Value(self.kind.upper()))
        middle = LARGEST[self.kind] + 1 if self.kind.startswith("u") else 0
        operands = [builder.constant(levels + middle, dtype), builder.constant(steps, self.scale_type)]
        if middle:
            operands.append(builder.constant(np.full(steps.shape, middle), dtype))
        blocks: dict[str, Any] = {"axis": 0, "block_size": self.block_size} if self.block_size else {"axis": 1}
        return builder.op("MatMul", [value, builder.op("DequantizeLinear", operands, **blocks)])


def _levels(weight: Array, largest: int, block_size: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Levels [inputs, outputs], and steps [outputs], or [blocks, outputs] where blocks of inputs have their own."""
    size = block_size or len(weight)
    highest = np.stack([np.abs(part).max(axis=0) for part in np.split(weight, range(size, len(weight), size))])
    steps = (np.where(highest > 0, highest, 1.0) / largest).astype(np.float32)
    levels = np.clip(np.rint(weight / np.repeat(steps, size, axis=0)[: len(weight)]), -largest, largest)
    return levels.astype(np.int64), steps if block_size else steps[0]
