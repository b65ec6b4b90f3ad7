"""Levels certified anew: only those that hold on the new data stay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from skipc.compiler.build import build
from skipc.compiler.data import Dataset
from skipc.compiler.retune import RETUNED, Terms, recertify
from skipc.passes.base import run_passes
from skipc.passes.stamp import Recertify, SetLevel, plan_of
from skipc.runtime.errors import InputError, PromiseError
from skipc.runtime.plan import Block, Bypass, Gate, Plan
from skipc.runtime.session import open_session
from tests.gated import surveyed
from tests.graphs import conv_net, mlp

NETWORK = mlp(blocks=3)
NEVER, ALWAYS = -np.inf, np.inf
LEVELS = ((NEVER,) * 3, (ALWAYS, NEVER, NEVER), (ALWAYS, ALWAYS, NEVER), (ALWAYS,) * 3)


def data(count: int, seed: int, name: str = "new") -> Dataset:
    rows = np.random.default_rng(seed).standard_normal((count, 1, 6)).astype(np.float32)
    return Dataset(name, f"digest of {seed}", tuple({"x": row} for row in rows), None)


def shrunk(channels: int, size: float) -> Bypass:
    """The identity, up to a factor: how far it is off is known in advance."""
    return Bypass("affine", {"scale": np.full(channels, size, np.float32), "shift": np.zeros(channels, np.float32)})


def compiled() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """An original, and a file with three levels, each bypassing one block more, the last by something useless."""
    found = surveyed(NETWORK)
    blocks = tuple(
        Block(region, shrunk(region.channels, size), Gate("constant", np.zeros(0, np.float32), 0.0, floor=NEVER))
        for region, size in zip(found.survey.blocks, (1.0, 1.0, -1.0), strict=True)
    )
    digests = {"old": "digest of 1", f"{RETUNED}new": "digest of 2"}
    plan = Plan("m", digests, blocks, LEVELS, 3, None, "relative-l2", 1, 1, "cpu", 0, {})
    return found.model, build(found.model, plan)


def mean_losses(original: onnx.ModelProto, model: onnx.ModelProto, samples: Dataset) -> list[float]:
    """Relative distance at every level, by numpy."""
    before = open_session(original.SerializeToString())
    found = []
    for level in range(len(LEVELS)):
        after = open_session(run_passes(model, [SetLevel(level)]).SerializeToString())
        pairs = [(before.run(item)["y"], after.run(item)["y"]) for item in samples.samples]
        found.append(float(np.mean([min(1.0, np.linalg.norm(y - z) / np.linalg.norm(y)) for y, z in pairs])))
    return found


def test_levels_are_kept_as_far_as_they_pass() -> None:
    original, model = compiled()
    samples = data(400, 3)
    means = mean_losses(original, model, samples)
    assert means[0] == 0.0
    assert means[1] < means[2] < means[3]
    # Halfway between two levels: far from both by any test on 400 samples.
    for kept in (1, 2):
        risk = float(means[kept] + means[kept + 1]) / 2
        change = recertify(original, model, [samples], Terms(risk, 0.9))
        assert change.levels == kept + 1
        assert change.certificate.mean == pytest.approx(means[kept], rel=1e-4)
        assert change.certificate.bound <= change.certificate.limit == risk
        assert (change.certificate.samples, change.certificate.confidence) == (400, 0.9)
        assert (change.certificate.tested, change.certificate.certified) == (kept + 1, kept)


def test_the_worst_data_set_decides() -> None:
    original, model = compiled()
    easy, hard = data(400, 3, "easy"), data(400, 4, "hard")
    risk = float(np.mean(mean_losses(original, model, easy)[1:3]))
    assert recertify(original, model, [easy], Terms(risk, 0.9)).levels == 2
    bad = replace(hard, samples=tuple({"x": 100.0 * item["x"] ** 3} for item in hard.samples))
    worst = mean_losses(original, model, bad)[1]
    assert worst > risk
    with pytest.raises(PromiseError) as caught:
        recertify(original, model, [easy, bad], Terms(risk, 0.9))
    assert (caught.value.code, caught.value.where, caught.value.exit_code) == ("nothing-certified", "hard", 1)
    assert f"its mean is {worst:.4g}" in caught.value.what


def test_digests_tell_what_was_certified_on() -> None:
    original, model = compiled()
    change = recertify(original, model, [data(400, 3, "fresh")], Terms(0.99, 0.9))
    assert change.data_digests == {"old": "digest of 1", f"{RETUNED}fresh": "digest of 3"}
    changed = run_passes(model, [change])
    assert plan_of(changed, where="").certificate == change.certificate
    again = recertify(original, changed, [data(400, 3, "fresh")], Terms(None, None))
    assert again == change


@pytest.mark.parametrize("digest", ["digest of 1", "digest of 1-0123456789abcdef"])
def test_data_that_the_file_was_made_from_is_refused(digest: str) -> None:
    original, model = compiled()
    with pytest.raises(InputError) as caught:
        recertify(original, model, [replace(data(400, 3), digest=digest)], Terms(0.9, 0.9))
    assert caught.value.code == "data-not-new"


def test_too_few_samples_say_how_many() -> None:
    original, model = compiled()
    with pytest.raises(PromiseError) as caught:
        recertify(original, model, [data(20, 3)], Terms(0.01, 0.95))
    assert "at least 331 calibration samples" in caught.value.what
    assert "at least 331 samples in all" in caught.value.hint


def test_a_file_without_levels_has_nothing_to_certify() -> None:
    original, model = compiled()
    change = recertify(original, model, [data(400, 3)], Terms(0.99, 0.9))
    only = run_passes(model, [Recertify(1, change.certificate, {})])
    with pytest.raises(InputError) as caught:
        recertify(original, only, [data(400, 3)], Terms(0.9, 0.9))
    assert caught.value.code == "no-levels"


def test_another_original_is_refused() -> None:
    """By its signature, and where that is the same, by what it computes."""
    _, model = compiled()
    with pytest.raises(InputError) as caught:
        recertify(surveyed(conv_net()).model, model, [data(400, 3)], Terms(0.9, 0.9))
    assert caught.value.code == "not-its-original"
    with pytest.raises(PromiseError) as broken:
        recertify(surveyed(mlp(tail="Tanh")).model, model, [data(400, 3)], Terms(0.9, 0.9))
    assert broken.value.code == "gates-shut-differ"
