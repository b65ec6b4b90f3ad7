"""Clusters that are there are found; everything else about them is fixed by the seed."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from skipc.compiler.clusters import clusters_of


def blobs(
    sizes: list[int], scales: tuple[float, ...] = (1.0, 1.0, 0.0)
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Points around far centres, shuffled, and the centre of each; the last feature says nothing."""
    random = np.random.default_rng(0)
    own = np.repeat(np.arange(len(sizes)), sizes)
    order = random.permutation(len(own))
    centres = 10.0 * np.array([[np.cos(a), np.sin(a), 0.0] for a in 2 * np.pi * np.arange(len(sizes)) / len(sizes)])
    points = (centres[own] + random.standard_normal((len(own), 3))) * scales
    return points[order].astype(np.float32), own[order]


@pytest.mark.parametrize("seed", range(5))
def test_far_groups_are_found_and_numbered_by_size(seed: int) -> None:
    points, own = blobs([50, 40, 30, 20])
    np.testing.assert_array_equal(clusters_of(points, 4, seed), own)


def test_the_scale_of_a_feature_does_not_matter() -> None:
    points, own = blobs([50, 40, 30], (1e3, 1e-2, 1e-9))
    np.testing.assert_array_equal(clusters_of(points, 3, 0), own)


def test_the_seed_decides() -> None:
    points = np.random.default_rng(1).standard_normal((200, 5)).astype(np.float32)
    first = clusters_of(points, 4, 0)
    np.testing.assert_array_equal(first, clusters_of(points, 4, 0))
    assert (first != clusters_of(points, 4, 1)).any()
    assert sorted(np.bincount(first), reverse=True) == list(np.bincount(first))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_samples_that_repeat_are_one_cluster(count: int) -> None:
    points = np.repeat(np.array([[1.0, 2.0], [3.0, 5.0]], np.float32), [3, 2], axis=0)
    assert clusters_of(points, count, 0).max() == min(count, 2) - 1
    assert clusters_of(points[:3], count, 0).tolist() == [0, 0, 0]
