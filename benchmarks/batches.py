"""MiniLM compiled for batches of mixed lengths, where each sample or token decides for itself."""

from __future__ import annotations

from dataclasses import replace

from benchmarks import minilm
from benchmarks.demo import compile_summary
from benchmarks.measures import bypassed, interval, judged_by_original, losses_of, rows, speedups
from benchmarks.workbench import Job, Json, Workbench
from skipc.compiler.report_measures import rounded
from skipc.compiler.source import load_model
from skipc.compiler.survey import survey_model

SIZES = (8, 32)
SENTENCES = 2500


def job(batch_size: int) -> Job:
    """The job of `minilm`, for batches of this size."""
    found = minilm.job()
    options = {**found.options, "granularity": "auto", "batch_size": batch_size}
    return replace(found, name=f"{found.name}-batch-{batch_size}", options=options)


def run(bench: Workbench) -> Json:
    """Speed at the size compiled for, beside what the bypassed share of time predicts, and damage on fresh films."""
    return {str(size): _measured(bench, size) for size in SIZES[: bench.pick(len(SIZES), 1)]}


def _measured(bench: Workbench, size: int) -> Json:
    built = bench.compiled(job(size))
    films = rows(minilm.domains(built.data, SENTENCES)["films"], range(SENTENCES), bench.pick(SENTENCES, 60))
    surveyed = survey_model(load_model(job(size).model), None)
    bench.say(f"timing MiniLM in batches of {size}")
    speed = speedups(built, films, size, 1, bench.pick(30, 1))
    skipped = bypassed(built, films, size, surveyed)
    predicted = 1.0 / (1.0 - skipped["time_share"])
    measured = speed["gated"]["speedup"]["median"]
    judged = judged_by_original(built, films)
    return {
        "compile": compile_summary(built),
        "speed": [speed],
        "bypassed": skipped,
        "predicted_speedup": rounded(predicted),
        "measured_over_predicted": rounded(measured / predicted),
        "granularity": {block.region.name: block.gate.granularity for block in built.plan.blocks},
        "damage": {
            name: interval(losses_of(model, judged, "cosine"), "mean")
            for name, model in (("gated", built.compiled), ("static", built.static))
            if model is not None
        },
    }
