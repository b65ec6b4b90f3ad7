"""Measure what each block is worth: the loss of bypassing it, and the time that this saves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from skipc.compiler.data import Batch
from skipc.compiler.executors import Executor, Local
from skipc.compiler.latency import Run, interleaved
from skipc.compiler.loss import Loss
from skipc.compiler.running import Judged, Window, opened, run_gated, shut
from skipc.compiler.settings import Settings
from skipc.passes.base import run_passes
from skipc.passes.expose import ExposeDecisions
from skipc.passes.inject import InjectGates, InputWindow
from skipc.runtime import names
from skipc.runtime.plan import Array, Block, Bypass, Gate, Region
from skipc.runtime.session import Session, open_session


def instrument(model: onnx.ModelProto, blocks: Sequence[Block], executor: Executor) -> Session:
    """The instrumented model: every block behind its `If`, thresholds as an input, decisions and scores as outputs."""
    return executor.open(_instrumented(model, blocks))


def instrument_for(model: onnx.ModelProto, blocks: Sequence[Block], settings: Settings) -> Session:
    """The instrumented model, opened here as the deployed one will be, for timing."""
    return open_session(_instrumented(model, blocks), provider=settings.provider, threads=settings.threads)


def _instrumented(model: onnx.ModelProto, blocks: Sequence[Block]) -> bytes:
    regions = tuple(block.region for block in blocks)
    data: bytes = run_passes(
        model, [InjectGates(tuple(blocks), InputWindow()), ExposeDecisions(regions)]
    ).SerializeToString()
    return data


def is_plain(settings: Settings) -> bool:
    """Whether the deployed model is opened as models are for measuring losses: one thread of the CPU for each run."""
    plain = Settings()
    return (settings.provider, settings.threads) == (plain.provider, plain.threads)


def ungated(region: Region, bypass: Bypass) -> Block:
    """A block whose gate knows nothing yet: its score is zero for every input."""
    return Block(region, bypass, Gate("mean", np.zeros(region.channels, np.float32), 0.0, floor=-np.inf))


def ablate(session: Session, gates: int, judged: Judged, loss: Loss) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Losses of bypassing each block alone, for every input, and the same by the smooth proxy: [gates, units] each."""
    each = [run_gated(session, opened(gates, [gate]), judged, loss) for gate in range(gates)]
    return np.stack([outcome.losses for outcome in each]), np.stack([outcome.smooth for outcome in each])


TIMING_BUDGET_MS = 2500.0
LEAST_ROUNDS, MOST_ROUNDS = 12, 100


@dataclass(frozen=True)
class Costs:
    """Measured latency of an instrumented model, milliseconds a batch, lower quartiles over rounds.

    Attributes:
        original: of the original.
        all_shut: of the instrumented model when nothing is bypassed.
        saved: by bypassing each block alone, [gates].
        gate: what one gate costs at least, zero where it cannot be told from noise.
    """

    original: float
    all_shut: float
    saved: NDArray[np.float64]
    gate: float


def measure_costs(original: Session, session: Session, gates: int, items: Sequence[Batch]) -> Costs:
    """Time the original, the instrumented model with every gate shut, and with one gate open at a time.

    What else runs on the machine only ever adds time, so the lower quartile over many interleaved rounds is compared.
    """
    windows = [shut(gates), *(opened(gates, [gate]) for gate in range(gates))]
    runs = [_run(original, items, None), *(_run(session, items, window) for window in windows)]
    trial = interleaved(runs, 2).min(axis=0).sum()
    rounds = int(np.clip(TIMING_BUDGET_MS / max(trial, 1e-3), LEAST_ROUNDS, MOST_ROUNDS))
    times = np.quantile(interleaved(runs, rounds) / len(items), 0.25, axis=0)
    saved = np.clip(times[1] - times[2:], 0.0, times[0])
    return Costs(float(times[0]), float(times[1]), saved, max(0.0, float(times[1] - times[0])) / max(1, gates))


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
    costs = measure_costs(
        open_session(model.SerializeToString()), instrument(model, blocks, Local()), len(blocks), [batch]
    )
    return {region.name: float(saved / costs.original) for region, saved in zip(regions, costs.saved, strict=True)}


def _run(session: Session, items: Sequence[Batch], window: Window | None) -> Run:
    extra: dict[str, Array] = {} if window is None else {names.WINDOW: window}
    feeds = [{**item.feeds, **extra} for item in items]

    def run() -> None:
        for item in feeds:
            session.run(item)

    return run


def typical(items: Sequence[Batch], count: int) -> tuple[Batch, ...]:
    """A few batches that span the sizes in the data, from small to large, each standing for as many samples."""
    by_size = sorted(items, key=lambda item: sum(array.size for array in item.feeds.values()))
    places = (np.arange(count) + 0.5) / count * len(by_size)
    return tuple(by_size[int(place)] for place in places)
