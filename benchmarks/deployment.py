"""What a decision log costs, and how soon the monitor notices that inputs have changed; MiniLM at batch 1."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import minilm, streams
from benchmarks.measures import interval
from benchmarks.workbench import Json, Workbench
from skipc.compiler.build import serialized
from skipc.compiler.data import batches
from skipc.compiler.latency import interleaved
from skipc.runtime import DecisionLog, Monitor, Session
from skipc.runtime.plan import Array
from skipc.runtime.watch import Alarm

Feeds = Mapping[str, Array]

FAMILIAR = 300
"""Requests like those of calibration that come before the change."""

CHANGED = 500
"""Requests after it: by then there must be an alarm."""

AUDIT_SHARE = 0.05


def run(bench: Workbench) -> Json:
    """Streams that switch from film reviews to something else."""
    built = bench.compiled(minilm.job())
    data = serialized(built.compiled)
    found = streams.requests(built, bench.pick(FAMILIAR + CHANGED, 40))
    films = found["films"]
    familiar, fresh = films[: bench.pick(FAMILIAR, 10)], films[bench.pick(FAMILIAR, 10) :]
    changed = {name: items[: len(fresh)] for name, items in {**found, "films": fresh}.items()}
    bench.say("streams that change")
    return {"alarms": {name: alarms(data, familiar, items) for name, items in changed.items()}}


def run_log(bench: Workbench) -> Json:
    """What a decision log costs, call by call."""
    data, films = _films(bench, 100)
    bench.say("timing the log, call by call")
    return calls_cost(data, films, bench.pick(12, 1))


def run_log_sessions(bench: Workbench) -> Json:
    """The same, session by session."""
    data, films = _films(bench, 50)
    bench.say("timing the log, session by session")
    return sessions_cost(data, films, bench.pick(30, 2))


def _films(bench: Workbench, count: int) -> tuple[bytes, list[Feeds]]:
    """The compiled file, and requests of one sentence each."""
    built = bench.compiled(minilm.job())
    items = batches(minilm.domains(built.data, count)["films"], 1, built.inputs)
    return serialized(built.compiled), [item.feeds for item in items]


def calls_cost(data: bytes, feeds: Sequence[Feeds], rounds: int) -> Json:
    """What the decisions and their log add to a request, in one and the same session: with, without, without, with.

    Weights lie where they lie for both, which sessions of their own do not offer. Without means the session of ONNX
    Runtime that serves, asked for the model's own outputs. Nothing but outputs is added to the graph for decisions.

    Returns:
        `share` of the latency by the wall clock, and `processor_us`, the processor time of the request's thread, which
        other programs disturb less; medians over pairs with their intervals.
    """
    with tempfile.TemporaryDirectory() as folder, DecisionLog(Path(folder) / "d.log") as log:
        session = Session(data, observers=[log])
        pairs = np.array([pair for row in range(rounds) for item in feeds for pair in _abba(session, item, row % 2)])
    (plain, logged), (plain_cpu, logged_cpu) = pairs[len(feeds) // 5 :].transpose(1, 2, 0)
    return {
        "pairs": len(plain),
        "share": interval(logged / plain - 1.0),
        "latency_ms": round(1e3 * float(np.median(plain)), 3),
        "processor_us": interval(1e6 * (logged_cpu - plain_cpu)),
        "of_processor_us": round(1e6 * float(np.median(plain_cpu)), 1),
    }


def _abba(session: Session, feeds: Feeds, first: int) -> list[list[tuple[float, float]]]:
    """Two pairs, neighbours in time, in mirrored order: [[wall clock], [processor]] of (plain, logged), seconds."""
    engine, own = session._serving.session.inference, [item.name for item in session.get_outputs()]
    found = {}
    for place, which in enumerate((first, 1 - first, 1 - first, first)):
        wall, processor = time.perf_counter(), time.thread_time()
        if which:
            session.run(own, feeds)
        else:
            engine.run(own, feeds)
        found[place // 2, which] = time.perf_counter() - wall, time.thread_time() - processor
    return [[(found[k, 0][clock], found[k, 1][clock]) for clock in (0, 1)] for k in (0, 1)]


def sessions_cost(data: bytes, feeds: Sequence[Feeds], openings: int) -> Json:
    """The same between sessions with a log and without one, opened anew, in an order drawn anew, again and again.

    Where a session's weights happen to lie in memory moves its latency by a few per cent, so the unit is one opening:
    two plain sessions and one with a log, in interleaved single calls. `plain_again` compares the two plain ones, and
    tells what this comparison is worth. Means over openings with their intervals.
    """
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder, DecisionLog(Path(folder) / "d.log") as log:
        medians = np.array([_opening(data, log, feeds, random) for _ in range(openings)])
    return {
        "openings": openings,
        "calls": openings * len(feeds),
        "logged": interval(medians[:, :2].mean(axis=1), "mean"),
        "plain_again": interval(medians[:, 2], "mean"),
        "spread_of_plain_again": round(float(medians[:, 2].std()), 4),
    }


def _opening(data: bytes, log: DecisionLog, feeds: Sequence[Feeds], random: np.random.Generator) -> NDArray[np.float64]:
    """Medians over calls, less 1, of latency over latency: log over each of two plain sessions, plain over plain."""
    opened = {which: Session(data, observers=[log] * (which == 2)) for which in random.permutation(3).tolist()}
    sessions = [opened[which] for which in range(3)]
    runs = [[lambda s=session, f=item: s.run(None, f) for session in sessions] for item in feeds]
    times = np.concatenate([interleaved(item, 1, warm_up=row == 0, seed=row) for row, item in enumerate(runs)])
    ratios = [times[:, 2] / times[:, 0], times[:, 2] / times[:, 1], times[:, 1] / times[:, 0]]
    return np.median(ratios, axis=1) - 1.0


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
