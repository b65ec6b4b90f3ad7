"""What an original is compiled from: itself with constant target shapes, where these are proved on real runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from skipc.compiler import survey
from skipc.compiler.source import Source
from skipc.compiler.survey import survey_model
from skipc.runtime.plan import Target
from tests.gated import run
from tests.graphs import HEADS, WIDTH, transformer

SPLIT, JOINED = (0, 0, HEADS, WIDTH // HEADS), (0, 0, WIDTH)


def source(model: onnx.ModelProto) -> Source:
    return Source(Path("net.onnx"), model, "", 0)


def test_shapes_are_fixed_and_the_original_is_kept() -> None:
    network = transformer()
    found = survey_model(source(network.model), None)
    assert {target.shape for target in found.targets} == {SPLIT, JOINED}
    assert "Shape" in {node.op_type for node in found.original.graph.node}
    assert "Shape" not in {node.op_type for node in found.model.graph.node}
    present = {node.name for node in found.model.graph.node}
    assert all(present >= set(region.nodes) for region in found.survey.regions)
    feeds = network.feeds(batch=3, length=7)
    expected, same = run(found.original, feeds), run(found.model, feeds)
    assert all(np.array_equal(expected[name], same[name]) for name in expected)


@pytest.mark.parametrize(
    "wrong",
    [(1, -1, HEADS, WIDTH // HEADS), (0, 3, HEADS, WIDTH // HEADS)],
    ids=["one batch", "does not run"],
)
def test_targets_that_change_an_answer_are_left(monkeypatch: pytest.MonkeyPatch, wrong: tuple[int, ...]) -> None:
    network = transformer()
    right = survey_model(source(network.model), None).targets
    changed = tuple(Target(item.node, wrong if item.shape == SPLIT else item.shape) for item in right)
    monkeypatch.setattr(survey, "constant_targets", lambda *_: changed)
    found = survey_model(source(network.model), None)
    assert found.targets == ()
    assert found.model is found.original
    assert len(found.survey.blocks) == len(survey_model(source(network.model), None).survey.blocks) == 4
