"""EfficientNet-Lite0 on photographs: what skipc chooses, its choice without a second look, and static blocks.

The 478 photographs leave 191 to calibrate on, and a disagreement of 1 % needs 299 even if none is seen. Augmented views
of one photograph are no independent samples, so the risk is 5 %.
"""

from __future__ import annotations

import models
from benchmarks.demo import RIVAL, compile_summary
from benchmarks.failure import RefusedError
from benchmarks.measures import interval, judged_by_original, losses_of, speedups
from benchmarks.workbench import Built, Job, Json, Workbench
from skipc.compiler.data import split
from skipc.compiler.splits import SHARES

RISK = 0.05
BATCH_SIZES = (1, 8)


def job(rival: bool = False) -> Job:
    """`skipc compile efficientnet_lite0.onnx --data photos=photos.npz --loss top1 --risk 0.05`."""
    model = models.fetch("efficientnet-lite0").files["efficientnet_lite0.onnx"]
    data = models.fetch("photos").files["photos.npz"]
    options = {"loss": "top1", "risk": RISK, **(RIVAL if rival else {})}
    return Job("efficientnet-gated" if rival else "efficientnet", model, (f"photos={data}",), options)


def run(bench: Workbench) -> Json:
    """Compile with and without a second look, then measure on the photographs that neither has seen."""
    names = {"best": False, "without second look": True}
    return {name: _measured_or_refused(bench, job(rival)) for name, rival in names.items()}


def _measured_or_refused(bench: Workbench, work: Job) -> Json:
    """That nothing is gained at this risk is a result too."""
    try:
        return _measured(bench, bench.compiled(work))
    except RefusedError as error:
        return {"refused": str(error)}


def _measured(bench: Workbench, built: Built) -> Json:
    photos = built.data(job().data[0])
    test = photos.subset(split(len(photos), SHARES, 0)[2])
    judged = judged_by_original(built, test)
    made = (("gated", built.compiled), ("static", built.static))
    return {
        "compile": compile_summary(built),
        "speed": [speedups(built, test, size, 1, bench.pick(30, 1)) for size in BATCH_SIZES],
        "samples": len(test),
        "disagreement": {
            name: interval(losses_of(model, judged, "top1"), "mean") for name, model in made if model is not None
        },
    }
