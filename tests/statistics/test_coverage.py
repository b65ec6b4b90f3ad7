"""Certificates on losses of real models are wrong no more often than promised.

The losses were measured once (`benchmarks.coverage`); their mean stands for the true risk. Calibration sets are drawn
from them with replacement, so that samples are independent, as the tests assume, and the path is walked on each.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.coverage import NAMES, Losses, certified, limits_of, load, violations
from skipc.compiler.certify import Claim, certify
from skipc.compiler.loss import Loss
from skipc.runtime.losses import cosine, top1

DELTA = 0.05
DRAWS = 1000
ALLOWED = DELTA + 3.0 * math.sqrt(DELTA * (1.0 - DELTA) / DRAWS)
"""Three standard errors above what is promised, so that a valid test fails with probability near 0.1 %."""

each_model = pytest.mark.parametrize("name", NAMES)


@each_model
def test_the_certificate_is_violated_no_more_often_than_promised(name: str) -> None:
    losses = load(name)
    for which, limit in limits_of(losses).items():
        assert violations(losses, limit, draws=DRAWS).mean() <= ALLOWED, which


@each_model
def test_nor_on_parts_of_a_split(name: str) -> None:
    losses = load(name)
    for which, limit in limits_of(losses).items():
        assert violations(losses, limit, draws=DRAWS, replace=False).mean() <= ALLOWED, which


def test_at_the_boundary_there_are_violations_to_be_counted() -> None:
    """Where nothing is ever certified, nothing is violated either: the exact test comes near to what it promises.

    The betting test, for losses that are no step, is more careful: it has to allow for losses of 1 that MiniLM's path
    never shows, and is wrong in none of a thousand draws.
    """
    losses = load("demo")
    shares = [violations(losses, limit, draws=DRAWS).mean() for limit in limits_of(losses).values()]
    assert max(shares) >= DELTA / 2


@each_model
def test_a_careless_rule_is_found_out(name: str) -> None:
    """Whoever goes by the mean alone breaks the promise, and the check is sharp enough to see it."""

    def mean_alone(values: NDArray[np.float64], limit: float, _binary: bool) -> float:
        return float(values.mean() > limit)

    losses = load(name)
    limits = limits_of(losses).values()
    assert max(violations(losses, limit, draws=DRAWS, test=mean_alone).mean() for limit in limits) > 2 * ALLOWED


@each_model
def test_most_of_the_path_is_certified_at_a_limit_far_above_its_risk(name: str) -> None:
    losses = load(name)
    drawn = np.random.default_rng(0).integers(losses.values.shape[1], size=losses.calibrate)
    assert certified(losses, drawn, 3 * float(losses.risks.max()), DELTA) == len(losses.values)


@each_model
def test_the_walk_is_that_of_a_compilation(name: str) -> None:
    losses = load(name)
    loss = Loss("top1", top1, binary=True) if losses.binary else Loss("cosine", cosine)
    random = np.random.default_rng(3)
    for limit in limits_of(losses).values():
        drawn = random.integers(losses.values.shape[1], size=losses.calibrate)
        claim = Claim(loss, "y", limit, 1 - DELTA, losses.binary)
        path = [lambda row=row, drawn=drawn: [row[drawn]] for row in losses.values]
        assert len(certify(path, claim)) == certified(losses, drawn, limit, DELTA)


def test_one_wrong_configuration_among_those_that_passed_is_a_violation() -> None:
    """A path that is wrong in its middle: whoever walks past that is wrong, however good the last one is."""
    values = np.zeros((3, 400))
    values[1, ::2] = 0.5
    losses = Losses(values, binary=False, limit=0.2, calibrate=300)
    assert losses.risks.tolist() == [0.0, 0.25, 0.0]
    assert violations(losses, 0.2499, draws=20, test=lambda *_: 0.0).all()
    assert not violations(losses, 0.2501, draws=20, test=lambda *_: 0.0).any()
    assert not violations(losses, 0.2499, draws=20, test=lambda *_: 1.0).any()
    assert not violations(replace(losses, values=values[[0, 2]]), 0.2499, draws=20, test=lambda *_: 0.0).any()
