"""The claims of calibrate.py, checked by simulation at the exact boundary of each claim.

A rejection rate is allowed three standard errors above its nominal value, so that a valid test fails here with
probability near 0.1 %, and the seeds are fixed. Each test must also certify what is plainly true, so that one which
never rejects does not pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from skipc.compiler import calibrate

Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Array]
Test = Callable[[Array, float], float]

LIMIT = 0.05
DATA_SETS = 3000


def bernoulli(rng: np.random.Generator, samples: int) -> Array:
    return (rng.random(samples) < LIMIT).astype(np.float64)


def beta(rng: np.random.Generator, samples: int) -> Array:
    return rng.beta(0.5, 9.5, samples)


def spiky(rng: np.random.Generator, samples: int) -> Array:
    """A loss near 0.01, and 0.9 on the share of samples that makes the mean exactly LIMIT."""
    spike = rng.random(samples) < (LIMIT - 0.01) / 0.89
    return np.where(spike, 0.9, 0.02 * rng.random(samples))


def allowed(rate: float, draws: int) -> float:
    return rate + 3.0 * math.sqrt(rate * (1.0 - rate) / draws)


def errors(samples: int, count: int) -> Array:
    return np.repeat([1.0, 0.0], [count, samples - count])


CASES = [
    (calibrate.binomial_p_value, bernoulli),
    (calibrate.hoeffding_bentkus_p_value, bernoulli),
    (calibrate.hoeffding_bentkus_p_value, beta),
    (calibrate.hoeffding_bentkus_p_value, spiky),
    (calibrate.betting_p_value, bernoulli),
    (calibrate.betting_p_value, beta),
    (calibrate.betting_p_value, spiky),
]


@pytest.mark.parametrize(("test", "draw"), CASES)
def test_rejects_a_mean_at_the_limit_no_more_often_than_promised(test: Test, draw: Draw) -> None:
    rng = np.random.default_rng(7)
    p_values = np.array([test(draw(rng, 200), LIMIT) for _ in range(DATA_SETS)])
    for delta in (0.02, 0.05, 0.1, 0.3):
        assert np.mean(p_values <= delta) <= allowed(delta, DATA_SETS)


@pytest.mark.parametrize(("test", "draw"), CASES)
def test_certifies_a_mean_well_below_the_limit(test: Test, draw: Draw) -> None:
    rng = np.random.default_rng(7)
    p_values = np.array([test(draw(rng, 200), 2.5 * LIMIT) for _ in range(300)])
    assert np.mean(p_values <= 0.1) >= 0.8


@pytest.mark.parametrize(("draw", "binary"), [(bernoulli, True), (beta, False), (spiky, False)])
def test_upper_bound_covers_the_mean(draw: Draw, binary: bool) -> None:
    rng = np.random.default_rng(11)
    bounds = np.array([calibrate.upper_bound(draw(rng, 200), 0.9, binary) for _ in range(300)])
    assert np.mean(bounds < LIMIT) <= allowed(0.1, 300)
    assert np.median(bounds) < 2.0 * LIMIT


def test_fixed_sequence_keeps_the_family_wise_error() -> None:
    """Losses share their samples, as on a real path; the third configuration and all later ones break the limit."""
    rng = np.random.default_rng(13)
    rates = np.array([0.01, 0.03, 0.0501, 0.055, 0.0501])
    certified = np.array([_walk(rng, rates) for _ in range(DATA_SETS)])
    assert np.mean(certified > 2) <= allowed(0.1, DATA_SETS)
    assert np.mean(certified > 2) >= 0.03
    assert np.mean(certified >= 1) > 0.95


def _walk(rng: np.random.Generator, rates: Array) -> int:
    draws = rng.random(200)
    p_values = [calibrate.binomial_p_value((draws < rate).astype(float), LIMIT) for rate in rates]
    return calibrate.fixed_sequence(p_values, 0.1)


@pytest.mark.parametrize(("samples", "count"), [(299, 0), (473, 1), (628, 2), (1049, 5), (1693, 10)])
def test_sample_sizes_for_one_percent(samples: int, count: int) -> None:
    assert calibrate.binomial_p_value(errors(samples, count), 0.01) <= 0.05
    assert calibrate.binomial_p_value(errors(samples - 1, count), 0.01) > 0.05


@pytest.mark.parametrize(("samples", "count"), [(1, 0), (7, 3), (40, 39), (60, 11), (300, 150)])
@pytest.mark.parametrize("limit", [Fraction(1, 64), Fraction(1, 4), Fraction(7, 8)])
def test_binomial_agrees_with_rational_arithmetic(samples: int, count: int, limit: Fraction) -> None:
    """Relative 1e-11: at most 150 rounded terms of a sum of logarithms of size 10³ or less."""
    exact = sum(math.comb(samples, k) * limit**k * (1 - limit) ** (samples - k) for k in range(count + 1))
    assert calibrate.binomial_p_value(errors(samples, count), float(limit)) == pytest.approx(float(exact), rel=1e-11)


def test_betting_is_the_plug_in_bet_of_its_definition() -> None:
    """Relative 1e-9: the wealth is a product of 400 rounded factors here, a sum of their logarithms there."""
    losses = np.random.default_rng(17).beta(0.5, 12.0, 400)
    richest = max(_wealths(losses))
    assert richest > 1.0
    assert calibrate.betting_p_value(losses, LIMIT) == pytest.approx(1.0 / richest, rel=1e-9)


def _wealths(losses: Array) -> Iterator[float]:
    """K_t with a bet that weighs each size by what it has earned from earlier losses."""
    sizes = np.array(calibrate.BET_SIZES) / (1.0 - LIMIT)
    purses, wealth = np.array(calibrate.BET_SHARES), 1.0
    for loss in losses:
        bet = float(purses @ sizes / purses.sum())
        wealth *= 1.0 + bet * (LIMIT - loss)
        purses = purses * (1.0 + sizes * (LIMIT - loss))
        yield wealth


def test_betting_starts_with_a_wealth_of_one() -> None:
    assert math.fsum(calibrate.BET_SHARES) == pytest.approx(1.0, abs=1e-15)
    assert all(0.0 < size < 1.0 for size in calibrate.BET_SIZES)


def test_betting_profits_from_a_small_variance() -> None:
    """Mean 0.03 and standard deviation 0.01, 500 samples, limit 0.05."""
    losses = np.clip(np.random.default_rng(19).normal(0.03, 0.01, 500), 0.0, 1.0)
    assert calibrate.betting_p_value(losses, LIMIT) <= 0.001
    assert calibrate.hoeffding_bentkus_p_value(losses, LIMIT) > 0.05


@given(
    st.lists(st.one_of(st.just(0.0), st.just(1.0), st.floats(0.0, 1.0)), min_size=1, max_size=60),
    st.floats(0.001, 0.999),
    st.floats(0.001, 0.999),
)
def test_betting_is_monotone_in_the_limit(losses: list[float], one: float, other: float) -> None:
    """Up to relative 1e-9, the rounding of a sum of 60 logarithms."""
    at_lower, at_higher = (calibrate.betting_p_value(losses, limit) for limit in sorted((one, other)))
    assert at_higher <= at_lower * (1.0 + 1e-9)


@pytest.mark.parametrize("binary", [True, False])
def test_upper_bound_is_where_the_p_value_crosses(binary: bool) -> None:
    losses = np.random.default_rng(23).permutation(errors(400, 4))
    bound = calibrate.upper_bound(losses, 0.95, binary)
    assert calibrate.p_value(losses, bound, binary) <= 0.05 < calibrate.p_value(losses, bound - 1e-9, binary)


@pytest.mark.parametrize("binary", [True, False])
def test_upper_bound_at_the_ends(binary: bool) -> None:
    assert calibrate.upper_bound(np.ones(50), 0.95, binary) == 1.0
    assert 0.95 <= calibrate.upper_bound([0.0], 0.95, binary) < 0.96
    assert calibrate.upper_bound(np.zeros(10_000), 0.95, binary) < 0.0004


def test_p_value_goes_by_the_declared_kind_and_not_by_the_values() -> None:
    zeros = np.zeros(310)
    assert calibrate.p_value(zeros, 0.01, binary=True) <= 0.05 < calibrate.p_value(zeros, 0.01, binary=False)


@pytest.mark.parametrize(("binary", "expected"), [(True, 299), (False, 331)])
def test_samples_needed_for_one_percent(binary: bool, expected: int) -> None:
    assert calibrate.samples_needed(0.01, 0.95, binary) == expected


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(("limit", "confidence"), [(0.01, 0.95), (0.003, 0.99), (0.2, 0.8), (0.9, 0.5)])
def test_samples_needed_is_the_fewest_that_the_test_accepts(limit: float, confidence: float, binary: bool) -> None:
    samples = calibrate.samples_needed(limit, confidence, binary)
    assert calibrate.p_value(np.zeros(samples), limit, binary) <= 1.0 - confidence
    assert samples == 1 or calibrate.p_value(np.zeros(samples - 1), limit, binary) > 1.0 - confidence


@pytest.mark.parametrize(("samples", "limit", "confidence"), [(800, 0.05, 0.95), (800, 0.02, 0.95), (200, 0.1, 0.8)])
def test_what_alike_losses_may_be_is_the_most_that_betting_certifies(
    samples: int, limit: float, confidence: float
) -> None:
    most = calibrate.certifiable_mean(samples, limit, confidence)
    assert 0.0 < most < limit
    assert calibrate.betting_p_value(np.full(samples, 0.999 * most), limit) <= 1.0 - confidence
    assert calibrate.betting_p_value(np.full(samples, 1.001 * most), limit) > 1.0 - confidence


def test_spread_changes_little_of_what_can_be_certified() -> None:
    """Losses as small changes cause them, from a beta distribution as wide as its mean, of that mean exactly."""
    most = calibrate.certifiable_mean(800, 0.02, 0.95)
    losses = np.random.default_rng(0).beta(1.0, 1.0 / most - 1.0, (200, 800))

    def passed(mean: float) -> float:
        scaled = losses * (mean / losses.mean(axis=1, keepdims=True))
        return float(np.mean([calibrate.betting_p_value(row, 0.02) <= 0.05 for row in scaled]))

    assert passed(0.95 * most) == 1.0
    assert passed(1.1 * most) < 0.1


def test_too_few_samples_certify_no_mean() -> None:
    assert calibrate.certifiable_mean(330, 0.01, 0.95) == 0.0
    assert calibrate.certifiable_mean(400, 0.01, 0.95) > 0.0


def test_samples_needed_makes_no_array() -> None:
    assert calibrate.samples_needed(1e-9, 0.95, binary=True) == pytest.approx(math.log(20.0) * 1e9, rel=1e-6)


@pytest.mark.parametrize(
    ("p_values", "expected"),
    [([], 0), ([0.2], 0), ([0.05, 0.05], 2), ([0.01, 0.04, 0.06, 0.0], 2), ([0.0, 0.0], 2)],
)
def test_fixed_sequence_stops_at_the_first_failure(p_values: list[float], expected: int) -> None:
    assert calibrate.fixed_sequence(p_values, 0.05) == expected


TESTS = [calibrate.binomial_p_value, calibrate.hoeffding_bentkus_p_value, calibrate.betting_p_value]


@pytest.mark.parametrize("test", TESTS)
def test_all_ones_are_no_evidence(test: Test) -> None:
    assert test(np.ones(20), 0.5) == 1.0


@pytest.mark.parametrize("test", TESTS)
def test_a_single_sample_without_loss_is_weak_evidence(test: Test) -> None:
    assert 1.0 - LIMIT <= test(np.zeros(1), LIMIT) <= 1.0


@pytest.mark.parametrize("test", TESTS)
@pytest.mark.parametrize(
    "losses",
    [[], [[0.0]], [0.0, float("nan")], [0.0, 1.5], [-0.1, 0.0], [float("inf")]],
    ids=["none", "two axes", "nan", "above one", "negative", "infinite"],
)
def test_losses_that_are_none_are_refused(test: Callable[..., float], losses: list[float]) -> None:
    with pytest.raises(ValueError, match="loss"):
        test(losses, LIMIT)


def test_a_fraction_is_no_binary_loss() -> None:
    with pytest.raises(ValueError, match="0 or 1"):
        calibrate.binomial_p_value([0.0, 0.5], LIMIT)


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, 1.1, float("nan")])
def test_limits_and_confidences_outside_the_open_interval_are_refused(value: float) -> None:
    for test in TESTS:
        with pytest.raises(ValueError, match="limit"):
            test([0.0], value)
    with pytest.raises(ValueError, match="confidence"):
        calibrate.upper_bound([0.0], value, binary=True)
    with pytest.raises(ValueError, match="delta"):
        calibrate.fixed_sequence([0.1], value)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_p_values_outside_the_interval_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="p-values"):
        calibrate.fixed_sequence([0.0, value], 0.05)
