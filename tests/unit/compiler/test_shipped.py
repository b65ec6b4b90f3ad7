"""What blocks save, and what gates cost, is brought to the times of models as they are shipped."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from skipc.compiler import shipped
from skipc.compiler.data import Batch, input_specs
from skipc.compiler.impact import Costs
from skipc.compiler.planner import ALWAYS, NEVER, Step
from skipc.compiler.running import Judged
from skipc.compiler.settings import Settings
from skipc.compiler.survey import Surveyed
from skipc.runtime.session import open_session
from tests.gated import Array, block, surveyed
from tests.graphs import mlp

COSTS = Costs(10.0, 11.0, np.array([1.0, 3.0]), np.array([0.1, 0.2]), 0.5)

LIMITS = ((NEVER, NEVER), (NEVER, ALWAYS), (0.5, ALWAYS))


@pytest.mark.parametrize(
    ("times", "saved", "gate"),
    [
        ((10.0, 7.0, 7.6), [0.75, 2.25], 0.3),
        ((10.0, 7.0, 6.9), [0.75, 2.25], 0.0),
        ((10.0, 10.5, 11.0), [0.0, 0.0], 0.25),
    ],
    ids=["saves less than in branches", "gates within noise", "saves nothing"],
)
def test_costs_as_shipped(
    monkeypatch: pytest.MonkeyPatch, times: tuple[float, ...], saved: list[float], gate: float
) -> None:
    found = surveyed(mlp())
    blocks = [block(region) for region in found.survey.blocks[:2]]
    assert len(blocks) == 2
    monkeypatch.setattr(shipped, "latencies", lambda *_: np.array(times))
    costs = shipped.as_shipped(COSTS, found.model, blocks, (), Settings())
    assert costs.saved.tolist() == pytest.approx(saved)
    assert costs.gate == pytest.approx(gate)
    assert costs.split is COSTS.split


def test_what_is_timed_are_the_original_and_the_bypasses_without_gates_and_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = mlp()
    found = surveyed(network)
    blocks = [block(region, "identity") for region in found.survey.blocks[:2]]
    items = [Batch(network.feeds(batch=2), (0, 1), None)]
    seen: list[bytes] = []

    def latencies(models: Sequence[bytes], *_: object) -> Array:
        seen.extend(models)
        return np.ones(len(models))

    monkeypatch.setattr(shipped, "latencies", latencies)
    shipped.as_shipped(COSTS, found.model, blocks, items, Settings())
    original, static, gated = (open_session(model, optimize=False).run(items[0].feeds) for model in seen)
    for name, array in original.items():
        np.testing.assert_array_equal(gated[name], static[name])
        assert np.abs(static[name] - array).max() > 1e-3
    assert [model.count(b"then_branch") for model in seen] == [0, 0, 2]


def test_a_step_is_built_without_what_it_never_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    found = surveyed(mlp())
    monkeypatch.setattr(shipped, "_speed", lambda _, model, *__: float(model.count(b"then_branch")))
    judged = Judged((), (), (), "y")
    whole = Surveyed(found.original, found.model, input_specs(found.model), found.survey, {})
    speed = shipped.speed_as_shipped(whole, judged, Settings())
    blocks = [block(region) for region in found.survey.blocks[:2]]
    assert [speed(blocks, Step(limits, (0.0, 0.0), 0.0, 0.0, 0.0)) for limits in LIMITS] == [0, 1, 2]
