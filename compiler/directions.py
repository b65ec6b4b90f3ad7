"""Directions in the space of a model's output along which a loss grows, for estimates by derivatives.

At the original's own output y a loss has its least value, so its first derivative is zero there; for a small change δ
of y it is ½ δ · H δ. A random direction v with E[v vᵀ] = H gives E[½ (v · δ)²] = ½ δ · H δ, and v · δ is what reverse
mode computes in one run for all masks. For logits under KL, H is Fisher's information matrix (as in Fisher pruning,
arXiv 1801.05787).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skipc.compiler.loss import Loss, is_distribution, log_probabilities
from skipc.runtime.losses import TINY
from skipc.runtime.plan import Array

Matrix = NDArray[np.float64]


def directions(
    loss: Loss, reference: Array, valid: NDArray[np.bool_] | None, count: int, random: np.random.Generator
) -> NDArray[np.float32]:
    """Random directions for one batch, float32 [*reference.shape, count].

    They are weighed so that ½ (v · δ)² estimates the mean loss of the batch, or its square where not `is_squared`.

    Args:
        loss: measured. A step such as top1 is represented by KL, its smooth proxy.
        reference: the original's output, [batch, ...]; features lie along the last axis.
        valid: [batch, sequence], false for padding.
        count: of directions.
        random: draws signs.
    """
    output = reference.reshape(*reference.shape, *(1,) * (reference.ndim < 2)).astype(np.float64)
    signs = random.choice([-1.0, 1.0], (*output.shape, count))
    found = _along(loss, output, signs) * np.sqrt(_row_weights(output, valid))[..., None, None]
    return np.asarray(found.reshape(*reference.shape, count), np.float32)


def is_squared(loss: Loss) -> bool:
    """Whether a loss grows with the square of a small change; others are taken to grow with its length."""
    return loss.name in ("cosine", "kl", "top1", "accuracy")


def _along(loss: Loss, output: Matrix, signs: Matrix) -> Matrix:
    """Roots of H, applied to random signs, [..., C, count] each."""
    wide = output[..., None]
    if loss.name == "cosine":
        norm = np.maximum(np.linalg.norm(wide, axis=-2, keepdims=True), TINY)
        return np.asarray((signs - wide / norm * (wide / norm * signs).sum(axis=-2, keepdims=True)) / norm)
    if not is_squared(loss):
        return np.asarray(np.sqrt(2.0) * signs / np.maximum(np.linalg.norm(wide, axis=-2, keepdims=True), TINY))
    are_probabilities = is_distribution(output)
    roots = np.exp(log_probabilities(output, are_probabilities) / 2.0)[..., None]
    if are_probabilities:
        return np.asarray(signs / roots)
    return np.asarray(roots * signs - roots**2 * (roots * signs).sum(axis=-2, keepdims=True))


def _row_weights(output: Matrix, valid: NDArray[np.bool_] | None) -> Matrix:
    """Weights of the rows in the batch's mean loss, [...] without the feature axis; zero for padding."""
    rows = output.shape[:-1]
    weights = np.ones(rows)
    if valid is not None and valid.shape == rows[:2]:
        weights *= valid.reshape(*valid.shape, *(1,) * (len(rows) - 2))
    each = weights.reshape(len(weights), -1).sum(axis=1)
    return np.asarray(weights / (np.maximum(each, 1.0) * len(weights)).reshape(-1, *(1,) * (len(rows) - 1)))
