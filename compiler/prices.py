"""What a compiled file costs beside what it saves: bytes, memory at load, and latency where nothing is bypassed."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skipc.compiler.data import Batch
from skipc.compiler.latency import Run, Speedup, interleaved, speedup_of
from skipc.runtime.session import Session

BUDGET_MS = 3000.0
LEAST_BATCHES, MOST_BATCHES = 24, 400
GROUP = 8
"""Batches whose times are summed before two models are compared: single ones are noise."""

LOAD = """
import sys
from pathlib import Path
import onnxruntime
def held(key):
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
before = held("VmRSS")
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
print(held("VmHWM") - before, held("VmRSS") - before)
"""
"""Linux counts both afresh for each program, in KiB."""


@dataclass(frozen=True)
class Memory:
    """What loading a model takes on the CPU, MiB.

    Attributes:
        peak: while it loads.
        kept: once it is loaded.
    """

    peak: float
    kept: float


@dataclass(frozen=True)
class Latency:
    """Of one model over batches of *test*, milliseconds a batch.

    Attributes:
        median: of all batches.
        p95: 95th percentile.
        p99: 99th percentile.
        speedup: the original's latency over this one's, batch by batch; None for the original.
    """

    median: float
    p95: float
    p99: float
    speedup: Speedup | None


def memory_at_load(model: bytes) -> Memory | None:
    """Load a model in a process of its own; None where that is not measured, or fails."""
    if not Path("/proc/self/status").exists():
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model)
        done = subprocess.run([sys.executable, "-c", LOAD, str(path)], capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    peak, kept = (int(word) / 1024 for word in done.stdout.split())
    return Memory(peak, kept)


def race(models: Mapping[str, Session], items: Sequence[Batch]) -> dict[str, Latency]:
    """Time several models on the same batches, one batch after the other.

    Args:
        models: by name; the first is the original.
        items: batches; as many are run as fit into a few seconds.
    """
    once = sum(interleaved(_runs(models, items[0]), 1)[0]) * 2
    count = int(np.clip(BUDGET_MS / max(float(once), 1e-3), LEAST_BATCHES, MOST_BATCHES))
    order = np.random.default_rng(0).permutation(max(count, len(items)))[:count] % len(items)
    rows = [interleaved(_runs(models, items[i]), 1, warm_up=False, seed=row)[0] for row, i in enumerate(order)]
    times = np.stack(rows)
    return {name: _latency(times, which) for which, name in enumerate(models)}


def _runs(models: Mapping[str, Session], item: Batch) -> list[Run]:
    return [_run(session, item) for session in models.values()]


def _run(session: Session, item: Batch) -> Run:
    return lambda: session.run(item.feeds)


def _latency(times: NDArray[np.float64], which: int) -> Latency:
    """Of one model, from the times of all [batches, models]."""
    own = times[:, which]
    median, p95, p99 = np.quantile(own, [0.5, 0.95, 0.99])
    starts = np.arange(0, len(times), GROUP)
    sums = np.add.reduceat(times, starts, axis=0)
    speedup = speedup_of(sums[:, 0], sums[:, which]) if which else None
    return Latency(float(median), float(p95), float(p99), speedup)
