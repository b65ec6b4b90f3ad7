"""Split one data set into clusters of samples that look alike to the network: k-means on pooled activations."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ROUNDS = 50
"""Of Lloyd's algorithm; it has nearly always settled before."""

SMALLEST_SPREAD = 1e-6
"""Of the largest: features that hardly vary are left as they are."""


def clusters_of(features: NDArray[np.float32], count: int, seed: int) -> NDArray[np.int64]:
    """The cluster of each sample, [samples], numbered by size from large to small.

    k-means with the first centres drawn far apart (k-means++, Arthur and Vassilvitskii 2007), on standardised features.

    Args:
        features: [samples, C].
        count: of clusters; fewer come out where samples repeat.
        seed: of the first centres.
    """
    rows = _standardised(features.astype(np.float64))
    centres = _first_centres(rows, count, np.random.default_rng(seed))
    nearest = _nearest(rows, centres)
    for _ in range(ROUNDS):
        before = nearest
        centres = np.stack([rows[nearest == own].mean(axis=0) for own in np.unique(nearest)])
        nearest = _nearest(rows, centres)
        if np.array_equal(nearest, before):
            break
    return _by_size(nearest)


def _standardised(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    spread = rows.std(axis=0)
    largest = max(float(spread.max(initial=0.0)), 1e-30)
    return np.asarray((rows - rows.mean(axis=0)) / np.where(spread > SMALLEST_SPREAD * largest, spread, np.inf))


def _first_centres(rows: NDArray[np.float64], count: int, random: np.random.Generator) -> NDArray[np.float64]:
    chosen = [int(random.integers(len(rows)))]
    while len(chosen) < count:
        distance = _squared_distances(rows, rows[chosen]).min(axis=1)
        if distance.sum() <= 0:
            break
        chosen.append(int(random.choice(len(rows), p=distance / distance.sum())))
    return rows[chosen]


def _squared_distances(rows: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.float64]:
    """[rows, centres]; cut off at zero, below which only rounding goes."""
    products = rows @ centres.T
    return np.asarray(np.maximum((rows**2).sum(axis=1)[:, None] - 2 * products + (centres**2).sum(axis=1), 0.0))


def _nearest(rows: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.asarray(_squared_distances(rows, centres).argmin(axis=1), np.int64)


def _by_size(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    found, inverse, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    rank = np.empty(len(found), np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(found))
    return np.asarray(rank[inverse])
