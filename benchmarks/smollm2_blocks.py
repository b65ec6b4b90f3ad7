"""SmolLM2-135M with its blocks in 8 bits for good: what that is worth and costs, before any search for what to bypass.

Nothing of this bypass is fitted, so that any passages can certify it, and one configuration needs no path.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from benchmarks.measures import opened, speedup
from benchmarks.smollm2 import DOMAINS, dynamic_int8, quality_of
from benchmarks.workbench import Json, Workbench
from models import fetch
from skipc.compiler.build import build_static
from skipc.compiler.calibrate import upper_bound
from skipc.compiler.data import Dataset, InputSpec, batches, input_specs, load_dataset
from skipc.compiler.impact import ungated
from skipc.compiler.report_measures import rounded
from skipc.compiler.running import judge, loss_for, run_plain
from skipc.compiler.source import load_model
from skipc.compiler.survey import Surveyed, survey_model
from skipc.passes.eight_bits import KIND
from skipc.runtime.plan import Bypass

CONFIDENCE = 0.95
CERTIFYING = 150
PASSAGES = 24
ROUNDS = 16
THREADS = (1, 2)
WHICH = {"feed-forward": ("feed-forward",), "feed-forward and attention": ("feed-forward", "attention")}


def run(bench: Workbench) -> Json:
    """Bound the loss on news, measure ratios of perplexity on four kinds of text, and time a prefill of 128 tokens."""
    source = load_model(fetch("smollm2").files["smollm2.onnx"])
    surveyed = survey_model(source, None)
    models = {name: _in_8_bits(surveyed, kinds) for name, kinds in WHICH.items()}
    found = {name: _passages(file, surveyed.inputs) for name, file in DOMAINS.items()}
    few = {name: data.subset(range(bench.pick(PASSAGES, 2))) for name, data in found.items()}
    rivals = {**models, "dynamic int8": dynamic_int8(bench.folder)}
    bench.say("timing SmolLM2")
    speed = [_speed(source.model, rivals, few["bbc"], threads, bench.pick(ROUNDS, 1)) for threads in THREADS]
    bench.say("judging SmolLM2 on four kinds of text")
    quality = {name: quality_of(source.model, surveyed.inputs, data, rivals) for name, data in few.items()}
    certified = _passages("bbc.calib.npz", surveyed.inputs).subset(range(bench.pick(CERTIFYING, 2)))
    bounds = {name: _bound(source.model, surveyed, model, certified) for name, model in models.items()}
    return {"speed": speed, "quality": quality, "bounds": bounds}


def _in_8_bits(surveyed: Surveyed, kinds: tuple[str, ...]) -> onnx.ModelProto:
    regions = [region for region in surveyed.survey.blocks if region.kind in kinds]
    return build_static(surveyed.model, [ungated(region, Bypass(KIND)) for region in regions])


def _passages(file: str, inputs: tuple[InputSpec, ...]) -> Dataset:
    return load_dataset(str(fetch("smollm2-text").files[file]), inputs)


def _speed(
    original: onnx.ModelProto, rivals: Mapping[str, onnx.ModelProto], data: Dataset, threads: int, rounds: int
) -> Json:
    items = batches(data, 1, input_specs(original))
    found: Json = {"batch_size": 1, "threads": threads, "rounds": rounds}
    for name, model in rivals.items():
        found[name] = speedup(original, model, items, threads, rounds, "in 8 bits")
    return found


def _bound(original: onnx.ModelProto, surveyed: Surveyed, model: onnx.ModelProto, data: Dataset) -> Json:
    """The mean loss and its upper bound, in an order drawn beforehand."""
    session, output = opened(original), original.graph.output[0].name
    loss = loss_for("perplexity", session, data, surveyed.inputs, output)
    losses = run_plain(opened(model), judge(session, data, surveyed.inputs, 1, output, loss=loss), loss)
    bound = upper_bound(losses, CONFIDENCE, binary=False)
    return {
        "samples": len(losses),
        "mean": rounded(float(losses.mean())),
        "bound": rounded(bound),
        "confidence": CONFIDENCE,
    }
