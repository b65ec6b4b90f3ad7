"""Among gate policies the one that runs fastest within the risk is taken, whatever it is called."""

from __future__ import annotations

import pytest

from skipc.compiler.planner import ALWAYS, NEVER, Step
from skipc.compiler.policies import fastest, may_share, policies_of
from skipc.compiler.settings import Settings
from skipc.passes.policy import POLICIES


def step(p_value: float, saved_ms: float = 0.0) -> Step:
    return Step((0.0,), (0.5,), 0.01, p_value, saved_ms)


LIMIT = 0.015

GENTLE, BOLD, TOO_BOLD = step(0.001), step(0.04), step(0.2)


def test_the_fastest_policy_is_taken() -> None:
    speeds = {"block": 1.1, "early": 1.3, "merged": 1.2}
    best, note = fastest({policy: [GENTLE] for policy in speeds}, LIMIT, 0.05, lambda policy, _: speeds[policy])
    assert best == "early"
    assert "block 1.100x, early 1.300x, merged 1.200x" in note


def test_each_policy_is_timed_at_its_own_boldest_step() -> None:
    timed = []

    def speed(policy: str, item: Step) -> float:
        timed.append((policy, item))
        return 1.0

    fastest({"block": [GENTLE, TOO_BOLD], "early": [GENTLE, BOLD]}, LIMIT, 0.05, speed)
    assert timed == [("block", GENTLE), ("early", BOLD)]


def test_a_policy_without_a_step_within_the_risk_gains_nothing() -> None:
    best, note = fastest({"block": [TOO_BOLD], "early": [GENTLE]}, LIMIT, 0.05, lambda *_: 1.01)
    assert best == "early"
    assert "block 1.000x" in note
    # Nor is a policy taken that is slower than no gate at all.
    assert fastest({"block": [TOO_BOLD], "early": [GENTLE]}, LIMIT, 0.05, lambda *_: 0.9)[0] == "block"


def test_a_policy_without_gates_has_to_be_faster_by_a_tenth_or_gain_twice_as_much() -> None:
    static = Step((ALWAYS, NEVER), (1.0, 0.0), 0.01, 0.001, 0.0)
    paths = {"block": [static], "merged": [GENTLE]}
    assert fastest(paths, LIMIT, 0.05, lambda policy, _: {"block": 1.30, "merged": 1.20}[policy])[0] == "merged"
    assert fastest(paths, LIMIT, 0.05, lambda policy, _: {"block": 1.40, "merged": 1.20}[policy])[0] == "block"
    assert fastest(paths, LIMIT, 0.05, lambda policy, _: {"block": 1.10, "merged": 1.04}[policy])[0] == "block"
    assert fastest(paths, LIMIT, 0.05, lambda policy, _: {"block": 1.10, "merged": 1.06}[policy])[0] == "merged"


@pytest.mark.parametrize(
    ("asked", "provider", "expected"),
    [
        (None, "cpu", ("merged",)),
        (None, "cuda", POLICIES),
        ("auto", "cpu", POLICIES),
        ("early", "cpu", ("early",)),
        ("block", "cuda", ("block",)),
    ],
)
def test_on_a_gpu_all_policies_are_measured_unless_one_is_asked_for(
    asked: str | None, provider: str, expected: tuple[str, ...]
) -> None:
    assert policies_of(Settings(gate_policy=asked, provider=provider)) == expected


def test_all_may_share_a_gate_where_that_is_asked_for_or_measured() -> None:
    assert may_share({"a"}, Settings()) == {"a"}
    assert may_share({"a"}, Settings(gate_policy="merged")) is None
    assert may_share({"a"}, Settings(gate_policy="auto")) is None
    assert may_share({"a"}, Settings(provider="cuda")) is None
