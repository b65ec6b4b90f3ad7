"""all-MiniLM-L6-v2, compiled for film reviews: speed, damage on four domains, and what that does to a read-out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path

import numpy as np

import models
from benchmarks.demo import compile_summary
from benchmarks.measures import bypassed, interval, judged_by_original, losses_of, outputs_of, rows, speedups
from benchmarks.readout import Readout, fit_readout
from benchmarks.workbench import Built, Job, Json, Workbench
from models.recipes.vader import SEED, TEST
from skipc.compiler.data import Dataset
from skipc.compiler.running import Judged
from skipc.compiler.source import load_model
from skipc.compiler.survey import survey_model

RISK = 0.05
GENTLE_RISK = 0.02
ROUNDS = {1: 80, 8: 24, 32: 12}
"""By batch size: a round of large batches takes long, and its ratio varies little."""
BATCH_SIZES = tuple(ROUNDS)
THREADS = (1, 2)
OTHERS = ("amazon", "nyt", "tweets")
SENTENCES = 6000
"""At most; there are 2,500 fresh ones of films, and 3,708, 5,190 and 4,200 of the others."""
READOUT_SENTENCES = 4000


def job(risk: float = RISK) -> Job:
    """`skipc compile minilm.onnx --data films=films.calib.npz --loss cosine --risk ... --granularity sample`.

    By sample, so that one file can be measured at every batch size.
    """
    data = models.fetch("vader-minilm").files["films.calib.npz"]
    options = {"loss": "cosine", "risk": risk, "confidence": 0.95, "granularity": "sample", "portrait": False}
    return Job(f"minilm-{risk:g}", models.fetch("minilm").files["minilm.onnx"], (f"films={data}",), options)


def run(bench: Workbench) -> Json:
    """Compile at the risk that most would take, then measure on sentences that the compiler never saw."""
    return _measured(bench, RISK)


def run_gentle(bench: Workbench) -> Json:
    """The same at a smaller risk."""
    return _measured(bench, GENTLE_RISK)


def _measured(bench: Workbench, risk: float) -> Json:
    built = bench.compiled(job(risk))
    found = domains(built.data, bench.pick(SENTENCES, 60))
    surveyed = survey_model(load_model(job().model), None)
    bench.say("judging MiniLM on four domains")
    quality = _qualities(built, found, _readout(built, bench.pick(READOUT_SENTENCES, 120)))
    bench.say("timing MiniLM")
    points = list(product(BATCH_SIZES, THREADS))
    rounds = {size: bench.pick(count, 1) for size, count in ROUNDS.items()}
    return {
        "compile": compile_summary(built),
        "speed": [speedups(built, found["films"], size, threads, rounds[size]) for size, threads in points],
        "bypassed": {
            name: [bypassed(built, data, size, surveyed) for size in BATCH_SIZES] for name, data in found.items()
        },
        "quality": quality,
    }


def domains(load: Callable[[str | Path], Dataset], count: int) -> Mapping[str, Dataset]:
    """Fresh sentences of each domain; of films those that no compilation uses."""
    files = models.fetch("vader-minilm").files
    found = {"films": load(f"films={files['films.test.npz']}")}
    for name in OTHERS:
        data = load(files[f"{name}.npz"])
        found[name] = data.subset(np.random.default_rng(0).permutation(len(data)))
    return {name: rows(data, range(len(data)), count) for name, data in found.items()}


def _readout(built: Built, count: int) -> Readout:
    """Fitted on the original's embeddings of film sentences that are in neither the calibration nor the test sample."""
    films = built.data(models.fetch("vader-minilm").files["films.npz"])
    order = np.random.default_rng(SEED).permutation(len(films))
    judged = judged_by_original(built, rows(films, order[TEST.stop :], count))
    return fit_readout(np.concatenate(judged.references), _labels(judged))


def _labels(judged: Judged) -> np.ndarray:
    return np.concatenate([item for item in judged.labels if item is not None])


def _qualities(built: Built, domains: Mapping[str, Dataset], readout: Readout) -> Json:
    return {name: _quality(built, data, readout) for name, data in domains.items()}


def _quality(built: Built, data: Dataset, readout: Readout) -> Json:
    """Mean cosine distance to the original's embedding, accuracy, and its change in points, sentence by sentence."""
    judged = judged_by_original(built, data)
    before = readout.right(np.concatenate(judged.references), _labels(judged))
    found: Json = {"samples": len(data), "cosine_distance": {}, "accuracy": {"original": interval(before, "mean")}}
    found["accuracy_change_points"] = {}
    for name, model in (("gated", built.compiled), ("static", built.static)):
        if model is None:
            continue
        after = readout.right(outputs_of(model, judged), _labels(judged))
        found["cosine_distance"][name] = interval(losses_of(model, judged, "cosine"), "mean")
        found["accuracy"][name] = interval(after, "mean")
        found["accuracy_change_points"][name] = interval(100.0 * (after - before), "mean")
    return found
