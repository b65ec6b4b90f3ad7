"""Measure what each block is worth: the loss of bypassing it, and the time that this saves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

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


TIMING_BUDGET_MS = 4000.0
TIMED_BATCHES = 4
LEAST_ROUNDS, MOST_ROUNDS = 4, 100


@dataclass(frozen=True)
class Costs:
    """Measured latency of an instrumented model, milliseconds a batch, lower quartiles over rounds.

    Attributes:
        original: of the original.
        all_shut: of the instrumented model when nothing is bypassed.
        saved: by bypassing each block alone, [gates]; where the static model was timed as well, less what nodes are
            slower in a branch than outside.
        split: what it costs to run a block for some rows beside the share of `saved` that this gives, [gates]; zero
            for gates that decide on whole batches.
        gate: what one gate costs, zero where it cannot be told from noise; where the static model was not timed, with
            what nodes are slower in a branch.
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
    halves: Mapping[int, float] | None = None,
    budget_ms: float = TIMING_BUDGET_MS,
    static: Session | None = None,
) -> Costs:
    """Time the original, the instrumented model with every gate shut, and with one gate open at a time.

    What else runs on the machine only ever adds time, so the lower quartile over many interleaved rounds is compared.

    Args:
        original: to compare with.
        model: whose gates are timed.
        items: to run.
        halves: for gates that decide row by row, a threshold that about half of the rows stay below.
        budget_ms: that timing may take, where a handful of rounds fits into it.
        static: the same bypasses without gates: beside it the model with every gate open tells what gates cost by
            themselves, and the model with every gate shut what else branches cost.
    """
    parts = (model.key, items, halves, budget_ms, static is not None)
    costs = model.cache.recall("costs", parts, lambda: _costs(original, model, items, halves, budget_ms))
    if static is None:
        return costs
    gate = model.cache.recall("gate", parts, lambda: _gate_ms(static, model, items, budget_ms / 4))
    branch = max(0.0, costs.gate - gate)
    return replace(costs, gate=gate, saved=np.maximum(0.0, costs.saved - branch))


def _gate_ms(static: Session, model: Instrumented, items: Sequence[Batch], budget_ms: float) -> float:
    """What one gate costs, milliseconds a batch: with all of them open, beside the same bypasses without gates."""
    window = opened(model.gates, range(model.gates))
    runs = [_run(static, items, None), _run(model.session, items, window)]
    without, gated = _lower_quartile(runs, budget_ms, clock_of(static, model.session), rivals=True) / len(items)
    return max(0.0, float(gated - without)) / max(1, model.gates)


def _costs(
    original: Session,
    model: Instrumented,
    items: Sequence[Batch],
    halves: Mapping[int, float] | None,
    budget_ms: float,
) -> Costs:
    gates, halves = model.gates, halves or {}
    windows = [shut(gates), *(opened(gates, [gate]) for gate in range(gates))]
    windows += [_half_open(gates, gate, threshold) for gate, threshold in halves.items()]
    runs = [_run(model.session, items, window) for window in windows]
    clock = clock_of(original, model.session)
    both = [_run(original, items, None), runs[0]]
    pair = _lower_quartile(both, budget_ms / len(runs), clock, rivals=True) / len(items)
    times = _lower_quartile(runs, budget_ms, clock, rivals=True) / len(items)
    saved = np.clip(times[0] - times[1 : 1 + gates], 0.0, pair[0])
    split = np.zeros(gates)
    for gate, half in zip(halves, times[1 + gates :], strict=True):
        split[gate] = max(0.0, saved[gate] / 2 - (times[0] - half))
    return Costs(float(pair[0]), float(pair[1]), saved, split, max(0.0, float(pair[1] - pair[0])) / max(1, gates))


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
    times = _lower_quartile(runs, budget_ms, clock, rivals=True) / len(items)
    return OpenTimes(float(times[0]), times[1 : 1 + len(models)], times[1 + len(models) :])


def _lower_quartile(
    runs: Sequence[Sequence[Run]], budget_ms: float, clock: Clock, *, rivals: bool
) -> NDArray[np.float64]:
    """Of the times of each model's runs, summed up: milliseconds [models], over as many rounds as fit into the budget.

    The quartile is taken run by run, so that what disturbs one batch does not spoil a round of all of them.
    """
    flat = [run for each in runs for run in each]
    once = interleaved(flat, 1, clock, rivals=rivals, warm_up=False).sum() * (2 if rivals else 1)
    rounds = int(np.clip(budget_ms / max(float(once), 1e-3), LEAST_ROUNDS, MOST_ROUNDS))
    times = interleaved(flat, rounds, clock, rivals=rivals, warm_up=False).reshape(rounds, len(runs), -1)
    return np.asarray(np.quantile(times, 0.25, axis=0).sum(axis=1))


def _half_open(gates: int, gate: int, threshold: float) -> Window:
    window = shut(gates)
    window[:, gate] = threshold, np.inf
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
