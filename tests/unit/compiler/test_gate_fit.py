"""Guards learn what the losses of their blocks have in common."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skipc.compiler.fit import fit_gate, rank_correlation
from skipc.compiler.gate_fit import in_common


def losses(samples: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """What gates read, [samples, 6], and losses of four blocks: how strange a sample is, and noise of their own."""
    random = np.random.default_rng(0)
    pooled = random.standard_normal((samples, 6)).astype(np.float32)
    own = random.standard_normal((4, samples))
    return pooled, 0.01 * np.array([[1.0], [2.0], [3.0], [4.0]]) * np.exp(0.3 * pooled[:, 0] + 0.6 * own)


def test_guards_share_a_target_on_scales_of_their_own() -> None:
    _, found = losses(50)
    logs, before = np.log(in_common(found) + 1e-4), np.log(found + 1e-4)
    np.testing.assert_allclose(logs.mean(axis=1), before.mean(axis=1), rtol=1e-9)
    expected = before.mean(axis=0)
    for row in logs:
        np.testing.assert_allclose(row - row.mean(), expected - expected.mean(), atol=1e-9)


def test_one_guard_alone_learns_its_own() -> None:
    _, found = losses(20)
    np.testing.assert_array_equal(in_common(found[1:2]), found[1:2])
    assert in_common(found[:0]).shape == (0, 20)


def test_what_is_in_common_is_told_better_than_what_is_not() -> None:
    pooled, found = losses(120)
    strange = np.exp(pooled[:, 0].astype(np.float64))
    own, common = (fit_gate(pooled, each[0]) for each in (found, in_common(found)))
    assert rank_correlation(common.predicted, strange) > rank_correlation(own.predicted, strange)
