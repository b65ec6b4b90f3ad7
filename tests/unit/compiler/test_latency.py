"""Time is measured in turns, by a clock that is handed in."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from skipc.compiler.latency import interleaved, speedup_of


class FakeClock:
    """Stands still except while a run takes its time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def __call__(self) -> float:
        return self.now

    def run(self, name: str, *seconds: float) -> Callable[[], None]:
        """A run that takes these times, one after the other; the last one for good."""
        left = list(seconds)

        def run() -> None:
            self.log.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return run


def test_times_are_milliseconds_by_round_and_run() -> None:
    clock = FakeClock()
    times = interleaved([clock.run("a", 0.002), clock.run("b", 0.005)], 3, clock)
    np.testing.assert_allclose(times, [[2.0, 5.0]] * 3)


def test_the_first_call_of_each_is_not_counted() -> None:
    clock = FakeClock()
    times = interleaved([clock.run("a", 9.0, 0.001), clock.run("b", 9.0, 0.002)], 2, clock)
    np.testing.assert_allclose(times, [[1.0, 2.0]] * 2)


def test_every_timed_run_follows_one_of_its_own() -> None:
    clock = FakeClock()
    times = interleaved([clock.run("a", 9.0, 8.0, 0.001), clock.run("b", 9.0, 8.0, 0.002)], 1, clock)
    np.testing.assert_allclose(times, [[1.0, 2.0]])


def test_the_order_changes_from_round_to_round() -> None:
    clock = FakeClock()
    interleaved([clock.run(name, 1.0) for name in "abc"], 4, clock)
    log = "".join(clock.log)
    rounds = [log[start : start + 6] for start in range(3, len(log), 6)]
    assert log.startswith("abc")
    assert all(sorted(turn[::2]) == list("abc") and turn[::2] == turn[1::2] for turn in rounds)
    assert len(set(rounds)) > 1


def test_a_time_is_filed_under_its_own_run_and_round() -> None:
    clock = FakeClock()
    times = interleaved([clock.run("a", 0.0, 9.0, 1.0, 9.0, 2.0), clock.run("b", 0.0, 9.0, 3.0, 9.0, 4.0)], 2, clock)
    np.testing.assert_allclose(times, [[1000.0, 3000.0], [2000.0, 4000.0]])


def test_a_speedup_is_the_median_ratio_within_rounds() -> None:
    slow, fast = np.array([2.0, 40.0, 3.0]), np.array([1.0, 10.0, 1.0])
    assert speedup_of(slow, fast).median == 3.0


def test_the_interval_holds_the_median_and_shrinks_with_rounds() -> None:
    random = np.random.default_rng(0)

    def width(rounds: int) -> float:
        found = speedup_of(1.5 + 0.1 * random.standard_normal(rounds), np.ones(rounds))
        assert found.low <= found.median <= found.high
        return found.high - found.low

    # Widths go with the root of the rounds: 10 times less, of which a third is left for chance.
    assert width(2000) < width(20) / 3


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Of 200 intervals 95 % should: 180 are 3.2 standard errors fewer, and a bootstrap of 40 runs a little narrow."""
    random = np.random.default_rng(0)
    found = [speedup_of(1.5 + 0.2 * random.standard_normal(40), np.ones(40)) for _ in range(200)]
    assert sum(item.low <= 1.5 <= item.high for item in found) >= 180


def test_equal_times_are_no_speedup() -> None:
    found = speedup_of(np.full(5, 2.0), np.full(5, 2.0))
    assert (found.low, found.median, found.high) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_seed_gives_the_same_interval(seed: int) -> None:
    times = np.random.default_rng(5).random(30) + 1
    assert speedup_of(times, times[::-1], seed=seed) == speedup_of(times, times[::-1], seed=seed)
