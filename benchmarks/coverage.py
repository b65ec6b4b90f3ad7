"""How often a certificate would be wrong: thousands of calibration sets, drawn from losses that were measured once.

For each model the configurations on the path of one compilation are run on samples that it never saw, and their losses
are stored, [configurations, samples]. The stored samples then stand for the whole world: their mean is the true risk. A
calibration set is drawn from them, the path is walked on it as `skipc compile` does, and the certificate is violated if
the risk of any configuration that passed exceeds the limit.

`python -m benchmarks.coverage demo minilm` measures the losses anew; `python -m benchmarks.run coverage` only draws.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measures import interval
from benchmarks.workbench import Job, Json, Workbench
from skipc.compiler.calibrate import fixed_sequence, p_value
from skipc.compiler.report_measures import rounded

FOLDER = Path(__file__).parent / "coverage_losses"
NAMES = ("demo", "minilm")
RESPLITS = 1000
CONFIDENCE = 0.95
HARD = 8
"""Configurations whose risk serves as a limit, spread over the path."""


Test = Callable[[NDArray[np.float64], float, bool], float]
"""(losses, limit, whether they are binary) → p-value."""


@dataclass(frozen=True)
class Losses:
    """What was measured of one path.

    Attributes:
        values: [configurations, samples], from gentle to bold.
        binary: whether losses are 0 or 1.
        limit: that the path was laid for.
        calibrate: samples that calibrated in that compilation.
    """

    values: NDArray[np.float64]
    binary: bool
    limit: float
    calibrate: int

    @property
    def risks(self) -> NDArray[np.float64]:
        """The true risk of each configuration."""
        return np.asarray(self.values.mean(axis=1))


def load(name: str) -> Losses:
    """The stored losses of a model."""
    with np.load(FOLDER / f"{name}.npz") as arrays:
        values = arrays["losses"].astype(np.float64)
        return Losses(values, bool(arrays["binary"]), float(arrays["limit"]), int(arrays["calibrate"]))


def limits_of(losses: Losses) -> dict[str, float]:
    """The limit of the compilation, and those at which a certificate is hardest to get right.

    Just below the risk of a configuration, whoever certifies it is wrong, if by a hair.
    """
    steps = np.unique(np.linspace(0, len(losses.risks) - 1, HARD).astype(int))
    hard = {f"below step {i + 1}": float(losses.risks[i]) * (1 - 1e-9) for i in steps if 0 < losses.risks[i] < 0.5}
    return {"compiled for": losses.limit, **hard}


def certified(losses: Losses, drawn: NDArray[np.int64], limit: float, delta: float, test: Test = p_value) -> int:
    """How many configurations pass on a calibration set, in order, as `skipc.compiler.certify` walks them."""
    passed = 0
    for row in losses.values:
        if fixed_sequence([test(row[drawn], limit, losses.binary)], delta) == 0:
            break
        passed += 1
    return passed


def violations(
    losses: Losses, limit: float, *, draws: int = RESPLITS, replace: bool = True, test: Test = p_value
) -> NDArray[np.bool_]:
    """Whether the certificate of each drawn calibration set is wrong, [draws].

    Args:
        losses: stored.
        limit: promised.
        draws: calibration sets.
        replace: draw with replacement, which makes samples independent, as the tests assume; without it a set is a
            part of a split, and its mean strays less.
        test: the p-value of losses; that of skipc.
    """
    wrong = losses.risks > limit
    random = np.random.default_rng(0)
    count = losses.calibrate if replace else min(losses.calibrate, losses.values.shape[1] // 2)
    sets = (random.choice(losses.values.shape[1], count, replace=replace) for _ in range(draws))
    return np.array([wrong[: certified(losses, drawn, limit, 1 - CONFIDENCE, test)].any() for drawn in sets])


def run(bench: Workbench) -> Json:
    """The share of wrong certificates, for each stored path and limit."""
    draws = bench.pick(RESPLITS, 50)
    return {"confidence": CONFIDENCE, "draws": draws, **{name: _shares(name, draws, bench) for name in NAMES}}


def _shares(name: str, draws: int, bench: Workbench) -> Json:
    bench.say(f"drawing calibration sets for {name}")
    losses = load(name)
    return {
        "configurations": len(losses.values),
        "samples": losses.values.shape[1],
        "calibrate": losses.calibrate,
        "violated": [
            {"limit": rounded(limit), "which": which, **_share(losses, limit, draws)}
            for which, limit in limits_of(losses).items()
        ],
    }


def _share(losses: Losses, limit: float, draws: int) -> Json:
    independent, resplit = (violations(losses, limit, draws=draws, replace=replace) for replace in (True, False))
    return {
        "independent": interval(independent.astype(np.float64), "mean"),
        "resplit": interval(resplit.astype(np.float64), "mean"),
    }


def _jobs() -> Mapping[str, tuple[Job, str]]:
    """What to compile, and the data never seen that the path is run on."""
    import models
    from benchmarks import demo, minilm

    films = models.fetch("vader-minilm").files["films.test.npz"]
    official = models.fetch("fashion-mnist").files["test.npz"]
    quick = {"bypass": "narrow", "exclude": ("attention.*", "layer.*")}
    job = minilm.job()
    narrow = Job(job.name, job.model, job.data, {**job.options, **quick})
    return {"demo": (demo.job(), f"official={official}"), "minilm": (narrow, f"films={films}")}


def measure(job: Job, fresh: str) -> Mapping[str, NDArray[np.generic]]:
    """Compile, and run every configuration of the path on data that the compiler never saw."""
    from skipc.compiler.console import Console
    from skipc.compiler.data import input_specs, load_dataset
    from skipc.compiler.pipeline import compile_model
    from skipc.compiler.planner import window_of
    from skipc.compiler.running import judge, run_gated
    from skipc.compiler.settings import Settings
    from skipc.compiler.source import load_model
    from skipc.runtime.session import open_session

    source, settings = load_model(job.model), Settings(**job.options)
    inputs = input_specs(source.model)
    compiled = compile_model(source, [load_dataset(spec, inputs) for spec in job.data], settings, Console())
    assert compiled.gated is not None
    assert compiled.loss is not None
    assert compiled.plan.certificate is not None
    original = open_session(source.model.SerializeToString())
    judged = judge(original, load_dataset(fresh, inputs), inputs, 1, compiled.plan.certificate.output)
    floors = [block.gate.floor for block in compiled.gated.blocks]
    windows = [window_of(step.thresholds, floors) for step in compiled.gated.path]
    rows = [run_gated(compiled.gated.model, window, judged, compiled.loss).losses for window in windows]
    return {
        "losses": np.stack(rows).astype(np.uint8 if compiled.loss.binary else np.float32),
        "binary": np.array(compiled.loss.binary),
        "limit": np.array(settings.risk),
        "calibrate": np.array(compiled.plan.certificate.samples),
    }


def main(names: Sequence[str]) -> None:
    """Measure the losses of these models and store them."""
    jobs = _jobs()
    for name in names or NAMES:
        found: dict[str, Any] = {**measure(*jobs[name])}
        np.savez_compressed(FOLDER / f"{name}.npz", **found)


if __name__ == "__main__":
    main(sys.argv[1:])
