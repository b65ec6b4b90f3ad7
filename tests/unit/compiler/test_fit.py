"""Planted maps are found again, noise is left alone, and gates predict what they have not seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from skipc.compiler.fit import TINY, _best_ridge, fit_bypass, fit_gate, rank_correlation
from skipc.compiler.moments import Moments, Observed
from skipc.runtime.plan import Array, Region
from tests.gated import approximate

C = 16
REGION = Region("r", "feed-forward", "x", "y", "y", (), (), 1, ("n", C), 1)
RIDGE_BIAS = 1e-4
"""The weakest ridge pulls a slope by 1e-6 of itself at unit variance; float32 parameters add 1e-7 each."""


def observed(x: Array, merge: Array) -> Observed:
    halves = tuple(Moments.of(x[part::2], merge[part::2]) for part in (0, 1))
    return Observed((halves[0], halves[1]), x.astype(np.float32), 0.0, 0.0)


def drawn(rows: int, seed: int = 0) -> tuple[np.random.Generator, Array]:
    random = np.random.default_rng(seed)
    return random, random.standard_normal((rows, C)) + random.standard_normal(C)


def fitted(kind: str, x: Array, merge: Array, fresh: Array) -> Array:
    return approximate(REGION, fit_bypass(kind, observed(x, merge).halves), fresh)


def relative_error(found: Array, expected: Array, x: Array) -> float:
    """Of the change that the block makes, the share that the bypass misses."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected - x))


def test_linear_finds_a_planted_map() -> None:
    random, x = drawn(400)
    weight, shift = random.standard_normal((C, C)), random.standard_normal(C)
    fresh = drawn(50, seed=1)[1]
    found = fitted("linear", x, x @ weight + shift, fresh)
    assert relative_error(found, fresh @ weight + shift, fresh) < RIDGE_BIAS


def test_affine_finds_a_planted_scale_and_shift() -> None:
    random, x = drawn(400)
    scale, shift = random.standard_normal(C), random.standard_normal(C)
    bypass = fit_bypass("affine", observed(x, x * scale + shift).halves)
    np.testing.assert_allclose(bypass.arrays["scale"], scale, atol=RIDGE_BIAS)
    np.testing.assert_allclose(bypass.arrays["shift"], shift, atol=3 * RIDGE_BIAS)


def test_low_rank_finds_a_change_of_its_own_rank() -> None:
    random, x = drawn(400)
    change = random.standard_normal((C, 2)) @ random.standard_normal((2, C))
    fresh = drawn(50, seed=1)[1]
    found = fitted("low-rank", x, x + x @ change + 0.5, fresh)
    assert relative_error(found, fresh + fresh @ change + 0.5, fresh) < RIDGE_BIAS


def test_low_rank_keeps_the_directions_that_matter_for_the_outputs() -> None:
    """The matrix has its largest singular value where inputs hardly vary; the outputs vary elsewhere."""
    _, x = drawn(4000)
    x = (x - x.mean(axis=0)) * np.where(np.arange(C) < 2, 1e-3, 1.0)
    slope = np.diag(np.where(np.arange(C) < 2, 10.0, np.where(np.arange(C) < 4, 1.0, 0.0)))
    found = fitted("low-rank", x, x + x @ slope, x)
    # Rows 0 and 1 carry (10 * 1e-3)² = 1e-4 of the squared change: a relative norm of 1e-2, which is left over.
    assert relative_error(found, x + x @ slope, x) < 2e-2


@pytest.mark.parametrize("rows", [60, 200, 2000])
@pytest.mark.parametrize("kind", ["affine", "low-rank", "linear"])
def test_where_there_is_no_signal_the_bypass_is_hardly_worse_than_the_identity(kind: str, rows: int) -> None:
    random, x = drawn(rows)
    noise = random.standard_normal((rows, C))
    _, fresh = drawn(1000, seed=1)
    # An error of 1 is the identity's. The shift alone costs C / rows of it; 1.1 times that, and 5 % for chance.
    error = fitted(kind, x, x + noise, fresh) - fresh - np.random.default_rng(2).standard_normal(fresh.shape)
    assert (error**2).mean() < 1.05 + 1.1 / rows
    assert _best_ridge(observed(x, x + noise).halves) >= 10.0


def test_a_signal_is_not_shrunk_away() -> None:
    random, x = drawn(2000)
    merge = x + x @ random.standard_normal((C, C)) + 0.1 * random.standard_normal(x.shape)
    assert _best_ridge(observed(x, merge).halves) <= 1e-3


def test_better_kinds_never_fit_worse() -> None:
    random, x = drawn(500)
    merge = x + np.tanh(x @ random.standard_normal((C, C)))
    errors = [float(((fitted(kind, x, merge, x) - merge) ** 2).sum()) for kind in ("identity", "affine", "linear")]
    assert errors == sorted(errors, reverse=True)
    low_rank = float(((fitted("low-rank", x, merge, x) - merge) ** 2).sum())
    assert errors[2] < low_rank < errors[0]


@pytest.mark.parametrize("kind", ["affine", "low-rank", "linear"])
def test_a_channel_that_never_varies_is_no_trouble(kind: str) -> None:
    random, x = drawn(100)
    x[:, 3] = 2.0
    merge = x + 0.1 * random.standard_normal(x.shape)
    assert all(np.isfinite(array).all() for array in fit_bypass(kind, observed(x, merge).halves).arrays.values())


