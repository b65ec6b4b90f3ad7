"""The measurements that benchmarks share; each gives a JSON value with a median or mean and its 95 % interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.workbench import Built, Json
from skipc.compiler.bench import BATCHES_A_ROUND, bench_of, compare, run_shares, time_share_skipped
from skipc.compiler.data import Batch, Dataset, batches
from skipc.compiler.latency import interleaved, speedup_of
from skipc.compiler.loss import Losses, resolve_loss
from skipc.compiler.promises import exposed
from skipc.compiler.report import speedup_json
from skipc.compiler.report_measures import rounded
from skipc.compiler.running import Judged, in_parallel, judge, run_plain
from skipc.compiler.survey import Surveyed
from skipc.passes.stamp import SetLevel
from skipc.runtime.session import Session, open_session

Array = NDArray[Any]
DRAWS = 1000
NOTHING = "nothing bypassed"
"""The original with the target shapes that the compiled file holds and without padding where that leaves it out."""

SESSIONS = 8
"""Opened of each model for an overhead."""

OPENED = 4
"""Opened of each model for a speed-up."""


def opened(model: onnx.ModelProto, threads: int = 1) -> Session:
    """A session under ONNX Runtime's full optimisation."""
    return open_session(model.SerializeToString(), threads=threads)


def interval(values: NDArray[np.float64], statistic: str = "median") -> Json:
    """A median or mean with its bootstrapped 95 % interval."""
    draws = np.random.default_rng(0).integers(0, len(values), (DRAWS, len(values)))
    spread = np.median(values[draws], axis=1) if statistic == "median" else values[draws].mean(axis=1)
    low, high = np.quantile(spread, [0.025, 0.975])
    middle = np.median(values) if statistic == "median" else values.mean()
    return {name: rounded(float(value)) for name, value in ((statistic, middle), ("low", low), ("high", high))}


def speedups(built: Built, data: Dataset, batch_size: int, threads: int, rounds: int) -> Json:
    """The original against the gated model, the static alternative, and what is left of both without any bypass."""
    items = batches(data, batch_size, built.inputs)
    found: Json = {"batch_size": batch_size, "threads": threads, "rounds": rounds, "batches_a_round": BATCHES_A_ROUND}
    alone = built.bare if built.plan.targets or built.plan.padding else None
    for name, model in (("gated", built.compiled), ("static", built.static), (NOTHING, alone)):
        if model is None:
            found[name] = None
            continue
        found[name] = speedup(built.original, model, items, threads, rounds, name)
    return found


def speedup(
    original: onnx.ModelProto, other: onnx.ModelProto, items: Sequence[Batch], threads: int, rounds: int, name: str
) -> Json:
    """Another model against the original, in interleaved pairs: how many times faster, and milliseconds of both.

    Where a session's weights happen to lie in memory moves its times by a few per cent, so several are opened.
    """
    times: list[tuple[float, float]] = []
    for seed in range(min(OPENED, rounds)):
        sessions = opened(original, threads), opened(other, threads)
        times += compare(*sessions, items, rounds=-(-rounds // OPENED), seed=seed).rounds
    bench = bench_of(times)
    latency = {"original": rounded(bench.original_ms), name: rounded(bench.compiled_ms)}
    return {"speedup": speedup_json(bench.speedup), "latency_ms": latency}


def bypassed(built: Built, data: Dataset, batch_size: int, surveyed: Surveyed) -> Json:
    """Shares of time and of the network's blocks that are bypassed; a gated layer counts as the blocks in it."""
    plan = built.plan
    shares = run_shares(exposed(built.compiled, plan), plan, batches(data, batch_size, built.inputs))
    names = [frozenset(block.nodes) for block in surveyed.survey.blocks]
    held = [sum(nodes <= set(item.nodes) for item in block.bypassed for nodes in names) for block in plan.blocks]
    skipped = sum(count * (1.0 - share) for count, share in zip(held, shares, strict=True))
    return {
        "batch_size": batch_size,
        "time_share": rounded(time_share_skipped(plan, shares)),
        "layer_share": rounded(skipped / len(names)),
        "run_share": {block.region.name: rounded(s) for block, s in zip(plan.blocks, shares, strict=True)},
    }


def judged_by_original(built: Built, data: Dataset) -> Judged:
    """A data set with the original's output for each sample, one at a time."""
    output = built.plan.certificate.output if built.plan.certificate else built.original.graph.output[0].name
    return judge(opened(built.original), data, built.inputs, 1, output)


def losses_of(model: onnx.ModelProto, judged: Judged, loss_name: str) -> Losses:
    """The loss of each sample."""
    return run_plain(opened(model), judged, resolve_loss(loss_name, judged.references[0], judged.labels[0]))


def outputs_of(model: onnx.ModelProto, judged: Judged) -> Array:
    """The judged output of each sample, [samples, ...]."""
    session = opened(model)

    def run(item: Batch) -> Array:
        return session.run(item.feeds, [judged.output])[judged.output]

    return np.concatenate(in_parallel(run, judged.items))


def shut_overhead(original: onnx.ModelProto, gated: onnx.ModelProto, feeds: Mapping[str, Array], pairs: int) -> Json:
    """What the gates cost when none opens: level 0 against the original, one thread, in interleaved pairs.

    Where a session's weights happen to lie in memory moves its times by a few per cent, so several are opened.
    """
    shut = SetLevel(0).apply(gated)
    parts = []
    for _ in range(SESSIONS):
        sessions = [opened(original), opened(shut)]
        parts.append(interleaved([partial(session.run, feeds) for session in sessions], -(-pairs // SESSIONS)))
    times = np.concatenate(parts)
    ratio = speedup_of(times[:, 1], times[:, 0])
    by_session = [float(np.median(part[:, 1] / part[:, 0])) - 1 for part in parts]
    return {
        "pairs": len(times),
        "sessions": SESSIONS,
        "by_session": {"low": rounded(min(by_session)), "high": rounded(max(by_session))},
        "gates": sum(node.op_type == "If" for node in gated.graph.node),
        "overhead": {
            "median": rounded(ratio.median - 1),
            "low": rounded(ratio.low - 1),
            "high": rounded(ratio.high - 1),
        },
        "latency_ms": dict(zip(("original", "shut"), map(rounded, np.median(times, axis=0).tolist()), strict=True)),
    }


def rows(data: Dataset, wanted: Sequence[int] | NDArray[np.int64], at_most: int) -> Dataset:
    """The first so many of the wanted samples."""
    return data.subset(np.asarray(wanted, dtype=np.int64)[:at_most])
