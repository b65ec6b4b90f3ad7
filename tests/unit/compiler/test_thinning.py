"""Of a path few configurations are tested, and fewer are kept: spread out, its end among them."""

from __future__ import annotations

import numpy as np
import pytest

from skipc.compiler.planner import ALWAYS, NEVER, Step
from skipc.compiler.thinning import levels_of, telling, thinned


def step(*thresholds: float) -> Step:
    return Step(thresholds, (0.0,) * len(thresholds), 0.0, 0.0, 0.0)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
def test_levels_are_spread_evenly_and_end_at_the_last(count: int) -> None:
    path = [step(float(place)) for place in range(20)]
    found = levels_of(path, count)
    assert len(found) == count
    assert found[-1] == 19
    # Each end of a gap is rounded to a whole position, and the first gap begins before the first position.
    assert np.diff(found, prepend=-1).max() <= 20 / count + 2


def test_a_short_path_is_kept_whole() -> None:
    assert levels_of([step(0.0), step(1.0)], 8) == (0, 1)


def test_a_block_that_ends_without_a_gate_has_none_before() -> None:
    path = [step(NEVER, 0.1), step(0.5, 0.1), step(ALWAYS, 0.2), step(ALWAYS, 0.3)]
    assert levels_of(path, 8) == (0, 2, 3)


def test_of_gentle_configurations_few_are_tested() -> None:
    p_values = [1e-9] * 34 + [1e-3] * 26
    path = [Step((float(i),), (0.5,), 0.001 * i, p_value, float(i)) for i, p_value in enumerate(p_values)]
    kept = telling(path, 4)
    assert [path.index(step) for step in kept[:4]] == [0, 11, 22, 33]
    assert kept[4:] == tuple(path[34:])
    assert telling(path[:2], 4) == tuple(path[:2])
    assert telling([], 4) == ()
    few = telling(path, 4, 6)
    assert few[:4] == kept[:4]
    assert [path.index(step) for step in few[4:]] == [34, 39, 44, 49, 54, 59]
    assert telling(few, 4, 6) == few
    assert [path.index(step) for step in telling(path, 4, 6, path[51])[4:]] == [34, 39, 44, 49, 51, 54, 59]


def test_a_thinned_path_keeps_its_end_and_is_spread_over_the_loss() -> None:
    losses = [0.0, 0.0, 0.001, 0.01, 0.011, 0.02, 0.03, 0.031, 0.04, 0.05, 0.09]
    path = [Step((float(i),), (0.5,), loss, 0.0, float(i)) for i, loss in enumerate(losses)]
    assert thinned(path, 0.05, 20) == tuple(path)
    kept = thinned(path, 0.05, 4)
    # Aims at 0.01875, 0.0375, 0.05625 and 0.075, which is as far as a path may go.
    assert [path.index(step) for step in kept] == [4, 7, 9, 10]
