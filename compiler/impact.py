"""Measure what each block is worth: the loss of bypassing it, and the time that this saves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from skipc.compiler.cache import digest
from skipc.compiler.data import Batch
from skipc.compiler.executors import Executor, Local
from skipc.compiler.latency import Clock, Run, clock_of, interleaved
from skipc.compiler.loss import Loss
from skipc.compiler.progress import SILENT, Progress
from skipc.compiler.running import Instrumented, Judged, Window, opened, run_gated, shut
from skipc.compiler.settings import Settings
from skipc.passes.base import run_passes
from skipc.passes.expose import ExposeDecisions, with_outputs
from skipc.passes.gate import is_by_token
from skipc.passes.inject import InjectGates
from skipc.passes.window import InputWindow
from skipc.runtime import names
from skipc.runtime.binding import timed
from skipc.runtime.plan import Array, Block, Bypass, Gate, Region
from skipc.runtime.session import Session, open_session


def instrument(model: onnx.ModelProto, blocks: Sequence[Block], executor: Executor) -> Instrumented:
    """The instrumented model: every block behind its `If`, thresholds as an input, decisions and scores as outputs."""
    data = _instrumented(model, blocks)
    return Instrumented(executor.open(data), tuple(blocks), digest(data), executor.cache)


def instrument_for(model: onnx.ModelProto, blocks: Sequence[Block], settings: Settings) -> Instrumented:
    """The instrumented model, opened here as the deployed one will be, for timing."""
    data = _instrumented(model, blocks)
    session = open_session(data, provider=settings.provider, threads=settings.threads)
    key = digest(data, settings.provider, settings.threads)
    return Instrumented(session, tuple(blocks), key, settings.cache)


def _instrumented(model: onnx.ModelProto, blocks: Sequence[Block]) -> bytes:
    blocks = tuple(blocks)
    gated = run_passes(model, [InjectGates(blocks, InputWindow()), ExposeDecisions(blocks)])
    tokens = [names.score(block.region.name) for block in blocks if is_by_token(block.gate)]
    shown = with_outputs(gated, tokens) if tokens else gated
    data: bytes = shown.SerializeToString()
    return data


def is_plain(settings: Settings) -> bool:
    """Whether the deployed model is opened as models are for measuring losses: here, on one thread of the CPU a run."""
    plain = Settings()
    return all(getattr(settings, name) == getattr(plain, name) for name in ("provider", "threads", "workers", "dask"))


def ungated(region: Region, bypass: Bypass, granularity: str = "batch", mask: str = "") -> Block:
    """A block whose gate has its form and knows nothing yet: its score is zero for every input."""
    pooling = "none" if granularity == "token" else "mean"
    nothing = np.zeros(region.channels, np.float32)
    return Block(region, bypass, Gate(pooling, nothing, 0.0, floor=-np.inf, granularity=granularity, mask=mask))


def ablate(
    model: Instrumented, judged: Judged, loss: Loss, progress: Progress = SILENT
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Losses of bypassing each block alone, for every input, and the same by the smooth proxy: [gates, units] each."""
    gates = progress.each(range(model.gates))
    each = [run_gated(model, opened(model.gates, [gate]), judged, loss) for gate, _ in gates]
    return np.stack([outcome.losses for outcome in each]), np.stack([outcome.smooth for outcome in each])


TIMING_BUDGET_MS = 3000.0
TIMED_BATCHES = 4
LEAST_ROUNDS, MOST_ROUNDS = 4, 50


@dataclass(frozen=True)
class Costs:
    """Measured latency of an instrumented model, milliseconds a batch, lower quartiles over rounds.

    Attributes:
        original: of the original.
        all_shut: of the instrumented model when nothing is bypassed.
        saved: by bypassing each block, [gates].
        split: what it costs to run a block for some rows beside the share of `saved` that this gives, [gates]; zero
            for gates that decide on whole batches.
        gate: what one gate costs, with what nodes are slower in a branch; zero where it cannot be told from noise.
    """

    original: float
    all_shut: float
    saved: NDArray[np.float64]
    split: NDArray[np.float64]
    gate: float


def measure_costs(
    original: Session,
    model: Instrumented,
    items: Sequence[Batch],
    groups: Sequence[Sequence[int]] | None = None,
    halves: Mapping[int, float] | None = None,
    budget_ms: float = TIMING_BUDGET_MS,
) -> Costs:
    """Time the original, the instrumented model with every gate shut, and with one group of gates open at a time.

    What else runs on the machine only ever adds time, so the lower quartile over many interleaved rounds is compared.

    Args:
        original: to compare with.
        model: whose gates are timed.
        items: to run.
        groups: of gates before blocks that take the same time, opened together since a large difference is measured
            more exactly than a small one; None opens each gate alone.
        halves: for gates that decide row by row, a threshold that about half of the rows stay below.
        budget_ms: that timing may take, where a handful of rounds fits into it.
    """
    groups = [(gate,) for gate in range(model.gates)] if groups is None else groups
    parts = (model.key, items, groups, halves, budget_ms)
    return model.cache.recall("costs", parts, lambda: _costs(original, model, items, groups, halves or {}, budget_ms))


