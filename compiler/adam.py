"""Adam: steps along a noisy gradient whose length does not depend on the gradient's size (Kingma and Ba 2015)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]

DECAYS = (0.9, 0.999)
"""Of the running means of the gradient and of its square, as in the paper (arXiv 1412.6980)."""

TINY = 1e-12
"""Keeps elements that no sample has an effect on from being divided by zero."""


@dataclass(frozen=True)
class Adam:
    """Where a parameter is, and what its gradients were like.

    Attributes:
        value: of the parameter, any shape.
        mean: running mean of its gradients.
        square: running mean of their squares.
        steps: taken so far.
    """

    value: Vector
    mean: Vector
    square: Vector
    steps: int = 0

    @classmethod
    def at(cls, value: Vector) -> Adam:
        """A parameter that has not moved yet."""
        return cls(value, np.zeros_like(value), np.zeros_like(value))

    def moved(self, gradient: Vector, rate: float) -> Adam:
        """One step down the gradient; where gradients agree, each element moves by the rate."""
        steps = self.steps + 1
        mean = DECAYS[0] * self.mean + (1.0 - DECAYS[0]) * gradient
        square = DECAYS[1] * self.square + (1.0 - DECAYS[1]) * gradient * gradient
        first, second = (1.0 - decay**steps for decay in DECAYS)
        step = rate / first * mean / (np.sqrt(square / second) + TINY)
        return Adam(np.asarray(self.value - step, np.float32), np.asarray(mean), np.asarray(square), steps)
