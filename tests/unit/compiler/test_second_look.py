"""How far a second look may go, and when it is not looked for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from skipc.compiler import second_look
from skipc.compiler.certify import Claim
from skipc.compiler.fit import GateFit
from skipc.compiler.loss import resolve_loss
from skipc.compiler.planner import REACH
from skipc.compiler.second_look import Look, SecondLook, faster_of, is_asked, lay_thresholds, sure_share
from skipc.compiler.settings import Settings
from skipc.runtime.plan import Block, Bypass, Gate, Region

COUNT = 2000
SCORES = np.arange(COUNT) / COUNT
"""From the surest sample to the least sure."""


def claim(loss: str = "top1") -> Claim:
    return Claim(resolve_loss(loss, np.ones((2, 3), np.float32), None), "logits", 0.01, 0.95, binary=loss == "top1")


def losses(wrong_from: float) -> np.ndarray:
    """One in four samples beyond a share of them is wrong."""
    return np.asarray((wrong_from <= SCORES) & (np.arange(COUNT) % 4 == 0), np.float64)


def look(wrong_from: float) -> Look:
    region = Region("second-look", "second-look", "x", "y", "y", ("n",), (), 1, ("batch", 3), 1)
    gate = Gate("top", np.zeros(2, np.float32), 0.0, -np.inf, granularity="sample")
    share = sure_share(SCORES, losses(wrong_from), COUNT, claim())
    fit = GateFit(gate, SCORES, 0.0)
    return Look(Block(region, Bypass("read-out"), gate), fit, SCORES, losses(wrong_from), share)


def test_the_share_ends_where_the_claim_does() -> None:
    share = sure_share(SCORES, losses(0.5), COUNT, claim())
    # 12 of 2,000 pass at 1 % with 95 % confidence and 13 do not; one in four is wrong, so 48 to 51 samples fit beyond.
    assert share == pytest.approx(0.52)


def test_more_samples_to_certify_on_allow_a_larger_share() -> None:
    few, many = (sure_share(SCORES, losses(0.5), units, claim()) for units in (COUNT, 10 * COUNT))
    assert few < many


def test_nothing_is_sure_where_the_surest_are_wrong() -> None:
    assert sure_share(SCORES, np.ones(COUNT), COUNT, claim()) == 0.0


def test_a_path_goes_from_gentle_to_bold_and_a_little_beyond_the_limit() -> None:
    path = lay_thresholds(look(0.5), COUNT, -0.1, 1.0, claim())
    thresholds = [step.thresholds[0] for step in path]
    assert thresholds == sorted(set(thresholds))
    assert path[0].loss == 0.0
    assert path[0].p_value < 0.05
    assert path[-1].p_value > 0.05
    assert path[-2].loss <= REACH * 0.01
    for step in path:
        assert step.saved_ms == pytest.approx(step.shares[0] - 0.1)
        assert (step.thresholds[0] > SCORES).mean() == pytest.approx(step.shares[0], abs=1e-3)


@pytest.mark.parametrize(
    ("settings", "loss", "expected"),
    [
        (Settings(), "top1", True),
        (Settings(), "kl", False),
        (Settings(bypass="narrow"), "top1", False),
        (Settings(granularity="batch"), "top1", False),
        (Settings(exclude=("second-*",)), "top1", False),
    ],
)
def test_it_is_looked_for_where_only_the_order_of_scores_counts(settings: Settings, loss: str, expected: bool) -> None:
    assert is_asked(claim(loss), settings) is expected


@pytest.mark.parametrize(("speed", "expected"), [(1.2, "look"), (1.9, "blocks")])
def test_the_faster_way_is_taken(monkeypatch: pytest.MonkeyPatch, speed: float, expected: str) -> None:
    ways: dict[str, Any] = {
        "look": SimpleNamespace(path=(), blocks=()),
        "blocks": SimpleNamespace(path=lay_thresholds(look(0.5), COUNT, 0.0, 1.0, claim()), blocks=()),
    }
    monkeypatch.setattr(second_look, "speed_as_shipped", lambda *_: lambda *_: speed)
    nothing: Any = None
    surroundings = (nothing, nothing, claim(), Settings())
    found = faster_of(SecondLook(ways["look"], 1.5), ways["blocks"], *surroundings)
    assert found is ways[expected]
    assert faster_of(SecondLook(ways["look"], 1.5), None, *surroundings) is ways["look"]
    assert faster_of(None, ways["blocks"], *surroundings) is ways["blocks"]
