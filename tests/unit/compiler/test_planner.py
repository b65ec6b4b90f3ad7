"""A path goes from gentle to bold; thresholds split scores as their shares say; it ends where the loss is hopeless."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from skipc.compiler.ladder import (
    FEW,
    FINE_SHARES,
    GUARD,
    GUARD_WORTH,
    SHARES,
    Offer,
    Rung,
    forecast,
    ladder,
    rung_at,
)
from skipc.compiler.planner import (
    ALWAYS,
    GATED_GAIN,
    GATED_WORTH,
    NEVER,
    REACH,
    Step,
    Trial,
    best_path,
    lay_path,
    settled,
    threshold_at,
    window_of,
)
from skipc.compiler.running import Outcome, Window

UNITS = 200
Scores = NDArray[np.float64]


def offer(gates: int = 3, *, gate_ms: float = 0.01, seed: int = 0) -> Offer:
    """Gates whose scores foretell losses well, and of which each saves more and costs more than the one before."""
    random = np.random.default_rng(seed)
    scores = random.standard_normal((gates, UNITS)).astype(np.float32).astype(np.float64)
    size = 0.01 * np.arange(1, gates + 1)[:, None]
    losses = np.asarray(size * np.exp(scores), np.float64)
    return Offer(list(scores), list(losses), np.arange(1.0, gates + 1), np.zeros(gates), gate_ms, [True] * gates)


def simulated(given: Offer, interaction: float = 0.0) -> Callable[[Window], Outcome]:
    """A network in which losses add up, with an extra loss for each further block bypassed."""

    def run(window: Window) -> Outcome:
        scores, each = np.stack(given.scores), np.stack(given.losses)
        opened = (scores < window[0][:, None]) & (scores > -window[1][:, None].astype(np.float64))
        losses = (opened * each).sum(axis=0) + interaction * np.maximum(opened.sum(axis=0) - 1, 0)
        shares, rows = opened.T.astype(np.float32), scores.astype(np.float32)
        return Outcome(losses, losses, shares, tuple(rows), (rows.T, shares))

    return run


def trial(given: Offer, limit: float = 1.0, **options: Any) -> Trial:
    floors = (NEVER,) * len(given.saved_ms)
    return Trial(simulated(given, **options), lambda losses: float(losses.mean() > limit), floors, limit)


def path_of(given: Offer, limit: float = 1.0, shares: tuple[float, ...] = SHARES, **options: Any) -> tuple[Step, ...]:
    return lay_path(given, trial(given, limit, **options), shares)


@pytest.mark.parametrize("seed", range(5))
def test_along_a_path_no_gate_ever_shuts_again(seed: int) -> None:
    path = path_of(offer(seed=seed))
    assert len(path) > 3
    for before, after in pairwise(path):
        assert all(one <= two for one, two in zip(before.shares, after.shares, strict=True))
        assert all(one <= two for one, two in zip(before.thresholds, after.thresholds, strict=True))
        assert sum(one < two for one, two in zip(before.shares, after.shares, strict=True)) == 1


@pytest.mark.parametrize("interaction", [0.0, 0.05])
def test_each_step_saves_more(interaction: float) -> None:
    saved = [step.saved_ms for step in path_of(offer(), interaction=interaction)]
    assert saved == sorted(set(saved))


def test_without_a_limit_everything_is_behind_a_guard_in_the_end() -> None:
    assert path_of(offer())[-1].shares == (GUARD,) * 3


def test_without_gates_everything_is_bypassed_in_the_end() -> None:
    assert path_of(offer(), shares=())[-1].thresholds == (ALWAYS,) * 3


def test_a_guard_that_costs_too_much_gives_way_to_no_gate() -> None:
    given = ladder_offer([0.1, 0.2, 0.3, 0.4], gate_ms=GUARD - GUARD_WORTH + 0.01)
    assert ladder(given, 0, SHARES)[-1].share == 1.0


def test_what_a_step_says_is_what_was_measured() -> None:
    given = offer()
    measure = simulated(given)
    for step in path_of(given):
        outcome = measure(window_of(step.thresholds, (NEVER,) * 3))
        assert step.loss == pytest.approx(outcome.mean)
        gates = sum(0 < share < 1 for share in step.shares)
        expected = float((outcome.shares.mean(axis=0) * given.saved_ms).sum()) - gates * given.gate_ms
        assert step.saved_ms == pytest.approx(expected)


def test_a_path_ends_at_the_first_loss_out_of_reach() -> None:
    losses = [step.loss for step in path_of(offer(), limit=0.01)]
    assert losses[-1] > REACH * 0.01
    assert max(losses[:-1]) <= REACH * 0.01
    assert len(losses) < len(path_of(offer()))


def test_without_a_gate_a_block_is_bypassed_always_or_never() -> None:
    given = replace(offer(), gated=[True, False, True])
    found = path_of(given)
    assert {step.shares[1] for step in found} == {0.0, 1.0}
    assert any(0 < step.shares[0] < 1 for step in found)


def test_the_best_deal_goes_first() -> None:
    given = offer()
    cheap = replace(given, losses=list(np.stack(given.losses) * np.array([1.0, 1.0, 1e-3])[:, None]))
    assert [share > 0 for share in path_of(cheap)[0].shares] == [False, False, True]


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75, 0.9, 0.005, 0.999])
@pytest.mark.parametrize("count", [10, 37, 400])
def test_a_threshold_splits_scores_as_its_share_says(share: float, count: int) -> None:
    scores = np.random.default_rng(0).standard_normal(count).astype(np.float32)
    threshold = threshold_at(scores, share)
    assert threshold == np.float32(threshold)
    assert int((scores < np.float32(threshold)).sum()) == max(1, round(share * count))


def test_never_and_always_are_the_ends() -> None:
    scores = np.arange(4.0)
    assert (threshold_at(scores, 0.0), threshold_at(scores, 1.0)) == (NEVER, ALWAYS)


def test_a_threshold_lies_midway_between_two_scores() -> None:
    assert threshold_at(np.array([4.0, 0.0, 1.0, 2.0]), 0.5) == 1.5


def test_ties_open_together() -> None:
    scores = np.array([1.0, 2.0, 2.0, 2.0, 3.0], np.float32)
    threshold = np.float32(threshold_at(scores, 0.4))
    assert (scores < threshold).tolist() == [True, True, True, True, False]


def test_neighbouring_floats_are_told_apart() -> None:
    low = np.float32(1.0)
    scores = np.array([low, np.nextafter(low, np.float32(2.0))], np.float32)
    assert (scores < np.float32(threshold_at(scores, 0.5))).tolist() == [True, False]


def ladder_offer(losses: list[float], saved_ms: float = 1.0, gate_ms: float = 0.0) -> Offer:
    """One gate with these losses, in the order of its scores."""
    scores = np.arange(float(len(losses)))
    return Offer([scores], [np.array(losses)], np.array([saved_ms]), np.zeros(1), gate_ms, [True])


def test_a_rung_is_the_loss_of_the_inputs_of_lowest_score() -> None:
    given = ladder_offer([0.1, 0.2, 0.3, 0.4], saved_ms=2.0, gate_ms=0.1)
    half, whole = rung_at(given, 0, 0.5), rung_at(given, 0, 1.0)
    assert (half.share, half.loss, half.saved_ms) == pytest.approx((0.5, 0.075, 0.9))
    assert (whole.share, whole.loss, whole.saved_ms) == pytest.approx((1.0, 0.25, 2.0))


def test_rungs_of_rising_loss_are_all_kept() -> None:
    found = ladder(ladder_offer([0.1, 0.2, 0.3, 0.4]), 0, (0.25, 0.5, 0.75))
    assert [rung.share for rung in found] == [0.25, 0.5, 0.75, GUARD]


def test_a_rung_worth_less_than_the_one_above_is_merged_into_it() -> None:
    found = ladder(ladder_offer([0.4, 0.1, 0.5, 0.6]), 0, (0.25, 0.5, 0.75))
    assert [rung.share for rung in found] == [0.5, 0.75, GUARD]


@pytest.mark.parametrize("seed", range(10))
def test_along_a_ladder_each_rung_is_worth_less_than_the_one_below(seed: int) -> None:
    random = np.random.default_rng(seed)
    found = [Rung(0.0, 0.0, 0.0), *ladder(ladder_offer(list(random.random(40)), gate_ms=0.05), 0, SHARES)]
    worth = [(upper.saved_ms - lower.saved_ms) / (upper.loss - lower.loss) for lower, upper in pairwise(found)]
    assert worth == sorted(worth, reverse=True)


def test_a_gate_that_costs_more_than_it_saves_has_only_the_rung_without_a_gate() -> None:
    found = ladder(ladder_offer([0.1] * 4, saved_ms=1.0, gate_ms=1.5), 0, SHARES)
    assert [rung.share for rung in found] == [1.0]


@pytest.mark.parametrize("saved_ms", [0.0, -1.0])
def test_a_block_that_saves_nothing_has_no_rungs(saved_ms: float) -> None:
    given = ladder_offer([0.1] * 4, saved_ms=saved_ms)
    assert ladder(given, 0, SHARES) == []
    assert lay_path(given, trial(given), SHARES) == ()


def test_what_is_always_bypassed_has_no_floor() -> None:
    window = window_of((NEVER, 0.5, ALWAYS), (-1.0, -2.0, -3.0))
    assert window.dtype == np.float32
    assert window.tolist() == [[NEVER, 0.5, ALWAYS], [1.0, 2.0, ALWAYS]]


@pytest.mark.parametrize("faster", ["gated", "static"])
def test_the_path_whose_end_is_faster_is_taken(faster: str) -> None:
    given = offer(2)

    def speed_of(step: Step) -> float:
        return 2.0 if any(0 < share < 1 for share in step.shares) == (faster == "gated") else 1.0

    found = best_path(given, trial(given, limit=0.02), 0.05, speed_of)
    assert any(0 < share < 1 for item in found for share in item.shares) == (faster == "gated")


@pytest.mark.parametrize(
    ("static", "gated", "kept"),
    [
        (2.0, 2.0 * GATED_WORTH + 0.01, True),
        (2.0, 2.0 * GATED_WORTH - 0.01, False),
        (1.1, 1.0 + 0.1 * GATED_GAIN + 0.001, True),
        (1.1, 1.0 + 0.1 * GATED_GAIN - 0.001, False),
    ],
)
def test_gates_are_kept_where_they_are_hardly_slower(static: float, gated: float, kept: bool) -> None:
    given = offer(2)

    def speed_of(step: Step) -> float:
        return gated if any(0 < share < 1 for share in step.shares) else static

    found = best_path(given, trial(given, limit=0.02), 0.05, speed_of)
    assert any(0 < share < 1 for item in found for share in item.shares) == kept


def test_a_path_that_passes_nowhere_is_not_timed() -> None:
    given = offer(2)
    timed: list[Step] = []

    def speed_of(step: Step) -> float:
        timed.append(step)
        return 1.0

    found = best_path(given, trial(given, limit=0.002), 0.05, speed_of)
    assert len(timed) == 1
    assert any(0 < share < 1 for share in timed[0].shares)
    assert timed[0] in found


@pytest.mark.parametrize(("gates", "rungs"), [(FEW, FINE_SHARES), (FEW + 1, SHARES)])
def test_few_gates_have_finer_shares(gates: int, rungs: Sequence[float]) -> None:
    given = offer(gates)
    found = best_path(given, trial(given, limit=1.0), 0.05, lambda step: 1.0 + len(set(step.shares)))
    shares = {share for step in found for share in step.shares} - {0.0, GUARD, 1.0}
    assert shares <= set(rungs)
    assert len(shares) > 1


def best_by_trying(given: Offer, limit: float) -> float:
    """The most that any shares save whose losses add up to no more than the limit."""
    gates = range(len(given.saved_ms))
    choices = [[Rung(0.0, 0.0, 0.0), *(rung_at(given, gate, share) for share in (*FINE_SHARES, 1.0))] for gate in gates]
    within = [rungs for rungs in product(*choices) if sum(rung.loss for rung in rungs) <= limit]
    return max(sum(rung.saved_ms for rung in rungs) for rungs in within)


@pytest.mark.parametrize("limit", [0.0, 0.004, 0.02, 1.0])
def test_a_forecast_is_no_less_than_what_blocks_that_add_up_can_save(limit: float) -> None:
    given = offer(gates=3)
    best, hoped = best_by_trying(given, limit), forecast(given, limit)
    # By parts of one step, and by a guard in the place of a block that is always bypassed.
    step = 0.1 * given.saved_ms.max()
    guards = (1.0 - GUARD) * given.saved_ms.sum() + 3 * given.gate_ms
    assert best - guards - 1e-9 <= hoped <= best + step


def test_the_last_configurations_open_gates_for_the_shares_of_all_data() -> None:
    given, limit = offer(), 0.05
    path = path_of(given, limit)
    shifted = [scores + 1.0 for scores in given.scores]
    seen: list[Window] = []

    def whole(window: Window) -> Outcome:
        seen.append(window)
        return replace(simulated(given)(window), scores=tuple(scores.astype(np.float32) for scores in shifted))

    found = settled(path, given, trial(given, limit), whole)
    within = [step for step in path if step.loss <= limit]
    assert 0 < len(seen) < len(path)
    assert [step.shares for step in found] == [step.shares for step in path]
    assert found[len(within) :] == path[len(within) :]
    last = found[len(within) - 1]
    assert last.thresholds == tuple(
        threshold_at(scores, share) for scores, share in zip(shifted, last.shares, strict=True)
    )
    assert last.loss > within[-1].loss


def test_of_what_is_sure_to_pass_only_the_last_is_settled_and_nothing_where_there_are_no_gates() -> None:
    given = offer()
    path = tuple(replace(step, p_value=0.0) for step in path_of(given, limit=1.0))
    seen: list[Window] = []

    def whole(window: Window) -> Outcome:
        seen.append(window)
        scores = tuple((scores + 1.0).astype(np.float32) for scores in given.scores)
        return replace(simulated(given)(window), scores=scores)

    found = settled(path, given, trial(given, 1.0), whole)
    assert found[:-1] == path[:-1]
    assert found[-1].thresholds != path[-1].thresholds
    static = lay_path(given, trial(given, 1.0), ())
    assert settled(static, given, trial(given, 1.0), whole) == static
    assert len(seen) == 1
