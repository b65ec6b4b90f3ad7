"""What it takes to compile the structure of a model of 3 GB: the most memory that the process holds, and seconds."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import onnx

from benchmarks.failure import BenchmarkError
from benchmarks.large_model import LargeModel, Size
from benchmarks.workbench import Json, Workbench

ALLOWED_MIB = 1024
"""Beside twice the largest layer."""

PROGRAM = (
    "import atexit; from benchmarks.machine import peak_memory_mib; from skipc.compiler.cli import main;"
    "atexit.register(lambda: print(peak_memory_mib())); main()"
)


def run(bench: Workbench) -> Json:
    """Write the model, compile it in a process of its own, and look at the result; the weights are removed again."""
    size = Size() if not bench.quick else Size(layers=2, width=64, heads=4)
    folder = bench.folder / "large"
    folder.mkdir(parents=True, exist_ok=True)
    bench.say("writing a large model")
    model = LargeModel(folder, size).write()
    start = time.perf_counter()
    words = [sys.executable, "-c", PROGRAM, "compile", str(model), "--output-format", "json"]
    done = subprocess.run(words, check=False, capture_output=True, text=True, cwd=bench.repository)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise BenchmarkError(f"compiling the large model failed: {done.stderr}")
    printed, peak = done.stdout.strip().rsplit("\n", 1)
    compiled = onnx.load(folder / "large.skip.onnx", load_external_data=False)
    data_bytes = sum(path.stat().st_size for path in folder.glob("*.data"))
    for path in folder.iterdir():
        path.unlink()
    return {
        "data_bytes": data_bytes,
        "layers": size.layers,
        "layer_mib": size.layer_bytes / 2**20,
        "gates": json.loads(printed)["gates"],
        "if_nodes": sum(node.op_type == "If" for node in compiled.graph.node),
        "peak_memory_mib": float(peak),
        "allowed_memory_mib": 2 * size.layer_bytes / 2**20 + ALLOWED_MIB,
        "seconds": round(seconds, 1),
    }
