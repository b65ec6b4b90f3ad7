"""The parts of the monitor: figures of drift, bets, losses, and what they add up to."""

from __future__ import annotations

import math

import numpy as np
import pytest

from skipc.compiler import loss as compiling
from skipc.runtime.drift import ScoreDrift, ks, ks_critical, psi
from skipc.runtime.losses import LOSSES, on_real_tokens
from skipc.runtime.martingales import EVERY, MOST, LossGame, RankGame, Table
from skipc.runtime.plan import Reference

SAME = np.array([10, 20, 30])


def test_like_histograms_have_no_distance() -> None:
    assert psi(SAME, SAME) == 0.0
    assert ks(SAME, 5 * SAME) == 0.0


def test_distances_of_known_histograms() -> None:
    one, two = np.array([999, 0]), np.array([0, 999])
    assert ks(one, two) == 1.0
    assert psi(one, two) == pytest.approx(2 * (999 / 1000) * math.log(999.5 / 0.5))
    assert ks(np.array([1, 1]), np.array([3, 1])) == 0.25


def test_an_empty_window_has_no_distance() -> None:
    nothing = np.zeros(3, np.int64)
    assert ks(SAME, nothing) == 0.0
    assert ks_critical(60, 0) == math.inf


def test_the_critical_distance_is_exceeded_by_one_in_a_hundred() -> None:
    """2,000 pairs of samples, 200 bins: binning makes the distance smaller, never larger. Five deviations are 1.1 %."""
    random = np.random.default_rng(0)
    critical = ks_critical(300, 200)
    pairs = [(np.bincount(random.integers(0, 200, size), minlength=200) for size in (300, 200)) for _ in range(2000)]
    exceeded = np.mean([ks(*pair) > critical for pair in pairs])
    assert 0.002 < exceeded < 0.021


def test_the_window_forgets() -> None:
    watched = ScoreDrift(Reference((0.0,), ((50, 50),), (0.5,)), 0, window=10, seed=0)
    for score in [5.0] * 30:
        watched.observe(score)
    assert (watched.ks, watched.psi > 1) == (0.5, True)
    for score in [-1.0, 1.0] * 5:
        watched.observe(score)
    assert watched.ks == 0.0


def test_what_is_no_number_counts_as_largest() -> None:
    watched = ScoreDrift(Reference((0.0,), ((0, 50),), (0.5,)), 0, window=10, seed=0)
    watched.observe(math.nan)
    assert watched.ks == 0.0


def test_a_level_has_its_own_counts() -> None:
    found = Reference((0.0,), ((50, 0), (0, 50)), (0.0, 1.0))
    distances = []
    for level in (0, 1):
        watched = ScoreDrift(found, level, window=10, seed=0)
        watched.observe(1.0)
        distances.append(watched.ks)
    assert distances == [1.0, 0.0]


@pytest.mark.parametrize("game", [LossGame(0.1), RankGame()])
def test_all_the_money_is_on_the_table(game: LossGame | RankGame) -> None:
    """Before the first bet the wealth is 1, and a new gambler brings only what was put aside for it."""
    table = Table(game)
    assert table.log_wealth == 0.0
    for _ in range(EVERY):
        table.observe(0.1)
    before = table.log_wealth
    table._start()
    assert table.log_wealth == pytest.approx(before)


def test_gamblers_leave_when_the_table_is_full() -> None:
    table = Table(LossGame(0.1))
    for _ in range(EVERY * (MOST + 3)):
        table.observe(0.0)
    assert len(table._log) == MOST
    assert table.log_wealth < 0


def test_a_loss_at_the_limit_moves_nothing() -> None:
    game = LossGame(0.25)
    game.sit_down()
    np.testing.assert_allclose(game.play(0.25), [0.0], atol=1e-12)
    assert game.play(1.0)[0] > 0 > game.play(0.0)[0]
    assert math.isfinite(game.play(math.nan)[0])


@pytest.mark.parametrize("name", LOSSES)
def test_audited_losses_are_those_of_the_compiler(name: str) -> None:
    random = np.random.default_rng(0)
    for shape in ((40, 5), (3, 4, 5)):
        full = random.standard_normal(shape).astype(np.float32)
        served = (full + random.standard_normal(shape)).astype(np.float32)
        served[0, ..., 0] = np.nan
        expected = compiling.resolve_loss(name, full, None).of(full, served, None, None)
        np.testing.assert_allclose(LOSSES[name](full, served), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_padding_is_not_judged(name: str) -> None:
    random = np.random.default_rng(0)
    full = random.standard_normal((3, 4, 5)).astype(np.float32)
    served = (full + 0.3 * random.standard_normal(full.shape)).astype(np.float32)
    real = np.array([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]], dtype=bool)
    alone = [LOSSES[name](full[:1, :2], served[:1, :2]), LOSSES[name](full[1:], served[1:])]
    np.testing.assert_allclose(on_real_tokens(LOSSES[name], full, served, real), np.concatenate(alone))
    served[0, 2:] = 100.0
    np.testing.assert_allclose(on_real_tokens(LOSSES[name], full, served, real), np.concatenate(alone))
    assert on_real_tokens(LOSSES[name], full[:, 0], served[:, 0], real).shape == (3,), "no place for each token"


def test_one_number_a_sample_can_be_audited() -> None:
    full, served = np.array([1.0, 2.0], np.float32), np.array([1.5, 2.0], np.float32)
    np.testing.assert_allclose(LOSSES["relative-l2"](full, served), [0.5, 0.0])
