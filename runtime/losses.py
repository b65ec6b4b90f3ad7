"""Losses that need no labels: the original's output against another one, as compilations and shadow audits judge it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from skipc.runtime.plan import Array

Floats = NDArray[np.float64]
Audited = Callable[[Array, Array], Floats]
"""(output in full, output served) → losses in [0, 1], float64 [batch]."""

TINY = 1e-12


def top1(full: Array, served: Array, _labels: object = None) -> Array:
    """1 where the class of highest score differs, or is not to be told for NaN; reduces the last axis."""
    return np.asarray((full.argmax(axis=-1) != served.argmax(axis=-1)) | is_broken(served))


def is_broken(output: Array) -> NDArray[np.bool_]:
    """Where a row holds NaN: its largest element means nothing."""
    return np.asarray(np.isnan(output).any(axis=-1))


def cosine(full: Array, served: Array, _labels: object = None) -> Array:
    """Cosine distance along the last axis."""
    one, two = full.astype(np.float64), served.astype(np.float64)
    norms = np.linalg.norm(one, axis=-1) * np.linalg.norm(two, axis=-1)
    return np.asarray(1.0 - (one * two).sum(axis=-1) / np.maximum(norms, TINY))


def relative_l2(full: Array, served: Array, _labels: object = None) -> Array:
    """Norm of the difference over the norm of the output in full, along the last axis if there is one beside batch."""
    one, two = (output.reshape(*output.shape, *(1,) * (output.ndim < 2)) for output in (full, served))
    one, two = one.astype(np.float64), two.astype(np.float64)
    return np.asarray(np.linalg.norm(one - two, axis=-1) / np.maximum(np.linalg.norm(one, axis=-1), TINY))


def bounded(losses: Array) -> Floats:
    """Capped to [0, 1]; what is no number counts as 1."""
    return np.where(np.isfinite(losses), np.clip(losses, 0.0, 1.0), 1.0).astype(np.float64)


def _audited(compare: Callable[[Array, Array], Array]) -> Audited:
    """The mean over all axes but the first."""

    def losses(full: Array, served: Array) -> Floats:
        found = bounded(compare(full, served))
        return np.asarray(found.reshape(len(found), -1).mean(axis=1))

    return losses


def on_real_tokens(judge: Audited, full: Array, served: Array, real: NDArray[np.bool_] | None) -> Floats:
    """Losses of a batch, float64 [batch], each sample judged on its real tokens alone, as compilations judge it.

    Args:
        judge: gives the losses.
        full: output in full, [batch, sequence, ...] where it has a place for each token.
        served: the other output, of the same shape.
        real: [batch, sequence], false for padding; None, or of another shape, where the outputs count as they are.
    """
    if real is None or full.ndim < 3 or full.shape[:2] != real.shape or real.all():
        return judge(full, served)
    rows = [row if row.any() else np.ones_like(row) for row in real]
    return np.concatenate([judge(full[i : i + 1, row], served[i : i + 1, row]) for i, row in enumerate(rows)])


LOSSES: Mapping[str, Audited] = {
    "top1": _audited(top1),
    "cosine": _audited(cosine),
    "relative-l2": _audited(relative_l2),
}
"""By the name that certificates use."""
