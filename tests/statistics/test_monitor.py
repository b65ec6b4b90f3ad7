"""The monitor's promises over simulated streams: false alarms are as rare as it says, and changes are found."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from skipc.runtime.drift import ScoreDrift
from skipc.runtime.martingales import LossGame, Table
from skipc.runtime.plan import Reference

STREAMS = 200
FALSE_ALARMS = 0.05
LOG_ALARM = math.log(1.0 / FALSE_ALARMS)
PROMISED = int(STREAMS * FALSE_ALARMS)
"""Ten alarms. Ville's inequality bounds the expected number by it; the bets here lose most of their money under the
hypothesis, so that the number seen lies far below and needs no slack."""

BY_DEFAULT = math.log(2.0 / 0.01)
"""Half of the monitor's default for false alarms: its audits, or all of one gate's scores."""

Floats = NDArray[np.float64]


def reference(random: np.random.Generator, samples: int = 400) -> Reference:
    """As the compiler makes it of normal scores: edges from some samples, counts from others."""
    edges = np.quantile(random.standard_normal(samples), np.linspace(0, 1, 21)[1:-1])
    cells = np.searchsorted(edges, random.standard_normal(samples), side="right")
    counts = np.bincount(cells, minlength=20)
    return Reference(tuple(edges.tolist()), (tuple(counts.tolist()),), (0.5,))


def drift(seed: int, scores: Floats) -> list[float]:
    """Log evidence after each score."""
    watched = ScoreDrift(reference(np.random.default_rng([seed, 1])), 0, window=500, seed=seed)
    found = []
    for score in scores.tolist():
        watched.observe(score)
        found.append(watched.log_wealth)
    return found


def audits(limit: float, losses: Floats) -> list[float]:
    table = Table(LossGame(limit))
    found = []
    for loss in losses.tolist():
        table.observe(loss)
        found.append(table.log_wealth)
    return found


def first_alarm(evidence: list[float], log_alarm: float = LOG_ALARM) -> int:
    """Position of the alarm, counted from 1; 0 for none."""
    return next((position for position, value in enumerate(evidence, start=1) if value >= log_alarm), 0)


@pytest.mark.slow
def test_scores_like_calibrations_raise_few_alarms() -> None:
    alarms = sum(
        first_alarm(drift(seed, np.random.default_rng(seed).standard_normal(1000))) > 0 for seed in range(STREAMS)
    )
    assert alarms <= PROMISED


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["binary", "spread"])
def test_losses_at_the_very_limit_raise_few_alarms(kind: str) -> None:
    limit = 0.05
    alarms = 0
    for seed in range(STREAMS):
        random = np.random.default_rng(seed)
        binary = (random.random(1000) < limit).astype(np.float64)
        losses = binary if kind == "binary" else random.beta(0.5, 0.5 * (1 - limit) / limit, 1000)
        alarms += first_alarm(audits(limit, losses)) > 0
    assert alarms <= PROMISED


def test_the_evidence_is_a_fair_game() -> None:
    """Its mean stays near 1: 2,000 streams of 20 losses, whose winnings have a standard deviation of 5 at most."""
    limit, random = 0.2, np.random.default_rng(0)
    wealth = [math.exp(audits(limit, (random.random(20) < limit).astype(np.float64))[-1]) for _ in range(2000)]
    assert np.std(wealth) < 5
    assert abs(np.mean(wealth) - 1.0) < 4 * 5 / math.sqrt(2000)


@pytest.mark.parametrize("before", [0, 2000])
@pytest.mark.parametrize(("shift", "spread"), [(1.0, 1.0), (-1.0, 1.0), (0.0, 2.0), (0.0, 0.3)])
def test_other_scores_are_found_within_500_requests(before: int, shift: float, spread: float) -> None:
    for seed in range(5):
        random = np.random.default_rng(seed)
        changed = shift + spread * random.standard_normal(500)
        evidence = drift(seed, np.concatenate([random.standard_normal(before), changed]))
        assert before < first_alarm(evidence, BY_DEFAULT) <= before + 500


@pytest.mark.parametrize("before", [0, 500])
def test_a_broken_promise_is_found_within_500_audits(before: int) -> None:
    """Ten times the limit, after any number of audits at half of it."""
    limit = 0.01
    for seed in range(10):
        random = np.random.default_rng(seed)
        rates = np.concatenate([np.full(before, limit / 2), np.full(500, 10 * limit)])
        evidence = audits(limit, (random.random(before + 500) < rates).astype(np.float64))
        assert before < first_alarm(evidence, BY_DEFAULT) <= before + 500
