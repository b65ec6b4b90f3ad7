"""Values shown as outputs, without changing anything else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from skipc.passes.base import GraphPass, run_passes
from skipc.passes.expose import ExposeDecisions, with_outputs
from skipc.passes.inject import InjectGates
from skipc.passes.window import InputWindow
from skipc.runtime import names
from tests.gated import block, run, surveyed, window
from tests.graphs import OPSETS, Network, conv_net, mlp, transformer


def test_more_outputs_follow_those_that_are_there() -> None:
    network = mlp()
    shown = with_outputs(network.model, ["v3", "y", "v1", "v3"])
    assert [item.name for item in shown.graph.output] == ["y", "v3", "v1"]
    assert [item.name for item in network.model.graph.output] == ["y"]
    feeds = network.feeds()
    np.testing.assert_array_equal(run(shown, feeds)["y"], run(network.model, feeds)["y"])


@pytest.mark.parametrize("opset", [OPSETS[0], OPSETS[-1]])
@pytest.mark.parametrize("build", [transformer, conv_net, mlp])
def test_decisions_and_scores_are_rows_of_samples(build: Callable[..., Network], opset: int) -> None:
    network = build(opset=opset)
    found = surveyed(network)
    blocks = tuple(block(region, seed=seed) for seed, region in enumerate(found.survey.blocks))
    passes: list[GraphPass] = [
        InjectGates(blocks, InputWindow()),
        ExposeDecisions(blocks),
    ]
    model = run_passes(found.model, passes)
    for batch in (1, 3):
        limits = window(len(blocks), -np.inf)
        limits[0, 1] = np.inf
        result = run(model, {**network.feeds(batch=batch, length=6), names.WINDOW: limits})
        assert result[names.SCORES].shape == (batch, len(blocks))
        assert result[names.SCORES].dtype == result[names.DECISIONS].dtype == np.float32
        expected = np.zeros((batch, len(blocks)))
        expected[:, 1] = 1.0
        np.testing.assert_array_equal(result[names.DECISIONS], expected)


def test_outputs_of_the_original_stay_in_front() -> None:
    network = mlp()
    found = surveyed(network)
    first = block(found.survey.blocks[0])
    model = run_passes(found.model, [InjectGates((first,), InputWindow()), ExposeDecisions((first,))])
    assert [item.name for item in model.graph.output] == ["y", names.DECISIONS, names.SCORES]
