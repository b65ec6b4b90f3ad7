"""Wall time of `skipc --help`, start of the interpreter included."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.measures import interval
from benchmarks.workbench import Json, Workbench


def run(bench: Workbench) -> Json:
    """Run it a number of times after one that warms the file cache."""
    command = [str(Path(sys.executable).with_name("skipc")), "--help"]
    subprocess.run(command, check=True, capture_output=True)
    seconds = np.array([_seconds(command) for _ in range(bench.pick(20, 3))])
    return {"runs": len(seconds), "seconds": interval(seconds)}


def _seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start
