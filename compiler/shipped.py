"""Time models as they would be shipped.

Where a session's weights happen to lie in memory moves its times by several per cent, so models that are compared with
one another are opened several times.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import onnx
from numpy.typing import NDArray

from skipc.compiler.bench import CHOICE_MS, compare
from skipc.compiler.data import Batch
from skipc.compiler.impact import Costs, lower_quartiles
from skipc.compiler.latency import clock_of
from skipc.compiler.planner import ALWAYS, NEVER, Step
from skipc.compiler.running import Judged
from skipc.compiler.settings import Settings
from skipc.compiler.survey import Surveyed
from skipc.passes.base import run_passes
from skipc.passes.inject import InjectGates, ReplaceRegions
from skipc.passes.window import LevelWindow
from skipc.runtime.binding import timed
from skipc.runtime.plan import Block, Gate
from skipc.runtime.session import Session, open_session

SESSIONS = 3
"""In which each model is timed."""


def without_gate(block: Block) -> Block:
    """The block as it stands in a file that bypasses it always."""
    none = Gate("constant", np.zeros(0, np.float32), 0.0, floor=-math.inf)
    return replace(block, gate=none)


def as_shipped(
    costs: Costs, model: onnx.ModelProto, blocks: Sequence[Block], items: Sequence[Batch], settings: Settings
) -> Costs:
    """Costs with what a gate costs by itself, and with what the bypasses save in a file without gates.

    The first is what a file whose gates are all open takes longer than the same bypasses without gates. That one beside
    the original says what all of them save together; measured in branches they save more, since nodes are slower there
    than outside.

    Args:
        costs: measured in one file that holds all of the blocks.
        model: normalised original.
        blocks: with gates.
        items: to run.
        settings: how the models will be deployed.
    """
    open_all = LevelWindow(((ALWAYS,) * len(blocks),), (NEVER,) * len(blocks), 0)
    static = run_passes(model, [ReplaceRegions(tuple(blocks))])
    gated = run_passes(model, [InjectGates(tuple(blocks), open_all)])
    models = [item.SerializeToString() for item in (model, static, gated)]
    parts = (models, items, *as_deployed(settings))
    original_ms, static_ms, gated_ms = settings.cache.recall(
        "shipped", parts, lambda: latencies(models, items, settings)
    )
    together, alone = max(0.0, original_ms - static_ms), float(costs.saved.sum())
    saved = costs.saved * (together / alone if alone > 0 else 1.0)
    return replace(costs, saved=saved, gate=max(0.0, gated_ms - static_ms) / max(1, len(blocks)))


def latencies(models: Sequence[bytes], items: Sequence[Batch], settings: Settings) -> NDArray[np.float64]:
    """Milliseconds a batch of each model, the median over sessions: [models].

    Args:
        models: serialised.
        items: to run.
        settings: how the models will be deployed.
    """

    def once() -> NDArray[np.float64]:
        sessions = [_opened(data, settings) for data in models]
        runs = [[timed(session, item.feeds) for item in items] for session in sessions]
        return lower_quartiles(runs, CHOICE_MS / SESSIONS, clock_of(*sessions)) / len(items)

    return np.asarray(np.median([once() for _ in range(SESSIONS)], axis=0))


def speed_as_shipped(
    surveyed: Surveyed, judged: Judged, settings: Settings
) -> Callable[[Sequence[Block], Step], float]:
    """How many times faster than the original a configuration of blocks is, built as it would be shipped."""
    original = surveyed.original.SerializeToString()

    def speed_of(blocks: Sequence[Block], step: Step) -> float:
        chosen = [(block, limit) for block, limit in zip(blocks, step.thresholds, strict=True) if limit > NEVER]
        frozen = tuple(without_gate(block) if limit == ALWAYS else block for block, limit in chosen)
        window = LevelWindow((tuple(limit for _, limit in chosen),), tuple(block.gate.floor for block in frozen), 0)
        model = run_passes(surveyed.model, [InjectGates(frozen, window)]).SerializeToString()
        parts = (model, judged.key, *as_deployed(settings))
        return settings.cache.recall("speed", parts, lambda: _speed(original, model, judged.items, settings))

    return speed_of


def _speed(original: bytes, model: bytes, items: Sequence[Batch], settings: Settings) -> float:
    def once() -> float:
        slow, fast = _opened(original, settings), _opened(model, settings)
        return compare(slow, fast, items, budget_ms=CHOICE_MS / SESSIONS, clock=clock_of(slow, fast)).speedup.median

    return float(np.median([once() for _ in range(SESSIONS)]))


def _opened(model: bytes, settings: Settings) -> Session:
    return open_session(model, provider=settings.provider, threads=settings.threads)


def as_deployed(settings: Settings) -> tuple[str, int, int, str, int]:
    """What times depend on beside models and data."""
    return settings.provider, settings.threads, settings.batch_size, settings.granularity, settings.seed
