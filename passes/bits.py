"""Products with weights in few bits: com.microsoft's MatMulNBits, each block of inputs with a scale of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipc.passes.builder import Builder
from skipc.runtime.plan import Array

DOMAIN = "com.microsoft"
WIDTHS = (4, 8)


@dataclass(frozen=True)
class Bits:
    """How a product with weights in few bits is written.

    Attributes:
        bits: of a weight, 4 or 8.
        block_size: inputs that share a scale.
        accuracy_level: in which the runtime may compute; 0 where the node does not say.
        scale_type: of the scales.
    """

    bits: int
    block_size: int
    accuracy_level: int
    scale_type: np.dtype

    def write(self, builder: Builder, value: str, weight: Array) -> str:
        """Add value · weight, symmetric about the middle level, and return the name of the result.

        Args:
            builder: collects the nodes.
            value: in float.
            weight: float [inputs, outputs].
        """
        packed, scales = packed_weight(weight, self.bits, self.block_size)
        operands = [builder.constant(packed, np.uint8), builder.constant(scales, self.scale_type)]
        inputs, outputs = weight.shape
        attributes = {"K": inputs, "N": outputs, "bits": self.bits, "block_size": self.block_size}
        if self.accuracy_level:
            attributes["accuracy_level"] = self.accuracy_level
        return builder.op("MatMulNBits", [value, *operands], domain=DOMAIN, **attributes)


def packed_weight(weight: Array, bits: int, block_size: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Levels of a weight [inputs, outputs] and their scales, laid out as MatMulNBits reads them.

    Returns:
        levels [outputs, blocks, bytes], of two in a byte the first in its lower half; scales [outputs, blocks].
    """
    inputs, outputs = weight.shape
    blocks = -(-inputs // block_size)
    grid = np.zeros((outputs, blocks * block_size), np.float64)
    grid[:, :inputs] = weight.T
    grid = grid.reshape(outputs, blocks, block_size)
    middle = 1 << (bits - 1)
    # There is one more level below the middle than above it: the largest weight goes there.
    place = np.abs(grid).argmax(axis=-1)[..., None]
    scales = (np.take_along_axis(grid, place, axis=-1)[..., 0] / -middle).astype(np.float32)
    divisor = np.where(scales == 0, 1.0, scales)[..., None]
    levels = np.clip(np.rint(grid / divisor) + middle, 0, 2 * middle - 1).astype(np.uint8)
    return (levels if bits == 8 else levels[..., ::2] | levels[..., 1::2] << 4), scales
