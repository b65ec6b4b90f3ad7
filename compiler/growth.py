"""How much larger a file becomes by what stands in for its blocks."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from skipc.passes.base import opset_of
from skipc.passes.cut import Cut
from skipc.runtime.plan import Block


def growths(model: onnx.ModelProto, blocks: Sequence[Block]) -> list[int]:
    """Bytes that the weights of each block's bypass add to the file, as they will be written.

    Args:
        model: normalised original.
        blocks: each as if it were the only one.
    """
    cut = Cut.of(model, blocks)
    fragments = [cut.bypass(block, opset_of(model)) for block in blocks]
    return [sum(item.ByteSize() for item in fragment.initializers) for fragment in fragments]


def most_bytes(model: onnx.ModelProto, max_growth: float) -> float:
    """Bytes that bypasses may add to a model; ``max_growth`` is a share of its size."""
    return max_growth * float(model.ByteSize())
