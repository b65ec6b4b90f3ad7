"""Weights inside branches, outside, or by rule: bytes, memory at load and its forecast, time with every gate shut."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from statistics import median

import onnx

import models
from benchmarks.measures import shut_overhead
from benchmarks.workbench import Json, Workbench
from skipc.compiler.build import serialized
from skipc.compiler.console import QUIET, Console
from skipc.compiler.data import input_specs, synthetic
from skipc.compiler.footprint import footprint
from skipc.compiler.pipeline import compile_without_data
from skipc.compiler.prices import memory_at_load
from skipc.compiler.settings import Settings
from skipc.compiler.source import load_model
from skipc.passes.placement import PLACEMENTS

SUBJECTS = (
    ("minilm", "minilm.onnx", 32),
    ("efficientnet-lite0", "efficientnet_lite0.onnx", 1),
    ("whisper-tiny", "whisper_encoder.onnx", 1),
)
"""Recipe, file, and the extent of open axes behind the first."""

LOADS, PAIRS = 5, 24


def run(bench: Workbench) -> Json:
    """Each network with every block behind a gate, for each placement."""
    found: Json = {}
    for name, file, extent in SUBJECTS:
        bench.say(f"placing the weights of {name}")
        found[name] = _subject(bench, models.fetch(name).files[file], extent)
    return found


def _subject(bench: Workbench, path: Path, extent: int) -> Json:
    original = load_model(path).model
    loads, pairs = bench.pick(LOADS, 1), bench.pick(PAIRS, 3)
    before = _load(original, loads)
    rows: Json = {"original": {"file_mib": _mib(len(serialized(original))), "load_peak_mib": before}}
    feeds = synthetic(input_specs(original), batch=1, extent=extent, seed=0)
    for weights in PLACEMENTS:
        compiled = compile_without_data(load_model(path), Settings(weights=weights), Console(QUIET)).model
        after = _load(compiled, loads)
        forecast = {f"{key}_mib": _mib(value) for key, value in asdict(footprint(original, compiled)).items()}
        rows[weights] = {
            "growth": forecast,
            "load_peak_mib": after,
            "load_growth_mib": {
                "measured": round(after["median"] - before["median"], 1),
                "predicted": forecast["load_mib"],
            },
            "shut": shut_overhead(original, compiled, feeds, pairs),
        }
    return rows


def _load(model: onnx.ModelProto, loads: int) -> Json:
    """Memory at the peak of loading over several loads, MiB."""
    data = serialized(model)
    peaks = sorted(memory.peak for memory in (memory_at_load(data) for _ in range(loads)) if memory)
    return {"median": round(median(peaks), 1), "low": round(peaks[0], 1), "high": round(peaks[-1], 1)}


def _mib(size: int) -> float:
    return round(size / 2**20, 2)
