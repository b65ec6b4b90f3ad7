"""The plan inside the model: written, read, and kept in step with the level in force."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from skipc.passes.base import run_passes
from skipc.passes.inject import InjectGates
from skipc.passes.stamp import Recertify, SetLevel, StampPlan, is_compiled, plan_of
from skipc.passes.window import LevelWindow
from skipc.runtime import names
from skipc.runtime.errors import InputError
from skipc.runtime.plan import Certificate, Plan
from tests.gated import assert_equal, block, run, surveyed
from tests.graphs import mlp

NETWORK = mlp(blocks=2)
LEVELS = ((-np.inf, -np.inf), (np.inf, -np.inf), (np.inf, np.inf))


def stamped(level: int = 1) -> onnx.ModelProto:
    found = surveyed(NETWORK)
    blocks = tuple(block(region) for region in found.survey.blocks)
    plan = Plan("digest", {"data": "d"}, blocks, LEVELS, level, None, "top1", 1, 1, "cpu", 0, {"skipc": "0"})
    return run_passes(found.model, [InjectGates(blocks, LevelWindow(LEVELS, (-np.inf,) * 2, level)), StampPlan(plan)])


def test_the_plan_is_read_back_without_its_arrays() -> None:
    plan = plan_of(stamped(), where="m.onnx")
    assert (plan.model_digest, plan.level, plan.thresholds) == ("digest", 1, LEVELS)
    assert [item.region.name for item in plan.blocks] == ["feed-forward.0", "feed-forward.1"]
    assert plan.blocks[0].bypass.arrays["weight"].size == 0


def test_a_model_without_plan_says_so() -> None:
    assert is_compiled(stamped())
    assert not is_compiled(NETWORK.model)
    with pytest.raises(InputError, match=r"m\.onnx") as caught:
        plan_of(NETWORK.model, where="m.onnx")
    assert caught.value.code == "not-compiled"


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_new_level_is_in_force_and_in_the_plan(level: int) -> None:
    other = (level + 1) % 3
    changed = SetLevel(level).apply(stamped(other))
    feeds = NETWORK.feeds()
    assert_equal(run(changed, feeds), run(stamped(level), feeds))
    assert changed.metadata_props[0].value == stamped(level).metadata_props[0].value


def test_setting_the_level_leaves_the_given_model_alone() -> None:
    model = stamped()
    before = model.SerializeToString()
    SetLevel(2).apply(model)
    assert model.SerializeToString() == before


@pytest.mark.parametrize("level", [-1, 3])
def test_a_level_that_is_not_there_is_refused(level: int) -> None:
    with pytest.raises(InputError) as caught:
        SetLevel(level).apply(stamped())
    assert caught.value.code == "level-unknown"


def test_a_model_without_plan_has_no_level() -> None:
    with pytest.raises(InputError) as caught:
        SetLevel(0).apply(NETWORK.model)
    assert caught.value.code == "not-compiled"


def test_other_metadata_stays() -> None:
    model = stamped()
    model.metadata_props.add(key="author", value="someone")
    found = {item.key: item.value for item in SetLevel(0).apply(model).metadata_props}
    assert found["author"] == "someone"
    assert names.PLAN_KEY in found


CERTIFICATE = Certificate("top1", "y", 0.1, 0.9, 0.02, 0.08, 0.01, "binomial", 100, 3, 1)


def test_a_new_certificate_keeps_the_levels_that_passed() -> None:
    changed = run_passes(stamped(2), [Recertify(2, CERTIFICATE, {"data": "d", "retune/new": "e"})])
    plan = plan_of(changed, where="m.onnx")
    assert (plan.thresholds, plan.level, plan.certificate) == (LEVELS[:2], 1, CERTIFICATE)
    assert plan.data_digests == {"data": "d", "retune/new": "e"}
    table = next(item for item in changed.graph.initializer if item.name == names.THRESHOLDS)
    assert onnx.numpy_helper.to_array(table).tolist() == [list(row) for row in LEVELS[:2]]
    assert_equal(run(changed, NETWORK.feeds()), run(stamped(1), NETWORK.feeds()))


def test_a_recertified_file_is_what_its_plan_builds() -> None:
    found = surveyed(NETWORK)
    blocks = tuple(block(region) for region in found.survey.blocks)
    changed = run_passes(stamped(2), [Recertify(2, CERTIFICATE, {"data": "d"})])
    plan = Plan("digest", {"data": "d"}, blocks, LEVELS[:2], 1, CERTIFICATE, "top1", 1, 1, "cpu", 0, {"skipc": "0"})
    built = run_passes(found.model, [InjectGates(blocks, LevelWindow(LEVELS[:2], (-np.inf,) * 2, 1)), StampPlan(plan)])
    assert changed.SerializeToString(deterministic=True) == built.SerializeToString(deterministic=True)
