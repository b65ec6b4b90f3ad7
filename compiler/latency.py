"""Measure time: models are timed in interleaved rounds, so that what disturbs one disturbs all."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skipc.runtime.session import Session

Clock = Callable[[], float]
"""Seconds, rising."""

Run = Callable[[], object]

CPU_INFO = Path("/proc/cpuinfo")


def interleaved(
    runs: Sequence[Run],
    rounds: int,
    clock: Clock = time.perf_counter,
    *,
    rivals: bool = True,
    warm_up: bool = True,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Time each run once a round, in an order drawn anew for each round; milliseconds [rounds, runs].

    Args:
        runs: to time.
        rounds: at least one.
        clock: to read.
        rivals: whether the runs are of different models. Each timed run then follows one of its own that is not timed:
            a deployed model finds its own weights in the caches, and not those of its rival.
        warm_up: whether one round that is not counted comes first, since the first run of a branch allocates and picks
            its kernels.
        seed: of the order.
    """
    if warm_up:
        for run in runs:
            run()
    times = np.zeros((rounds, len(runs)))
    random = np.random.default_rng(seed)
    for row in range(rounds):
        for which in random.permutation(len(runs)):
            if rivals:
                runs[which]()
            start = clock()
            runs[which]()
            times[row, which] = (clock() - start) * 1e3
    return times


def clock_of(*sessions: Session) -> Clock:
    """The clock by which to choose between models, as opposed to reporting on them.

    Where all work of a run is done in the caller's thread, that is the thread's processor time: other programs on the
    machine, which may take most of its time away, add next to nothing to it. Otherwise it is the time that passes.
    """
    alone = all(session.provider == "cpu" and session.threads == 1 for session in sessions)
    return time.thread_time if alone else time.perf_counter


@dataclass(frozen=True)
class Speedup:
    """How many times faster one model is than another.

    Attributes:
        median: over rounds, of the ratio of times within a round.
        low: lower end of the bootstrapped 95 % interval of that median.
        high: upper end.
    """

    median: float
    low: float
    high: float


def speedup_of(slow_ms: NDArray[np.float64], fast_ms: NDArray[np.float64], *, seed: int = 0) -> Speedup:
    """Compare paired times, [rounds] each."""
    ratios = slow_ms / fast_ms
    draws = np.random.default_rng(seed).integers(0, len(ratios), (1000, len(ratios)))
    low, high = np.quantile(np.median(ratios[draws], axis=1), [0.025, 0.975])
    return Speedup(float(np.median(ratios)), float(low), float(high))


def processor() -> str:
    """The processor's name, as far as the system tells."""
    if not CPU_INFO.exists():
        return platform.processor() or platform.machine()
    lines = CPU_INFO.read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
