"""Compare the latency of two models on real inputs, in interleaved pairs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from skipc.compiler.data import Batch
from skipc.compiler.latency import Clock, Speedup, interleaved, speedup_of
from skipc.runtime import names
from skipc.runtime.binding import timed
from skipc.runtime.plan import Plan
from skipc.runtime.session import Session

BUDGET_MS = 6000.0
"""For a figure that is reported."""

CHOICE_MS = 3000.0
"""For choosing between two ways, or for what stands beside a figure."""

LEAST_ROUNDS, MOST_ROUNDS = 30, 150
BATCHES_A_ROUND = 8


@dataclass(frozen=True)
class Bench:
    """What a comparison found.

    Attributes:
        speedup: original over compiled.
        original_ms: median latency of a batch.
        compiled_ms: of the compiled model.
        rounds: of both, round by round.
    """

    speedup: Speedup
    original_ms: float
    compiled_ms: float
    rounds: tuple[tuple[float, float], ...] = ()


def bench_of(rounds: Sequence[tuple[float, float]]) -> Bench:
    """What rounds have found, milliseconds a batch of the original and of the other model."""
    slow, fast = np.array(rounds).T
    return Bench(speedup_of(slow, fast), float(np.median(slow)), float(np.median(fast)), tuple(rounds))


def compare(
    original: Session,
    compiled: Session,
    items: Sequence[Batch],
    *,
    rounds: int = 0,
    budget_ms: float = BUDGET_MS,
    bound: bool | None = None,
    clock: Clock = time.perf_counter,
    seed: int = 0,
) -> Bench:
    """Time both models on the same batches.

    Each round runs a handful of batches, drawn anew, through both models; a round's ratio is of their summed times, so
    that large inputs weigh as much as they cost. Each timed run follows an untimed one of the same batch, so that the
    branches that its gates choose have run before.

    Args:
        original: to compare with.
        compiled: the other one.
        items: to run.
        rounds: 0 for as many as fit into the budget.
        budget_ms: milliseconds that all of it may take.
        bound: whether inputs lie on the device before and outputs stay there; None for on a GPU only.
        clock: to read; `clock_of` gives the one to choose by.
        seed: of the batches drawn.
    """
    once = 2 * sum(_pairs(original, compiled, items[:1], 0, bound, clock, warm_up=True))
    size = int(np.clip(budget_ms / LEAST_ROUNDS / max(once, 1e-3), 1, BATCHES_A_ROUND))
    if rounds == 0:
        rounds = int(np.clip(budget_ms / max(once * size, 1e-3), LEAST_ROUNDS, MOST_ROUNDS))
    order = np.random.default_rng(seed).permutation(max(rounds * size, len(items))) % len(items)
    found = []
    for row in range(rounds):
        chosen = [items[i] for i in order[row * size : (row + 1) * size]]
        found.append(_pairs(original, compiled, chosen, row, bound, clock))
    return bench_of(found)


def _pairs(
    original: Session,
    compiled: Session,
    items: Sequence[Batch],
    seed: int,
    bound: bool | None,
    clock: Clock,
    *,
    warm_up: bool = False,
) -> tuple[float, float]:
    """Mean milliseconds a batch of both models on the same batches, in an order that the seed draws."""
    runs = [timed(session, item.feeds, bound=bound) for item in items for session in (original, compiled)]
    times = interleaved(runs, 1, clock, warm_up=warm_up, seed=seed)[0].reshape(-1, 2).mean(axis=0)
    return float(times[0]), float(times[1])


def run_shares(exposed: Session, plan: Plan, items: Sequence[Batch]) -> tuple[float, ...]:
    """Share of samples for which each block runs in full, by block of the plan.

    Args:
        exposed: the compiled model with its decisions among the outputs.
        plan: of the compiled model.
        items: to run.
    """
    rows = [exposed.run(item.feeds, [names.DECISIONS])[names.DECISIONS] for item in items]
    return tuple(float(share) for share in 1.0 - np.concatenate(rows).mean(axis=0)) if plan.blocks else ()


def time_share_skipped(plan: Plan, run_share: Sequence[float]) -> float:
    """Share of the original's measured latency that is bypassed: each block's share of time by how often it is."""
    return sum(block.time_share * (1.0 - share) for block, share in zip(plan.blocks, run_share, strict=True))
