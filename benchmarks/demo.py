"""The demo classifier: speed and accuracy, the original beside the compiled and the static model.

The compiled one is what skipc chooses, a second look; beside it stands the choice without one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

import models
from benchmarks.measures import bypassed, interval, judged_by_original, losses_of, outputs_of, rows, speedups
from benchmarks.workbench import Built, Job, Json, Workbench
from models import ModelsError
from skipc.compiler.data import Dataset
from skipc.compiler.running import Judged
from skipc.compiler.source import load_model
from skipc.compiler.survey import survey_model

BATCH_SIZES = (1, 8)
RIVAL: Mapping[str, object] = {"exclude": ("second-look",)}
"""Options that leave the second look out."""


def job(rival: bool = False) -> Job:
    """`skipc compile models/demo/demo.onnx`."""
    files = models.fetch("demo").files
    name, options = ("demo-gated", RIVAL) if rival else ("demo", {})
    return Job(name, files["demo.onnx"], (f"demo={files['demo.calib.npz']}",), options)


def run(bench: Workbench) -> Json:
    """Compile, then measure on data that the compiler never saw."""
    return {**_run(bench, bench.compiled(job())), "without second look": _run(bench, bench.compiled(job(rival=True)))}


def _run(bench: Workbench, built: Built) -> Json:
    test = built.data(models.fetch("demo").files["demo.test.npz"])
    surveyed = survey_model(load_model(job().model), None)
    bench.say("timing the demo")
    return {
        "compile": compile_summary(built),
        "speed": [speedups(built, test, size, 1, bench.pick(30, 2)) for size in BATCH_SIZES],
        "bypassed": [bypassed(built, test, size, surveyed) for size in BATCH_SIZES],
        "quality": {
            name: _quality(built, rows(data, range(len(data)), bench.pick(len(data), 200)))
            for name, data in {"demo.test": test, **_official(bench, built)}.items()
        },
    }


def compile_summary(built: Built) -> Json:
    """What the compilation promised and took."""
    names = ("certificate", "gates", "regions", "blocks", "static_blocks")
    kept = {name: built.details[name] for name in names}
    return {
        **kept,
        "text": built.text.splitlines(),
        "seconds": round(built.seconds, 1),
        "peak_memory_mib": round(built.peak_memory_mib),
    }


def _official(bench: Workbench, built: Built) -> Mapping[str, Dataset]:
    """The whole official test set; nothing where it cannot be had."""
    try:
        path = models.fetch("fashion-mnist").files["test.npz"]
    except ModelsError as error:
        bench.say(f"left out: {error}")
        return {}
    return {"fashion-mnist.test": built.data(f"official={path}")}


def _quality(built: Built, data: Dataset) -> Json:
    judged = judged_by_original(built, data)
    found: Json = {"samples": len(data), "accuracy": {"original": _accuracy(built.original, judged)}}
    found["disagreement"] = {}
    for name, model in (("gated", built.compiled), ("static", built.static)):
        if model is not None:
            found["accuracy"][name] = _accuracy(model, judged)
            found["disagreement"][name] = interval(losses_of(model, judged, "top1"), "mean")
    return found


def _accuracy(model: onnx.ModelProto, judged: Judged) -> Json:
    labels = np.concatenate([item for item in judged.labels if item is not None])
    return interval((outputs_of(model, judged).argmax(axis=-1) == labels).astype(np.float64), "mean")
