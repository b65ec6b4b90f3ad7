"""Values shown as outputs, without changing anything else."""

from __future__ import annotations

import base64
from collections.abc import Callable

import numpy as np
import pytest

from skipc.passes.base import GraphPass, run_passes
from skipc.passes.expose import AttachDecisions, ExposeDecisions, with_outputs
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


def test_attached_decisions_leave_the_graph_as_it_is_and_can_be_merged_in() -> None:
    network = transformer()
    found = surveyed(network)
    blocks = tuple(block(region, seed=seed) for seed, region in enumerate(found.survey.blocks))
    gated = run_passes(found.model, [InjectGates(blocks, InputWindow())])
    attached = run_passes(gated, [AttachDecisions(blocks)])
    assert attached.graph.SerializeToString() == gated.graph.SerializeToString()
    (entry,) = (item for item in attached.metadata_props if item.key == names.DECISIONS_KEY)
    assert entry.key == names.DECISIONS_KEY
    attached.MergeFromString(base64.b64decode(entry.value))
    exposed = ExposeDecisions(blocks).apply(gated)
    assert attached.graph.SerializeToString() == exposed.graph.SerializeToString()
