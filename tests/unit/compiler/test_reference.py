"""What a deployment's monitor compares with: the gates' scores on *calibrate*, level by level."""

from __future__ import annotations

import numpy as np
import pytest

from skipc.compiler.data import Dataset, input_specs
from skipc.compiler.executors import Local
from skipc.compiler.impact import instrument
from skipc.compiler.loss import resolve_loss
from skipc.compiler.planner import window_of
from skipc.compiler.reference import BINS, with_references
from skipc.compiler.running import Instrumented, Judged, judge, run_gated
from skipc.runtime import Session
from skipc.runtime.plan import Plan, plan_from_json
from skipc.runtime.session import open_session
from tests.deployment import NETWORK, compiled, feeds, original, plan
from tests.gated import surveyed

LOSS = resolve_loss("relative-l2", np.zeros((1, 4), np.float32), None)


def instrumented() -> Instrumented:
    return instrument(surveyed(NETWORK).model, plan().blocks, Local())


def judged(start: int, count: int) -> Judged:
    samples = tuple(feeds(seed) for seed in range(start, start + count))
    data = Dataset("d", "digest", samples, None)
    return judge(open_session(original()), data, input_specs(NETWORK.model), 1, "y")


def test_references_count_calibrations_scores() -> None:
    parts = [judged(100, 40), judged(200, 30)]
    found = with_references(plan(), instrumented(), judged(0, 60), parts, LOSS)
    session = Session(compiled())
    first, second, third = (block.reference for block in found.blocks)
    assert second is None
    assert first is not None
    assert third is not None
    for gate, reference in ((0, first), (2, third)):
        assert len(reference.edges) == BINS - 1
        for level in range(3):
            answers = [session.answer(item.feeds, level=level).decisions for part in parts for item in part.items]
            scores = np.array([item.scores[0, gate] for item in answers if item])
            cells = np.searchsorted(np.array(reference.edges, np.float32), scores, side="right")
            assert reference.counts[level] == tuple(np.bincount(cells, minlength=BINS))
            shares = [item.bypassed[0, gate] for item in answers if item]
            assert reference.bypassed[level] == pytest.approx(np.mean(shares))


def test_a_plan_whose_gates_read_nothing_stays_as_it_is() -> None:
    constant = plan(blocks=plan().blocks[1:2], thresholds=((-np.inf,), (np.inf,)))
    assert with_references(constant, instrumented(), judged(0, 2), [judged(0, 2)], LOSS) is constant


def test_references_are_read_back() -> None:
    found = with_references(plan(), instrumented(), judged(0, 20), [judged(20, 20)], LOSS)
    again = plan_from_json(found.to_json(arrays=True), where="")
    assert [block.reference for block in again.blocks] == [block.reference for block in found.blocks]


def test_blocks_that_no_level_bypasses_do_not_count() -> None:
    parts = [judged(100, 40)]
    whole = with_references(plan(), instrumented(), judged(0, 60), parts, LOSS)
    fewer = plan(blocks=plan().blocks[:2], thresholds=tuple(row[:2] for row in plan().thresholds))
    gentle = plan(thresholds=tuple((*row[:2], -np.inf) for row in plan().thresholds))
    found, others = (with_references(each, instrumented(), judged(0, 60), parts, LOSS) for each in (fewer, gentle))
    assert references(found) == references(others)[:2]
    assert references(found) == references(whole)[:2], "a block behind has no say in the scores before it"


def references(found: Plan) -> list[object]:
    return [block.reference for block in found.blocks]


def test_what_was_run_is_not_run_again() -> None:
    model, part = instrumented(), judged(100, 20)
    window = window_of(plan().thresholds[1], [block.gate.floor for block in plan().blocks])
    first = run_gated(model, window, part, LOSS)
    with_references(plan(), model, part, [part], LOSS)
    assert run_gated(model, window, part, LOSS) is first
    assert len(model.outcomes) == len(plan().thresholds)
