"""Time all contenders of one network at one batch size, and compare with what the CPU answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from benchmarks.cuda.contenders import (
    ALL_BYPASSED,
    GRAPH,
    NONE_BYPASSED,
    OPPONENTS,
    ORIGINAL,
    QUARTER,
    Field,
    Gated,
    opened_on,
)
from benchmarks.cuda.networks import Array
from benchmarks.cuda.subject import EVERYTHING, NOTHING, QUARTERS, SAMPLES, SHARE, Subject, rows, wished
from benchmarks.failure import BenchmarkError
from benchmarks.measures import interval
from benchmarks.workbench import Json
from skipc.compiler.latency import interleaved, speedup_of
from skipc.compiler.report import speedup_json
from skipc.compiler.report_measures import rounded
from skipc.runtime import names
from skipc.runtime.binding import Bound

LEAST_ROUNDS, MOST_ROUNDS = 5, 200

TOLERANCE = {"float32": 1e-4, "float16": 3e-2}
"""Of an output's largest value: some hundred operations deep, each off by 6e-8 or 5e-4, summed in another order."""

Times = Mapping[tuple[str, str], NDArray[np.float64]]
"""Milliseconds a batch, [rounds], by contender and share bypassed."""


def measured(field: Field, size: int, seconds: float, clock: Callable[[], float] = time.perf_counter) -> Json:
    """Latencies, speed-ups, overhead and break-even points at one batch size.

    Args:
        field: the contenders.
        size: of the batch.
        seconds: that timing may take, where a handful of rounds fits into it.
        clock: seconds, rising.
    """
    runs = field.runs(size)
    notes: Json = {}
    if field.provider == "cuda":
        try:
            runs[GRAPH, ""] = (field.graph(size),)
        except BenchmarkError as error:
            notes[GRAPH] = {"error": str(error)}
    times, rounds = _timed(runs, seconds, clock)
    gates = {item.name: len(item.blocks) for item in field.gated}
    return {
        "network": field.subject.name,
        "dtype": field.subject.dtype,
        "batch_size": size,
        "gates": len(field.subject.blocks),
        "rounds": rounds,
        "plain_ms": {name: interval(times[name, ""]) for name in OPPONENTS if (name, "") in times} | notes,
        "gated": {name: _gated(times, name, count) for name, count in gates.items() if (name, NONE_BYPASSED) in times},
    }


def _timed(
    runs: Mapping[tuple[str, str], Sequence[Bound]], seconds: float, clock: Callable[[], float]
) -> tuple[Times, int]:
    """Interleaved rounds. A run goes through all its batches, each of which comes once untimed before."""
    each = [partial(_all, bound) for bound in runs.values()]
    for run in each:
        run()
    once = interleaved(each, 1, clock, warm_up=False).sum() * 2
    rounds = int(np.clip(seconds * 1e3 / max(float(once), 1e-3), LEAST_ROUNDS, MOST_ROUNDS))
    times = interleaved(each, rounds, clock, warm_up=False)
    counts = np.array([len(bound) for bound in runs.values()])
    return dict(zip(runs, (times / counts).T, strict=True)), rounds


def _all(bound: Sequence[Bound]) -> None:
    for item in bound:
        item.run()


def _gated(times: Times, name: str, gates: int) -> Json:
    opponents = {name: times[name, ""] for name in OPPONENTS if (name, "") in times}
    shares = (NONE_BYPASSED, QUARTER, ALL_BYPASSED)
    shut, quarter = times[name, NONE_BYPASSED], times[name, QUARTER]
    overhead = speedup_of(shut, opponents[ORIGINAL])
    middle = [float(np.median(found)) for found in (shut, quarter)]
    return {
        "latency_ms": {share: interval(times[name, share]) for share in shares},
        "shut_overhead": {key: rounded(getattr(overhead, key) - 1) for key in ("median", "low", "high")},
        "gates": gates,
        "per_gate_us": interval((shut - opponents[ORIGINAL]) / gates * 1e3),
        "speedup": {key: speedup_json(speedup_of(found, quarter)) for key, found in opponents.items()},
        "break_even_share": {key: break_even(float(np.median(found)), *middle) for key, found in opponents.items()},
    }


def break_even(opponent_ms: float, shut_ms: float, quarter_ms: float) -> float | None:
    """The share of the blocks' time that must be bypassed to be as fast as an opponent; None where all is too little.

    Time falls in proportion to the share: from `shut_ms` at none to `quarter_ms` at `SHARE`.
    """
    if opponent_ms >= shut_ms:
        return 0.0
    if quarter_ms >= shut_ms:
        return None
    share = SHARE * (shut_ms - opponent_ms) / (shut_ms - quarter_ms)
    return rounded(share) if share <= 1 else None


def compared(field: Field) -> Json:
    """Decisions and outputs of each gated file against the CPU's answers to the same batches.

    There ONNX Runtime runs the graph as it stands. On CUDA products are taken in float32 here, without TensorFloat-32.
    """
    return {item.name: _against_cpu(field, item) for item in field.gated}


def _against_cpu(field: Field, item: Gated) -> Json:
    """Where samples decide for themselves, all of them in one batch; else some of them one by one."""
    subject = field.subject
    batches = [range(SAMPLES)] if item.granularity == "sample" else [[i] for i in (QUARTERS[0], NOTHING, EVERYTHING)]
    model = subject.shipped(item.blocks, exposed=True)
    exact = {"use_tf32": "0"} if field.provider == "cuda" else None
    here = opened_on(subject, model, field.provider, field.threads, exact)
    cpu = opened_on(subject, model, "cpu", field.threads, optimize=False)
    pairs = [(here.run(feeds), cpu.run(feeds)) for feeds in (rows(subject.samples, batch) for batch in batches)]
    ours, theirs = (np.concatenate([pair[side][names.DECISIONS] for pair in pairs]) for side in (0, 1))
    wishes = wished(len(item.blocks))[[i for batch in batches for i in batch]]
    tolerance = TOLERANCE[subject.dtype]
    differing, unwished = int((ours != theirs).sum()), int((ours != wishes).sum())
    largest = max(_distance(subject, *pair) for pair in pairs)
    return {
        "samples": len(wishes),
        "decisions": wishes.size,
        "differing_decisions": differing,
        "decisions_not_as_wished": unwished,
        "least_distance_to_threshold": rounded(min(float(abs(pair[0][names.SCORES]).min()) for pair in pairs)),
        "largest_relative_difference": largest,
        "tolerance": tolerance,
        "ok": differing == unwished == 0 and largest <= tolerance,
    }


def _distance(subject: Subject, ours: Mapping[str, Array], theirs: Mapping[str, Array]) -> float:
    """Largest difference of an output, over its largest value; NaN counts as infinite."""
    found = 0.0
    for item in subject.model.graph.output:
        one, two = (answer[item.name].astype(np.float64) for answer in (ours, theirs))
        distance = float(np.abs(one - two).max() / np.abs(two).max())
        found = max(found, distance if np.isfinite(distance) else float("inf"))
    return found
