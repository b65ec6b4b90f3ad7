"""From what is asked for to the gentlest configuration that is fast enough, and to what can be promised of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from skipc.compiler.bench import Bench
from skipc.compiler.budget import LARGEST_LIMIT, MARGIN, Laid, Reached, limits, parse_budget, reach, require_budget
from skipc.compiler.calibrate import p_value
from skipc.compiler.certify import Claim, bound_certificate
from skipc.compiler.gating import Gated
from skipc.compiler.latency import Speedup
from skipc.compiler.loss import resolve_loss
from skipc.compiler.planner import Step
from skipc.runtime.errors import InputError, PromiseError

COSINE = resolve_loss("cosine", np.zeros((1, 4), np.float32), None)
TOP1 = resolve_loss("top1", np.zeros((1, 4), np.float32), np.zeros(1, np.int64))


def test_a_latency_and_a_speed_up() -> None:
    assert (parse_budget("5ms").latency_ms, parse_budget("5ms").speedup) == (5.0, None)
    assert (parse_budget(" 0.25 ms").latency_ms, parse_budget("1.3x").speedup) == (0.25, 1.3)


@pytest.mark.parametrize("text", ["", "5", "fast", "1x", "0.9x", "0ms", "-5ms", "1.3 X", "5s", "5msx", "nanx"])
def test_anything_else_is_no_budget(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_budget(text)
    assert (caught.value.code, caught.value.where) == ("budget-unclear", "--budget")
    assert "5ms" in caught.value.hint


def test_limits_double_and_end() -> None:
    found = list(limits(0.01))
    assert found[:3] == [0.01, 0.02, 0.04]
    assert found[-1] <= LARGEST_LIMIT < 2 * found[-1]


def laid(limit: float, steps: int = 8) -> Laid:
    """A path whose losses rise to the limit."""
    path = tuple(Step((float(i),), (0.5,), limit * (i + 1) / steps, 0.0, float(i)) for i in range(steps))
    gated = SimpleNamespace(path=path)
    return Laid(cast(Any, None), cast(Gated, gated))


def speed_by_loss(_: Gated, step: Step) -> float:
    return 1.0 + 10.0 * step.loss


@pytest.mark.parametrize("needed", [1.01, 1.09, 1.1, 1.3, 2.0, 5.0])
def test_the_first_step_that_is_fast_enough_on_the_first_path_that_is(needed: float) -> None:
    budget = parse_budget(f"{needed}x")
    tried = []

    def lay(limit: float) -> Laid:
        tried.append(limit)
        return laid(limit)

    found = reach(budget, needed, 0.01, lay, speed_by_loss)
    path = laid(tried[-1]).gated.path
    assert found.step == next(step for step in path if speed_by_loss(found.laid.gated, step) >= MARGIN * needed)
    assert all(1.0 + 10.0 * limit < MARGIN * needed for limit in tried[:-1])


def test_out_of_reach_it_says_what_can_be_reached() -> None:
    with pytest.raises(PromiseError, match=r"the budget of 9x takes 9.00x; the most that was found is 7.40x") as caught:
        reach(parse_budget("9x"), 9.0, 0.01, laid, speed_by_loss)
    assert caught.value.code == "budget-missed"
    assert caught.value.exit_code == 1


def test_a_path_without_steps_is_passed_over() -> None:
    found = reach(parse_budget("1.1x"), 1.1, 0.01, lambda limit: laid(limit, 8 if limit > 0.01 else 0), speed_by_loss)
    assert found.step.loss > 0.01


def test_a_file_that_is_measured_too_slow_is_refused() -> None:
    reached = Reached(parse_budget("1.3x"), 1.3, laid(0.01), laid(0.01).gated.path[0])
    require_budget(reached, Bench(Speedup(1.29, 1.27, 1.31), 10.0, 7.7))
    with pytest.raises(PromiseError, match=r"takes 1.30x; in the end 1.25x was measured"):
        require_budget(reached, Bench(Speedup(1.25, 1.22, 1.28), 10.0, 8.0))


@pytest.mark.parametrize("loss", [COSINE, TOP1], ids=["cosine", "top1"])
def test_the_certificate_is_the_least_limit_that_passes(loss: Any) -> None:
    claim = Claim(loss, "y", 0.5, 0.9, loss.binary)
    losses = (np.random.default_rng(0).random(400) < 0.03).astype(np.float64)
    found = bound_certificate(claim, [losses])
    assert found.limit == found.bound
    assert losses.mean() < found.limit < 0.1
    assert found.p_value <= 0.1 < p_value(losses, 0.99 * found.limit, claim.binary)
    assert (found.tested, found.certified, found.samples) == (1, 1, 400)


def test_of_several_data_sets_the_worst_decides() -> None:
    claim = Claim(COSINE, "y", 0.5, 0.9, False)
    groups = [np.full(300, 0.01), np.full(300, 0.2), np.full(300, 0.05)]
    assert bound_certificate(claim, groups) == bound_certificate(claim, groups[1:2])


def test_no_less_is_promised_than_the_mean_of_other_data() -> None:
    claim, losses = Claim(TOP1, "y", 0.5, 0.9, True), np.zeros(200)
    plain = bound_certificate(claim, [losses])
    assert bound_certificate(claim, [losses], [np.zeros(50)]) == plain
    worse = bound_certificate(claim, [losses], [np.zeros(50), np.repeat([0.0, 1.0], [49, 1])])
    assert (plain.bound, worse.bound) == (plain.limit, plain.limit)
    assert worse.limit == 0.02 > plain.limit
    assert worse.p_value == p_value(losses, 0.02, True) < plain.p_value


def test_a_test_that_chance_does_not_explain_is_no_promise() -> None:
    """Samples that were not shuffled: of the last ones far more are answered otherwise."""
    claim, losses = Claim(TOP1, "y", 0.5, 0.9, True), np.zeros(200)
    bound = bound_certificate(claim, [losses]).limit
    assert bound < 0.1
    with pytest.raises(PromiseError) as caught:
        bound_certificate(claim, [losses], [np.repeat([0.0, 1.0], [30, 20])])
    assert caught.value.code == "risk-exceeded"
    assert "0.4" in caught.value.what
    random = np.random.default_rng(0)
    small = Claim(COSINE, "y", 0.5, 0.9, False)
    gentle, worse = random.uniform(0.0, 0.1, 500), random.uniform(0.3, 0.9, 100)
    assert bound_certificate(small, [gentle], [gentle[:100]]).limit < 0.1
    with pytest.raises(PromiseError):
        bound_certificate(small, [gentle], [worse])


def test_from_too_little_nothing_is_promised() -> None:
    with pytest.raises(PromiseError, match="nothing can be promised") as caught:
        bound_certificate(Claim(COSINE, "y", 0.5, 0.9, False), [np.ones(3)])
    assert caught.value.code == "too-few-samples"
