"""SmolLM2-135M, compiled for news: prefill of 128 tokens, perplexity, next-token agreement, on text of four kinds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

import models
from benchmarks.demo import compile_summary
from benchmarks.int8 import quantized
from benchmarks.measures import bypassed, interval, opened, rows, speedup, speedups
from benchmarks.workbench import Built, Job, Json, Workbench
from skipc.compiler.data import Dataset, InputSpec, batches
from skipc.compiler.loss import Loss
from skipc.compiler.perplexity import perplexity
from skipc.compiler.report_measures import rounded
from skipc.compiler.running import Judged, in_parallel, judge, loss_for
from skipc.compiler.source import load_model
from skipc.compiler.survey import survey_model

RISK = 0.048
"""Nats a token: a ratio of perplexities of at most 1.05."""

THREADS = (1, 2)
ROUNDS = 30
PASSAGES = 60
DOMAINS = {"bbc": "bbc.test.npz", "nyt": "nyt.npz", "films": "films.npz", "amazon": "amazon.npz"}


def job() -> Job:
    """`skipc compile smollm2.onnx --data bbc=bbc.calib.npz --loss perplexity --risk 0.048 --bypass int8 ...`.

    The feed-forward blocks only, and one decision for each passage.
    """
    data = models.fetch("smollm2-text").files["bbc.calib.npz"]
    options = {
        "loss": "perplexity",
        "risk": RISK,
        "bypass": "int8",
        "granularity": "batch",
        "exclude": ("attention.*", "layer.*"),
        "portrait": False,
    }
    return Job("smollm2-compiled", models.fetch("smollm2").files["smollm2.onnx"], (f"bbc={data}",), options)


def run(bench: Workbench) -> Json:
    """Compile, then measure on passages that the compiler never saw; beside it ONNX Runtime's own dynamic int8."""
    built = bench.compiled(job())
    found = domains(built, bench.pick(PASSAGES, 4))
    int8 = dynamic_int8(bench.folder)
    surveyed = survey_model(load_model(job().model), None)
    bench.say("judging SmolLM2 on four kinds of text")
    contestants = {"gated": built.compiled, "static": built.static, "dynamic int8": int8}
    quality = {name: quality_of(built.original, built.inputs, data, contestants) for name, data in found.items()}
    bench.say("timing SmolLM2")
    rounds = bench.pick(ROUNDS, 1)
    speed = [speedups(built, found["bbc"], 1, threads, rounds) for threads in THREADS]
    return {
        "compile": compile_summary(built),
        "speed": speed,
        "dynamic int8": [_rival(built, int8, found["bbc"], threads, rounds) for threads in THREADS],
        "bypassed": {name: [bypassed(built, data, 1, surveyed)] for name, data in found.items()},
        "quality": quality,
    }


def dynamic_int8(folder: Path) -> onnx.ModelProto:
    """What ONNX Runtime's dynamic quantization makes of the original."""
    path = folder / "smollm2.int8.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        quantized(job().model, path)
    return load_model(path).model


def domains(built: Built, count: int) -> Mapping[str, Dataset]:
    """Fresh passages of each kind; only the first is of the kind that was calibrated on."""
    files = models.fetch("smollm2-text").files
    found = {name: built.data(files[file]) for name, file in DOMAINS.items()}
    return {name: rows(data, range(len(data)), count) for name, data in found.items()}


def _rival(built: Built, model: onnx.ModelProto, data: Dataset, threads: int, rounds: int) -> Json:
    """Dynamic int8 against the original."""
    items = batches(data, 1, built.inputs)
    return {"threads": threads, **speedup(built.original, model, items, threads, rounds, "dynamic int8")}


def quality_of(
    original: onnx.ModelProto,
    inputs: Sequence[InputSpec],
    data: Dataset,
    contestants: Mapping[str, onnx.ModelProto | None],
) -> Json:
    """Perplexity over the original's, and how often the likeliest next token is the same, with 95 % intervals."""
    session, output = opened(original), original.graph.output[0].name
    loss: Loss = loss_for("perplexity", session, data, inputs, output)
    judged = judge(session, data, inputs, 1, output, loss=loss)
    before = np.concatenate([_mean_loss(kept) for kept in judged.references])
    found: Json = {"samples": len(data), "perplexity": rounded(float(np.exp(before.mean())))}
    found |= {"perplexity_ratio": {}, "agreement": {}}
    for name, model in contestants.items():
        if model is None:
            continue
        rise, agreement = _against(model, judged)
        ratio = {key: rounded(float(np.exp(value))) for key, value in interval(rise, "mean").items()}
        found["perplexity_ratio"][name] = ratio
        found["agreement"][name] = interval(agreement, "mean")
    return found


def _against(model: onnx.ModelProto, judged: Judged) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rise of the log-perplexity and share of places with the same likeliest token, [passages] each."""
    session = opened(model)

    def both(position: int) -> tuple[float, float]:
        kept = judged.references[position]
        output = session.run(judged.items[position].feeds, [judged.output])[judged.output]
        return float(perplexity(kept, output, None)[0]), float((_likeliest(kept) == output.argmax(-1)[0, :-1]).mean())

    rises, agreements = zip(*in_parallel(both, range(len(judged.items))), strict=True)
    return np.array(rises), np.array(agreements)


def _likeliest(kept: NDArray[np.float32]) -> NDArray[np.int64]:
    """The original's likeliest next token at each place of one passage, without the last."""
    ids, chances = np.split(kept[0, :-1, 2:], 2, axis=1)
    return np.take_along_axis(ids, chances.argmax(axis=1)[:, None], axis=1)[:, 0].astype(np.int64)


def _mean_loss(kept: NDArray[np.float32]) -> NDArray[np.float64]:
    """The original's log-perplexity of each passage."""
    return np.asarray(-np.nanmean(kept[..., 1].astype(np.float64), axis=1))
