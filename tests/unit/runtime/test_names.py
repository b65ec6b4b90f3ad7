"""The names are a contract with those who read compiled files: changing one is a breaking change."""

from __future__ import annotations

from skipc.runtime import names


def test_names_of_inputs_outputs_and_tables() -> None:
    found = (names.LEVEL, names.THRESHOLDS, names.FLOORS, names.WINDOW, names.DECISIONS, names.SCORES, names.PLAN_KEY)
    expected = "skipc.level skipc.thresholds skipc.floors skipc.window skipc.decisions skipc.scores skipc.plan"
    assert " ".join(found) == expected


def test_names_of_a_region() -> None:
    found = [part("r.0") for part in (names.block, names.gate, names.score, names.bypass, names.full)]
    assert found == ["skipc/r.0", "skipc/r.0/gate", "skipc/r.0/score", "skipc/r.0/bypass", "skipc/r.0/full"]
    assert all(names.is_ours(name) for name in found)


def test_other_names_are_not_ours() -> None:
    assert not any(names.is_ours(name) for name in ("", "skip", "skipc", "skipconnection", "model/skipc/x"))
