"""What the report shows beside the result: opponents, gates, decisions, prices. It decides nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from skipc.compiler.build import serialized
from skipc.compiler.certify import Claim
from skipc.compiler.fit import rank_correlation
from skipc.compiler.impact import instrument
from skipc.compiler.opponents import Opponent, identity_opponent, int8_opponents, static_opponent
from skipc.compiler.options import Option
from skipc.compiler.prices import Latency, Memory, memory_at_load, race
from skipc.compiler.progress import SILENT, Progress
from skipc.compiler.running import Judged, in_parallel, opened, run_gated, shut
from skipc.compiler.static import Static
from skipc.compiler.survey import Surveyed
from skipc.passes.stamp import SetLevel
from skipc.runtime import names
from skipc.runtime.plan import Array, Plan
from skipc.runtime.session import Session, open_session

SHOWN_SAMPLES = 60
"""Columns of the heat map, as many as a phone can show."""

ORIGINAL, COMPILED, SHUT = "original", "compiled", "every gate shut"
"""Names in the race, beside those of opponents."""


@dataclass(frozen=True)
class GateQuality:
    """How well one gate chooses, on *test*, which nothing was fitted on.

    Attributes:
        block: its region.
        share: of the units that are bypassed here, those with the least scores.
        chosen: what bypassing these adds to the mean loss.
        by_chance: what bypassing as many at random adds.
        oracle: what bypassing those that lose least adds.
        rank_correlation: Spearman's, between score and true loss by the smooth proxy.
    """

    block: str
    share: float
    chosen: float
    by_chance: float
    oracle: float
    rank_correlation: float


@dataclass(frozen=True)
class Portrait:
    """What the report shows beside the result.

    Attributes:
        opponents: static, identity, int8, and int8 of the compiled model.
        latencies: by name: the original, the compiled model, the same with every gate shut, and the opponents.
        gates: of every gate that reads its input.
        run: share of each sample's rows that ran in full, [samples, blocks], for some samples of *test*.
        file_bytes: of the original and of the compiled model.
        memory: at load, of both; None where it was not measured.
    """

    opponents: tuple[Opponent, ...]
    latencies: Mapping[str, Latency]
    gates: tuple[GateQuality, ...]
    run: tuple[tuple[float, ...], ...]
    file_bytes: tuple[int, int]
    memory: tuple[Memory, Memory] | None


@dataclass(frozen=True)
class Subject:
    """What the portrait is of.

    Attributes:
        original: opened as it is deployed.
        model: compiled.
        shown: the compiled model with its decisions among the outputs.
        plan: of it.
        options: that it was made from.
        static: the alternative without gates.
    """

    original: Session
    model: onnx.ModelProto
    shown: Session
    plan: Plan
    options: Sequence[Option]
    static: Static | None


def take_portrait(
    surveyed: Surveyed,
    subject: Subject,
    fit: Judged,
    calibrate: Sequence[Judged],
    test: Sequence[Judged],
    claim: Claim,
    progress: Progress = SILENT,
) -> Portrait:
    """Measure all of it, on *test*."""
    fixed = (
        static_opponent(surveyed, subject.static, test, claim),
        identity_opponent(surveyed, subject.options, fit, calibrate, test, claim),
    )
    progress.to(0.4)
    opponents = (*fixed, *int8_opponents(surveyed.original, subject.model, calibrate, test, claim))
    progress.to(0.6)
    pair = (serialized(surveyed.original), serialized(subject.model))
    memory = [memory_at_load(data) for data in pair]
    progress.to(0.7)
    return Portrait(
        opponents=opponents,
        latencies=_race(subject, opponents, test),
        gates=gate_qualities(surveyed, subject.plan, test[0], claim),
        run=_run_shares(subject.shown, test[0]),
        file_bytes=(len(pair[0]), len(pair[1])),
        memory=(memory[0], memory[1]) if memory[0] and memory[1] else None,
    )


def _race(subject: Subject, opponents: Sequence[Opponent], test: Sequence[Judged]) -> dict[str, Latency]:
    plan = subject.plan
    models = {COMPILED: subject.model, SHUT: SetLevel(0).apply(subject.model)}
    models |= {item.name: item.model for item in opponents if item.model is not None}
    opened_models = {
        name: open_session(model.SerializeToString(), provider=plan.provider, threads=plan.threads)
        for name, model in models.items()
    }
    items = [item for judged in test for item in judged.items]
    return race({ORIGINAL: subject.original, **opened_models}, items)


def _run_shares(shown: Session, test: Judged) -> tuple[tuple[float, ...], ...]:
    found: list[list[float]] = []
    for item in test.items:
        found += (1.0 - shown.run(item.feeds, [names.DECISIONS])[names.DECISIONS]).tolist()
        if len(found) >= SHOWN_SAMPLES:
            break
    return tuple(tuple(round(share, 3) for share in row) for row in found[:SHOWN_SAMPLES])


def gate_qualities(surveyed: Surveyed, plan: Plan, test: Judged, claim: Claim) -> tuple[GateQuality, ...]:
    """Bypass each block alone and see whether its gate's scores foretell what that costs.

    Gates that decide for tokens are judged by the mean score of each sample.
    """
    live = [gate for gate, block in enumerate(plan.blocks) if block.gate.pooling != "constant"]
    if not live:
        return ()
    model = instrument(surveyed.model, plan.blocks, surveyed.executor)
    window = shut(model.gates)
    rows = in_parallel(
        lambda item: model.session.run({**item.feeds, names.WINDOW: window}, [names.SCORES])[names.SCORES],
        test.items,
        model.session.parallel,
    )
    scores = _by_unit(rows, test)
    found = []
    for gate in live:
        outcome = run_gated(model, opened(model.gates, [gate]), test, claim.loss)
        block = plan.blocks[gate]
        correlation = rank_correlation(scores[:, gate].astype(np.float64), outcome.smooth)
        found.append(quality(block.region.name, block.open_share, scores[:, gate], outcome.losses, correlation))
    return tuple(found)


def _by_unit(rows: Sequence[Array], judged: Judged) -> NDArray[np.float32]:
    """Scores of each unit, [units, gates]: the largest of its rows, which is what has to agree."""
    if judged.by_batch:
        return np.stack([row.max(axis=0) for row in rows])
    by_sample = [
        row.reshape(len(item.indices), -1, row.shape[1]).max(axis=1)
        for row, item in zip(rows, judged.items, strict=True)
    ]
    return np.concatenate(by_sample)


def quality(
    block: str, share: float, scores: NDArray[np.float32], losses: NDArray[np.float64], correlation: float
) -> GateQuality:
    """Compare a gate's choice of a share of all units with chance and with an oracle.

    Args:
        block: name of the region.
        share: of the units that are bypassed; a half is taken for a gate that is never or always open.
        scores: of each unit.
        losses: of each unit when it is bypassed.
        correlation: between the two.
    """
    units = len(losses)
    count = round((share if 0.0 < share < 1.0 else 0.5) * units)
    chosen = losses[np.argsort(scores, kind="stable")[:count]].sum() / units
    oracle = np.sort(losses)[:count].sum() / units
    by_chance = losses.mean() * count / units
    return GateQuality(block, count / units, float(chosen), float(by_chance), float(oracle), correlation)
