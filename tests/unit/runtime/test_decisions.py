"""Reasons say what happened, for every way in which a gate can decide."""

from __future__ import annotations

import numpy as np
import pytest

from skipc.runtime.decisions import Decisions, Limits, limits_of
from tests.deployment import plan

INF, NAN = np.inf, np.nan


def reason(
    score: float, bypassed: float, threshold: float = -2.0, floor: float = -5.0, *, constant: bool = False
) -> str:
    limits = Limits("feed-forward.0", threshold, floor, constant)
    found = Decisions((limits,), np.array([[score]], np.float32), np.array([[bypassed]], np.float32)).of(0)
    return found[0].reason


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (reason(-3.0, 1.0), "bypassed: predicted impact 0.0498 is below the allowed 0.135"),
        (reason(-1.0, 0.0), "in full: predicted impact 0.368 is not below the allowed 0.135"),
        (reason(-2.0, 0.0), "in full: predicted impact 0.135 is not below the allowed 0.135"),
        (reason(-6.0, 0.0), "in full: score -6 is at or below -5, the least that calibration saw"),
        (reason(NAN, 0.0), "in full: the score is not a number"),
        (reason(-3.0, 0.0), "in full: the score allows the bypass, but another row of the batch needs the block"),
        (reason(-3.0, 0.25), "25% of the rows bypassed: their own scores lie below -2"),
        (reason(9.0, 0.0, -INF), "in full: this level never bypasses the block"),
        (reason(0.0, 1.0, INF, -INF, constant=True), "bypassed: this level bypasses the block for every input"),
        (reason(9.0, 1.0, INF), "bypassed: this level bypasses the block for every input"),
        (reason(-9.0, 0.0, INF), "in full: score -9 is at or below -5, the least that calibration saw"),
        (reason(NAN, 0.0, INF), "in full: the score is not a number"),
        (reason(1e30, 0.0), "in full: predicted impact 1.01e+304 is not below the allowed 0.135"),
    ],
)
def test_reasons(found: str, expected: str) -> None:
    assert found == expected


def test_a_margin_is_positive_where_the_score_speaks_for_the_bypass() -> None:
    limits = Limits("b", -2.0, -INF, False)
    found = Decisions((limits,), np.array([[-3.0], [-1.5]], np.float32), np.array([[1.0], [0.0]], np.float32))
    assert [found.of(row)[0].margin for row in range(2)] == [1.0, -0.5]


def test_limits_are_those_of_the_level() -> None:
    at_one, forced = limits_of(plan(), 1), limits_of(plan(), "bypass")
    assert [item.threshold for item in at_one] == [4.5, INF, -INF]
    assert [item.floor for item in at_one] == [-1.0, -INF, -INF]
    assert [item.is_live for item in at_one] == [True, False, False]
    assert {(item.threshold, item.floor) for item in forced} == {(INF, -INF)}
