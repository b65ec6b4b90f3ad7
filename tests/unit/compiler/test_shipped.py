"""What blocks save, and what gates cost, is brought to the times of models as they are shipped."""

from __future__ import annotations

import numpy as np
import pytest

from skipc.compiler import shipped
from skipc.compiler.data import Batch, input_specs
from skipc.compiler.impact import Costs
from skipc.compiler.planner import ALWAYS, NEVER, Step
from skipc.compiler.running import Judged
from skipc.compiler.settings import Settings
from skipc.compiler.survey import Surveyed
from tests.gated import block, surveyed
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
    monkeypatch.setattr(shipped, "_latencies", lambda *_: np.array(times))
    costs = shipped.as_shipped(COSTS, found.model, blocks, (), Settings())
    assert costs.saved.tolist() == pytest.approx(saved)
    assert costs.gate == pytest.approx(gate)
    assert costs.split is COSTS.split


def test_models_are_really_timed() -> None:
    network = mlp()
    found = surveyed(network)
    blocks = [block(region, "identity") for region in found.survey.blocks[:2]]
    feeds = network.feeds(batch=2)
    costs = shipped.as_shipped(COSTS, found.model, blocks, [Batch(feeds, (0, 1), None)], Settings())
    assert (costs.saved >= 0).all()
    assert costs.gate >= 0


def test_a_step_is_built_without_what_it_never_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    found = surveyed(mlp())
    monkeypatch.setattr(shipped, "_speed", lambda _, model, *__: float(model.count(b"then_branch")))
    judged = Judged((), (), (), "y")
    whole = Surveyed(found.model, input_specs(found.model), found.survey, {})
    speed = shipped.speed_as_shipped(whole, judged, Settings())
    blocks = [block(region) for region in found.survey.blocks[:2]]
    assert [speed(blocks, Step(limits, (0.0, 0.0), 0.0, 0.0, 0.0)) for limits in LIMITS] == [0, 1, 2]
