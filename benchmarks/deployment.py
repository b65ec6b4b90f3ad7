"""What watching a deployment costs, and how soon the monitor notices that inputs have changed; MiniLM at batch 1."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks import minilm
from benchmarks.workbench import Json, Workbench
from skipc.compiler.build import serialized
from skipc.compiler.data import batches
from skipc.compiler.latency import interleaved
from skipc.runtime import Answer, DecisionLog, Monitor, Session
from skipc.runtime.plan import Array
from skipc.runtime.variants import Variant
from skipc.runtime.watch import Alarm

Feeds = Mapping[str, Array]

FAMILIAR = 300
"""Requests like those of calibration that come before the change."""

AUDIT_SHARE = 0.05
TOKENS = range(1000, 30000)
"""Of the vocabulary, without special tokens."""


def run(bench: Workbench) -> Json:
    """Costs, and streams that switch from film reviews to something else."""
    built = bench.compiled(minilm.job())
    data = serialized(built.compiled)
    domains = minilm.domains(built, bench.pick(1000, 40))
    streams = {name: [item.feeds for item in batches(found, 1, built.inputs)] for name, found in domains.items()}
    films = streams["films"]
    familiar, fresh = films[: len(films) // 3][:FAMILIAR], films[len(films) // 3 :]
    changed = {**streams, "films": fresh, "random tokens": [_random_tokens(item, k) for k, item in enumerate(fresh)]}
    bench.say("timing the decisions and their log")
    costs = {
        "decisions": decisions_cost(data, films[:100], bench.pick(5, 1)),
        "log": log_cost(data, films[:100], bench.pick(6, 1)),
        "wall_clock": wall_clock_cost(data, films[:100], bench.pick(20, 1)),
    }
    bench.say("streams that change")
    return {**costs, "alarms": {name: alarms(data, familiar, items) for name, items in changed.items()}}


def _random_tokens(feeds: Feeds, seed: int) -> Feeds:
    random = np.random.default_rng(seed)
    ids = feeds["input_ids"]
    return {**feeds, "input_ids": random.integers(TOKENS.start, TOKENS.stop, ids.shape).astype(ids.dtype)}


def decisions_cost(data: bytes, feeds: Sequence[Feeds], rounds: int) -> Json:
    """Kernel time of the nodes that show decisions, by ONNX Runtime's own profiler, microseconds a request."""
    shown = Variant(decisions=True).of(data, where="")
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(shown, options, providers=["CPUExecutionProvider"])
        for _ in range(rounds):
            for item in feeds:
                session.run(None, item)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    kernels = [item for item in events if item.get("cat") == "Node" and item["name"].endswith("_kernel_time")]
    ours = [item for item in kernels if item["name"].startswith(("skipc/decisions", "skipc.scores", "skipc.decisions"))]
    requests = rounds * len(feeds)
    times = [sum(item["dur"] for item in found) / requests for found in (ours, kernels)]
    return {"us": round(times[0], 1), "of_us": round(times[1], 1), "nodes": len(ours) / requests}


class _Nobody:
    """An observer that does nothing, so that the session computes its decisions as with a log."""

    def attach(self, session: Session) -> None:
        """See `Observer.attach`."""

    def observe(self, answer: Answer) -> None:
        """See `Observer.observe`."""


def log_cost(data: bytes, feeds: Sequence[Feeds], rounds: int) -> Json:
    """Processor time that logging adds to the thread of a request, microseconds: pairs in one and the same session.

    Processor time, since the two sessions of a wall-clock comparison differ by more than what is to be measured.
    """
    with tempfile.TemporaryDirectory() as folder, DecisionLog(Path(folder) / "d.log") as log:
        session = Session(data, observers=[_Nobody()])
        pairs = [_pair(session, log, item, row % 2) for row in range(rounds) for item in feeds]
    extra = 1e6 * np.array([logged - plain for plain, logged in pairs[len(feeds) // 10 :]])
    draws = np.random.default_rng(0).integers(0, len(extra), (1000, len(extra)))
    low, high = np.quantile(np.median(extra[draws], axis=1), [0.025, 0.975])
    plain = 1e6 * float(np.median([first for first, _ in pairs]))
    found = {"median": float(np.median(extra)), "low": float(low), "high": float(high), "of_us": plain}
    return {name: round(value, 1) for name, value in found.items()}


def wall_clock_cost(data: bytes, feeds: Sequence[Feeds], rounds: int) -> Json:
    """What decisions and their log add to the latency of a request, as a share of it: interleaved pairs of sessions.

    Each timed run follows one of the same session that is not timed. The file's plain session is timed twice: what its
    second copy differs by is what this comparison cannot tell. Several pairs of sessions are opened, since where a
    session's weights happen to lie in memory weighs as much as what is to be measured.
    """
    with tempfile.TemporaryDirectory() as folder, DecisionLog(Path(folder) / "d.log") as log:
        ratios = [_wall_clock(data, log, feeds, row) for row in range(rounds)]
    logged, again = np.array(ratios).transpose(2, 0, 1).reshape(2, -1)
    return {name: _share(found) for name, found in (("logged", logged), ("plain_again", again))}


def _wall_clock(data: bytes, log: DecisionLog, feeds: Sequence[Feeds], seed: int) -> list[tuple[float, float]]:
    """By request: latency over the plain session's, of one with a log and of another plain one, less 1."""
    sessions = [Session(data), Session(data, observers=[log]), Session(data)]
    runs = [[lambda s=session, f=item: s.run(None, f) for session in sessions] for item in feeds]
    times = [interleaved(found, 1, seed=1000 * seed + row)[0] for row, found in enumerate(runs)]
    return [(float(logged / plain) - 1.0, float(again / plain) - 1.0) for plain, logged, again in times]


def _share(found: NDArray[np.float64]) -> Json:
    draws = np.random.default_rng(0).integers(0, len(found), (1000, len(found)))
    low, high = np.quantile(np.median(found[draws], axis=1), [0.025, 0.975])
    return {"median": round(float(np.median(found)), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def _pair(session: Session, log: DecisionLog, feeds: Feeds, first: int) -> tuple[float, float]:
    """Processor seconds without and with the log, in either order."""
    seconds = [0.0, 0.0]
    for which in (first, 1 - first):
        start = time.thread_time()
        answer = session.answer(feeds)
        if which:
            log.observe(answer)
        seconds[which] = time.thread_time() - start
    return seconds[0], seconds[1]


def alarms(data: bytes, familiar: Sequence[Feeds], changed: Sequence[Feeds]) -> Json:
    """Requests after the change until each kind of alarm, None where there was none; and false ones before it."""
    raised: list[Alarm] = []
    with Monitor(audit_share=AUDIT_SHARE, on_alarm=raised.append, waiting=len(familiar) + len(changed)) as monitor:
        session = Session(data, observers=[monitor])
        for feeds in (*familiar, *changed):
            session.run(None, feeds)
    state = monitor.state()
    after: dict[str, Any] = {"scores": None, "loss": None}
    for alarm in reversed(raised):
        after[alarm.kind] = alarm.requests - len(familiar)
    return {
        "after": after,
        "false": sum(alarm.requests <= len(familiar) for alarm in raised),
        "requests": [len(familiar), len(changed)],
        "audits": state.audits,
        "audits_mean_loss": state.audit_mean,
        "limit": state.audit_limit,
    }