def _costs(
    original: Session,
    model: Instrumented,
    items: Sequence[Batch],
    groups: Sequence[Sequence[int]],
    halves: Mapping[int, float],
    budget_ms: float,
) -> Costs:
    gates = model.gates
    parted = [group for group in groups if all(gate in halves for gate in group)]
    windows = [shut(gates), *(opened(gates, group) for group in groups)]
    windows += [_half_open(gates, group, halves) for group in parted]
    runs = [_run(original, items, None), *(_run(model.session, items, window) for window in windows)]
    times = lower_quartiles(runs, budget_ms, clock_of(original, model.session)) / len(items)
    saved, split = np.zeros(gates), np.zeros(gates)
    for group, open_ms in zip(groups, times[2:], strict=False):
        saved[list(group)] = np.clip(times[1] - open_ms, 0.0, times[0]) / len(group)
    for group, half_ms in zip(parted, times[2 + len(groups) :], strict=True):
        split[list(group)] = max(0.0, saved[group[0]] / 2 - (times[1] - half_ms) / len(group))
    return Costs(float(times[0]), float(times[1]), saved, split, max(0.0, float(times[1] - times[0])) / max(1, gates))


@dataclass(frozen=True)
class OpenTimes:
    """Measured latency of models with one gate each, milliseconds a batch, lower quartiles over rounds.

    Attributes:
        original: of the original.
        shut: when nothing is bypassed, [models].
        opened: when everything is, [models].
    """

    original: float
    shut: NDArray[np.float64]
    opened: NDArray[np.float64]


def times_open(
    original: Session, models: Sequence[Instrumented], items: Sequence[Batch], budget_ms: float
) -> OpenTimes:
    """Time the original beside models with one gate each, shut and open."""
    parts = ([model.key for model in models], items, budget_ms)
    return models[0].cache.recall("open-times", parts, lambda: _times_open(original, models, items, budget_ms))


def _times_open(
    original: Session, models: Sequence[Instrumented], items: Sequence[Batch], budget_ms: float
) -> OpenTimes:
    windows = (shut(1), opened(1, [0]))
    runs = [_run(original, items, None)]
    runs += [_run(model.session, items, window) for window in windows for model in models]
    clock = clock_of(original, *(model.session for model in models))
    times = lower_quartiles(runs, budget_ms, clock) / len(items)
    return OpenTimes(float(times[0]), times[1 : 1 + len(models)], times[1 + len(models) :])


def lower_quartiles(runs: Sequence[Sequence[Run]], budget_ms: float, clock: Clock) -> NDArray[np.float64]:
    """Of the times of each model's runs, summed up: milliseconds [models], over as many rounds as fit into the budget.

    The quartile is taken run by run, so that what disturbs one batch does not spoil a round of all of them.
    """
    flat = [run for each in runs for run in each]
    once = 2 * interleaved(flat, 1, clock, warm_up=False).sum()
    rounds = int(np.clip(budget_ms / max(float(once), 1e-3), LEAST_ROUNDS, MOST_ROUNDS))
    times = interleaved(flat, rounds, clock, warm_up=False).reshape(rounds, len(runs), -1)
    return np.asarray(np.quantile(times, 0.25, axis=0).sum(axis=1))


def _half_open(gates: int, group: Sequence[int], halves: Mapping[int, float]) -> Window:
    window = shut(gates)
    for gate in group:
        window[:, gate] = halves[gate], np.inf
    return window


def time_shares(model: onnx.ModelProto, regions: Sequence[Region], feeds: Mapping[str, Array]) -> dict[str, float]:
    """Share of the model's latency that each region takes: what the identity in its place would save.

    Args:
        model: normalised original.
        regions: that do not overlap.
        feeds: of one run.
    """
    blocks = [ungated(region, Bypass("identity")) for region in regions]
    if not blocks:
        return {}
    batch = Batch(feeds, (0,), None)
    costs = measure_costs(open_session(model.SerializeToString()), instrument(model, blocks, Local()), [batch])
    return {region.name: float(saved / costs.original) for region, saved in zip(regions, costs.saved, strict=True)}


def _run(session: Session, items: Sequence[Batch], window: Window | None) -> list[Run]:
    extra: dict[str, Array] = {} if window is None else {names.WINDOW: window}
    return [timed(session, {**item.feeds, **extra}) for item in items]


def typical(items: Sequence[Batch]) -> tuple[Batch, ...]:
    """A few batches that span the sizes in the data, from small to large, each standing for as many samples.

    Just one where all are of one size: times do not depend on what is in them.
    """
    count = TIMED_BATCHES if len(items[0].indices) == 1 else TIMED_BATCHES // 2
    by_size = sorted(items, key=_size)
    count = 1 if _size(by_size[0]) == _size(by_size[-1]) else count
    places = (np.arange(count) + 0.5) / count * len(by_size)
    return tuple(by_size[int(place)] for place in places)


def _size(item: Batch) -> int:
    return sum(array.size for array in item.feeds.values())
