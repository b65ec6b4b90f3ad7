"""all-MiniLM-L6-v2 in dynamic int8, compiled from there: what skipc adds on top of the quantizer, and in which order.

Opponents: the float original, the int8 one, static bypasses at the same risk, and the quantizer run after skipc.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import onnx

import models
from benchmarks.demo import compile_summary
from benchmarks.measures import (
    bypassed,
    interval,
    judged_by_original,
    losses_of,
    speedup,
    speedups,
)
from benchmarks.minilm import BATCH_SIZES, RISK, ROUNDS, SENTENCES, THREADS, domains
from benchmarks.workbench import Built, Job, Json, Workbench
from skipc.compiler.build import build
from skipc.compiler.data import Dataset, batches
from skipc.compiler.source import load_model
from skipc.compiler.survey import survey_model
from skipc.passes.policy import joined
from skipc.runtime.plan import Block, Plan, Region


def job(folder: Path) -> Job:
    """`skipc compile minilm.int8.onnx --data films=... --loss cosine --risk 0.05 --granularity sample`."""
    data = models.fetch("vader-minilm").files["films.calib.npz"]
    options = {"loss": "cosine", "risk": RISK, "confidence": 0.95, "granularity": "sample", "portrait": False}
    return Job("minilm-int8", _int8_file(folder), (f"films={data}",), options)


def quantized(before: Path, after: Path, operators: Sequence[str] | None = None) -> None:
    """ONNX Runtime's dynamic quantization, signed weights; None for all operators that it knows."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(before, after, op_types_to_quantize=operators, weight_type=QuantType.QInt8)


def _int8_file(folder: Path) -> Path:
    path = folder / "minilm.int8.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        quantized(models.fetch("minilm").files["minilm.onnx"], path)
    return path


def run(bench: Workbench) -> Json:
    """Compile the int8 model, then measure on sentences that the compiler never saw."""
    work = job(bench.folder)
    built = bench.compiled(work)
    found = domains(built.data, bench.pick(SENTENCES, 60))
    surveyed = survey_model(load_model(work.model), None)
    original = load_model(models.fetch("minilm").files["minilm.onnx"]).model
    bench.say("judging MiniLM in int8 on four domains")
    quality = {name: _quality(built, data, original) for name, data in found.items()}
    bench.say("timing MiniLM in int8")
    points = list(product(BATCH_SIZES, THREADS))
    rounds = {size: bench.pick(count, 1) for size, count in ROUNDS.items()}
    after = _quantized_after(bench.plan_of(work))
    rivals = {"float": original, "quantized after": after}
    return {
        "compile": compile_summary(built),
        "speed": [
            {
                **speedups(built, found["films"], size, threads, rounds[size]),
                "others": {
                    name: _speedup_of(built, model, found["films"], size, threads, rounds[size])
                    for name, model in rivals.items()
                },
            }
            for size, threads in points
        ],
        "bypassed": {
            name: [bypassed(built, data, size, surveyed) for size in BATCH_SIZES] for name, data in found.items()
        },
        "quality": quality,
    }


def _quality(built: Built, data: Dataset, original: onnx.ModelProto) -> Json:
    """Mean cosine distance to the int8 model's embedding; that of the int8 model itself to the float one's."""
    judged = judged_by_original(built, data)
    by_float = judged_by_original(replace(built, original=original), data)
    compared = {"gated": built.compiled, "static": built.static}
    return {
        "samples": len(data),
        "cosine_distance": {
            name: interval(losses_of(model, judged, "cosine"), "mean") for name, model in compared.items() if model
        },
        "cosine_distance_from_float": {
            name: interval(losses_of(model, by_float, "cosine"), "mean")
            for name, model in {"int8": built.original, "gated": built.compiled}.items()
        },
    }


def _speedup_of(
    built: Built, model: onnx.ModelProto, data: Dataset, batch_size: int, threads: int, rounds: int
) -> Json:
    """Speed-up of another model over the int8 one."""
    items = batches(data, batch_size, built.inputs)
    return speedup(built.original, model, items, threads, rounds, "other")


def _in_float(block: Block, regions: Mapping[str, Region]) -> Block:
    """A block with the same bypass for the same region of another model."""
    if not block.bypass.parts:
        return replace(block, region=regions[block.region.name])
    parts = block.bypass.parts
    return joined([replace(block, region=regions[part.region.name], bypass=part.bypass) for part in parts])


def _quantized_after(plan: Plan) -> onnx.ModelProto:
    """The same gates and bypasses put into the float model, which is quantized then."""
    surveyed = survey_model(load_model(models.fetch("minilm").files["minilm.onnx"]), None)
    regions = {region.name: region for region in surveyed.survey.regions}
    blocks = tuple(_in_float(block, regions) for block in plan.blocks)
    with tempfile.TemporaryDirectory() as folder:
        before, after = (Path(folder) / name for name in ("float.onnx", "int8.onnx"))
        onnx.save(build(surveyed.original, replace(plan, blocks=blocks, targets=surveyed.targets)), before)
        # A Gather that it quantizes has another output, which branches that read the old one are not told.
        quantized(before, after, ["MatMul"])
        return onnx.load(after)