@pytest.mark.parametrize("kind", ["affine", "low-rank", "linear"])
def test_one_batch_alone_is_enough(kind: str) -> None:
    _, x = drawn(20)
    alone = Observed((Moments.of(x, 2 * x), Moments.none(C)), x.astype(np.float32), 0.0, 0.0)
    assert all(np.isfinite(array).all() for array in fit_bypass(kind, alone.halves).arrays.values())


def test_parameters_are_float32_and_in_order() -> None:
    _, x = drawn(50)
    for kind in ("affine", "low-rank", "linear"):
        for array in fit_bypass(kind, observed(x, 2 * x).halves).arrays.values():
            assert array.dtype == np.float32
            assert array.flags.c_contiguous


def planted(rows: int, noise: float, seed: int) -> tuple[Any, Any]:
    """Pooled values, and impacts whose logarithm is linear in them."""
    direction = np.random.default_rng(99).standard_normal(C)
    random = np.random.default_rng(seed)
    pooled = (random.standard_normal((rows, C)) * np.arange(1, C + 1) + 3).astype(np.float32)
    log_impact = -3 + 0.3 * (pooled / np.arange(1, C + 1)) @ direction + noise * random.standard_normal(rows)
    return pooled, np.exp(log_impact)


def test_a_gate_finds_a_planted_direction_out_of_sample() -> None:
    pooled, impact = planted(300, 0.1, seed=0)
    found = fit_gate(pooled, impact)
    fresh, fresh_impact = planted(300, 0.1, seed=1)
    scores = fresh @ found.gate.weight + found.gate.bias
    assert rank_correlation(scores.astype(np.float64), fresh_impact) > 0.9
    assert found.rank_correlation > 0.9
    # Scores are log impacts: unbiased up to the noise's standard error, 0.1 / 300**0.5, and the ridge's pull.
    assert abs(float((scores - np.log(fresh_impact + TINY)).mean())) < 0.05


def test_noise_has_no_rank_correlation() -> None:
    """The mean over 20 draws; one has a standard error of 1 / 300**0.5, the mean of 0.013, and 5 of those is slack."""
    found = []
    for seed in range(20):
        random = np.random.default_rng(seed)
        pooled = random.standard_normal((300, C)).astype(np.float32)
        found.append(fit_gate(pooled, random.random(300)).rank_correlation)
    assert abs(np.mean(found)) < 0.065 or np.mean(found) < 0


def test_predictions_do_not_see_their_own_sample() -> None:
    """With more features than samples a fit in sample is perfect; the honest one is not."""
    random = np.random.default_rng(0)
    pooled, impact = random.standard_normal((20, 50)).astype(np.float32), random.random(20)
    assert fit_gate(pooled, impact).rank_correlation < 0.6


def test_leave_one_out_is_what_fitting_without_the_sample_gives() -> None:
    pooled, impact = planted(60, 0.5, seed=0)
    found = fit_gate(pooled, impact)
    again = [fit_gate(np.delete(pooled, i, axis=0), np.delete(impact, i)).gate for i in range(0, 60, 10)]
    expected = [float(pooled[i] @ gate.weight + gate.bias) for i, gate in zip(range(0, 60, 10), again, strict=True)]
    # The strength, the means and the spreads are chosen anew without the sample: a few per cent of the spread of 1.5.
    np.testing.assert_allclose(found.predicted[::10], expected, atol=0.15)


def test_the_floor_lies_just_below_all_scores() -> None:
    pooled, impact = planted(100, 0.1, seed=0)
    gate = fit_gate(pooled, impact).gate
    lowest = np.float32((pooled @ gate.weight + gate.bias).min())
    assert gate.floor < lowest
    assert np.nextafter(np.float32(gate.floor), np.float32(np.inf)) == lowest
    assert gate.floor == np.float32(gate.floor)


def test_a_feature_that_never_varies_has_no_weight() -> None:
    pooled, impact = planted(100, 0.1, seed=0)
    pooled[:, 2] = 7.0
    assert fit_gate(pooled, impact).gate.weight[2] == 0.0


def test_impacts_that_are_all_alike_give_a_constant_score() -> None:
    pooled, _ = planted(50, 0.1, seed=0)
    found = fit_gate(pooled, np.full(50, 0.01))
    assert found.rank_correlation == 0.0
    np.testing.assert_allclose(pooled @ found.gate.weight + found.gate.bias, np.log(0.01 + TINY), rtol=1e-5)


def test_impacts_of_zero_are_no_trouble() -> None:
    pooled, _ = planted(50, 0.1, seed=0)
    gate = fit_gate(pooled, np.zeros(50)).gate
    assert np.isfinite(gate.bias)
    assert np.isfinite(gate.weight).all()


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1, 2, 3], [10, 20, 30], 1.0),
        ([1, 2, 3], [3, 2, 1], -1.0),
        ([1, 2, 3], [1, 100, 1000], 1.0),
        ([1, 1, 1], [1, 2, 3], 0.0),
        ([1, 2, 2, 3], [1, 2, 3, 4], 4.5 / np.sqrt(4.5 * 5)),
    ],
    ids=["rising", "falling", "monotone", "constant", "ties"],
)
def test_rank_correlation(first: Any, second: Any, expected: float) -> None:
    found = rank_correlation(np.array(first, np.float64), np.array(second, np.float64))
    assert found == pytest.approx(expected, abs=1e-12)
