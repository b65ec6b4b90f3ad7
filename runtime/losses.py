"""Losses that need no labels, for shadow audits: the original's output against the one that was served."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from skipc.runtime.plan import Array

Floats = NDArray[np.float64]
Audited = Callable[[Array, Array], Floats]
"""(output in full, output served) → losses in [0, 1], float64 [batch]."""

TINY = 1e-12


def top1(full: Array, served: Array) -> Floats:
    """1 where the class of highest score differs, or is not to be told for NaN."""
    differs = full.argmax(axis=-1) != served.argmax(axis=-1)
    return _by_sample(differs | np.isnan(served).any(axis=-1))


def cosine(full: Array, served: Array) -> Floats:
    """Cosine distance along the last axis."""
    one, two = full.astype(np.float64), served.astype(np.float64)
    norms = np.linalg.norm(one, axis=-1) * np.linalg.norm(two, axis=-1)
    return _by_sample(1.0 - (one * two).sum(axis=-1) / np.maximum(norms, TINY))


def relative_l2(full: Array, served: Array) -> Floats:
    """Norm of the difference over the norm of the output in full, along the last axis if there is one beside batch."""
    one, two = (
        output.astype(np.float64).reshape(*output.shape, *(1,) * (output.ndim < 2)) for output in (full, served)
    )
    return _by_sample(np.linalg.norm(one - two, axis=-1) / np.maximum(np.linalg.norm(one, axis=-1), TINY))


def _by_sample(losses: Array) -> Floats:
    """Capped at 1, what is no number counting as 1, averaged over all axes but the first."""
    wide = np.where(np.isfinite(losses), np.clip(losses, 0.0, 1.0), 1.0).astype(np.float64)
    return np.asarray(wide.reshape(len(wide), -1).mean(axis=1))


LOSSES: Mapping[str, Audited] = {"top1": top1, "cosine": cosine, "relative-l2": relative_l2}
"""By the name that certificates use."""
