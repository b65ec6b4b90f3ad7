"""A fixed sentiment read-out: a logistic regression on sentence embeddings, fitted once on the original's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
STEPS = 15
"""Newton's method doubles its digits with every step; ten steps reach float64's precision here."""

PENALTY = 1.0
"""On the squared weights, against a sum over sentences; embeddings have length 1, so the fit is hardly held back."""


@dataclass(frozen=True)
class Readout:
    """The weights, the last one of them a bias."""

    weights: Matrix

    def right(self, embeddings: NDArray[Any], labels: NDArray[np.int64]) -> Matrix:
        """1 where the read-out gives the label and 0 elsewhere, float64 [samples]."""
        return np.asarray((_with_bias(embeddings) @ self.weights > 0) == (labels == 1), dtype=np.float64)


def fit_readout(embeddings: NDArray[Any], labels: NDArray[np.int64]) -> Readout:
    """Logistic regression by Newton's method.

    Args:
        embeddings: [samples, features].
        labels: 0 or 1, [samples].
    """
    x = _with_bias(embeddings)
    weights = np.zeros(x.shape[1])
    penalty = PENALTY * np.eye(x.shape[1])
    for _ in range(STEPS):
        chance = 1.0 / (1.0 + np.exp(-(x @ weights)))
        slope = x.T @ (chance - labels) + penalty @ weights
        curvature = (x.T * (chance * (1.0 - chance))) @ x + penalty
        weights = weights - np.linalg.solve(curvature, slope)
    return Readout(weights)


def _with_bias(embeddings: NDArray[Any]) -> Matrix:
    return np.concatenate([embeddings.astype(np.float64), np.ones((len(embeddings), 1))], axis=1)
