"""What gates cost when none of them opens: level 0 against the original, batch 1, one thread."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

import models
from benchmarks import demo, minilm
from benchmarks.failure import RefusedError
from benchmarks.measures import shut_overhead
from benchmarks.workbench import Job, Json, Workbench
from skipc.compiler.console import QUIET, Console
from skipc.compiler.data import input_specs, synthetic
from skipc.compiler.pipeline import compile_without_data
from skipc.compiler.settings import Settings
from skipc.compiler.source import load_model

TOKENS = 32
PAIRS = 400


def run(bench: Workbench) -> Json:
    """Overhead of compiled models, and of a real gate before every block."""
    files = models.fetch("efficientnet-lite0").files
    originals = {
        "minilm": (models.fetch("minilm").files["minilm.onnx"], TOKENS),
        "demo": (models.fetch("demo").files["demo.onnx"], 1),
        "efficientnet-lite0": (files["efficientnet_lite0.onnx"], 1),
    }
    pairs = bench.pick(PAIRS, 5)
    found: Json = {}
    for name, (path, extent) in originals.items():
        bench.say(f"every block of {name} behind a gate that stays shut")
        found[f"{name}, every block gated"] = _every_block(path, extent, pairs)
    for name, job in (("minilm", minilm.job()), ("demo", demo.job())):
        found[f"{name}, compiled"] = _compiled(bench, job, originals[name][1], pairs)
    return found


def _compiled(bench: Workbench, job: Job, extent: int, pairs: int) -> Json:
    """A compiled model at level 0; the refusal in its stead where nothing is gained at its risk."""
    try:
        built = bench.compiled(job)
    except RefusedError as error:
        return {"refused": str(error)}
    return shut_overhead(built.original, built.compiled, _feeds(built.original, extent), pairs)


def _every_block(path: Path, extent: int, pairs: int) -> Json:
    original = load_model(path)
    return shut_overhead(original.model, _gated(path), _feeds(original.model, extent), pairs)


def _gated(path: Path) -> onnx.ModelProto:
    """Every block behind a gate that reads its entry value and knows nothing: what compiling without data writes."""
    return compile_without_data(load_model(path), Settings(), Console(QUIET)).model


def _feeds(model: onnx.ModelProto, extent: int) -> Mapping[str, NDArray[np.generic]]:
    """One made-up sample; open axes behind the first have this extent."""
    return synthetic(input_specs(model), batch=1, extent=extent, seed=0)
