"""Choose what decides for itself in each block: a batch, a sample or a token; by proof first, then by measured time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from skipc.compiler.data import Batch
from skipc.compiler.impact import typical, ungated
from skipc.compiler.independence import decisions, dependent, imposed
from skipc.compiler.latency import clock_of, interleaved
from skipc.compiler.options import Option
from skipc.compiler.settings import Settings
from skipc.compiler.survey import Surveyed
from skipc.passes.expose import with_outputs
from skipc.runtime.plan import Block, Region
from skipc.runtime.session import open_session

LONG = 64
"""Tokens of one sample from which on deciding for each of them may pay in a batch of one."""

TOKENS_WORTH = 1.25
"""Deciding for each token tells more apart than deciding for samples, so it may cost a little of the time saved."""

ROUNDS = 6


@dataclass(frozen=True)
class Choice:
    """What decides for itself in one block, and why.

    Attributes:
        granularity: ``batch``, ``sample`` or ``token``.
        reason: one sentence for the plan.
    """

    granularity: str
    reason: str


def choose_granularity(
    surveyed: Surveyed,
    options: Sequence[Option],
    items: Sequence[Batch],
    joined: Sequence[Batch],
    settings: Settings,
) -> dict[str, Choice]:
    """The granularity of each block, by region name.

    Args:
        surveyed: the original.
        options: blocks with their bypasses.
        items: batches of the size that is decided for, to time.
        joined: batches of several samples, to prove independence on.
        settings: of the compilation.
    """
    refused: dict[str, list[str]] = {option.region.name: [] for option in options}
    savings: dict[str, dict[str, float]] = {option.region.name: {} for option in options}
    for granularity in _asked(settings, items):
        reasons = {option.region.name: obstacle(option.region, granularity) for option in options}
        fitting = [option for option in options if not reasons[option.region.name]]
        blocks = [ungated(option.region, option.bypass, granularity) for option in fitting]
        reasons |= dependent(surveyed.model, blocks, joined) if blocks else {}
        for name, reason in reasons.items():
            refused[name] += [f"not by {granularity}: {reason}"] if reason else []
        proven = [block for block in blocks if not reasons[block.region.name]]
        for name, saved in _half_savings(surveyed, proven, items, settings).items():
            savings[name][granularity] = saved
    return {name: _chosen(savings[name], refused[name], settings) for name in refused}


def _asked(settings: Settings, items: Sequence[Batch]) -> tuple[str, ...]:
    """Granularities other than by batch that are worth a look."""
    if settings.granularity == "batch":
        return ()
    if settings.granularity == "auto":
        return ("sample", "token") if settings.batch_size > 1 else ("token",) if _are_long(items) else ()
    return ("sample", "token") if settings.granularity == "token" else ("sample",)


def _are_long(items: Sequence[Batch]) -> bool:
    lengths = [item.valid.shape[1] for item in items if item.valid is not None]
    return bool(lengths) and float(np.median(lengths)) >= LONG


def obstacle(region: Region, granularity: str) -> str:
    """Why a region's shape does not allow a granularity; empty where it does."""
    if not isinstance(region.dims[0], str):
        return "its batch axis is fixed or unknown"
    if granularity == "sample":
        return ""
    if len(region.dims) != 3 or region.channel_axis != 2:
        return "its values are no sequence of tokens"
    return f"it also reads {region.sides[0]}" if region.sides else ""


def _half_savings(
    surveyed: Surveyed, blocks: Sequence[Block], items: Sequence[Batch], settings: Settings
) -> dict[str, float]:
    """Milliseconds a batch that each block saves when a random half of its rows is bypassed."""
    if not blocks:
        return {}
    chosen = typical(items)
    entries = [block.region.entry for block in blocks]
    original = open_session(with_outputs(surveyed.model, entries).SerializeToString())
    session = imposed(surveyed.model, blocks, provider=settings.provider, threads=settings.threads)
    outputs = [item.name for item in surveyed.model.graph.output]
    none = [decisions(blocks, {**item.feeds, **original.run(item.feeds)}) for item in chosen]
    random = np.random.default_rng(settings.seed)
    halves = [{name: (random.random(d.shape) < 0.5).astype(np.float32) for name, d in shut.items()} for shut in none]

    def run(which: str) -> None:
        for item, shut, half in zip(chosen, none, halves, strict=True):
            session.run({**item.feeds, **shut, which: half[which]} if which else {**item.feeds, **shut}, outputs)

    runs = [partial(run, which) for which in ("", *none[0])]
    times = np.quantile(interleaved(runs, ROUNDS, clock_of(session), rivals=False) / len(chosen), 0.25, axis=0)
    return {block.region.name: float(times[0] - time) for block, time in zip(blocks, times[1:], strict=True)}


def _chosen(savings: Mapping[str, float], refused: Sequence[str], settings: Settings) -> Choice:
    if settings.granularity == "token" and "token" in savings:
        savings = {"token": savings["token"]}
    if not savings:
        reason = "; ".join(refused) or f"one decision for each batch of {settings.batch_size}"
        return Choice("batch", reason)
    worth = {name: saved * (TOKENS_WORTH if name == "token" else 1.0) for name, saved in savings.items()}
    best = max(worth, key=lambda name: worth[name])
    found = [f"by {name}, half of the rows bypassed save {saved:.3f} ms a batch" for name, saved in savings.items()]
    return Choice(best, "; ".join([*found, *refused]))
