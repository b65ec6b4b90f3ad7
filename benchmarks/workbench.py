"""What every benchmark is given: where to work, how thoroughly, and compilations that are done once a run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx

from benchmarks.compiling import REFUSED
from benchmarks.failure import BenchmarkError, RefusedError
from skipc.compiler.build import build_static, fixed, normalized
from skipc.compiler.data import Dataset, InputSpec, input_specs, load_dataset
from skipc.compiler.source import load_model
from skipc.passes.stamp import plan_of
from skipc.runtime.plan import Plan, plan_from_json

Json = dict[str, Any]

QUICK_OPTIONS: Mapping[str, Any] = {"bypass": "linear", "risk": 0.2}
"""What smoke tests compile with: few measurements, and a risk at which something is gained even in passing."""


@dataclass(frozen=True)
class Job:
    """A compilation.

    Attributes:
        name: of its files in the work folder.
        model: original.
        data: calibration data, as ``--data`` takes it.
        options: fields of `skipc.compiler.settings.Settings` that differ from the default.
    """

    name: str
    model: Path
    data: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Built:
    """What a compilation wrote.

    Attributes:
        original: as it was read.
        compiled: gated.
        static: the alternative without gates, None where there is none at this risk.
        details: the JSON of the compile report.
        text: what `skipc compile` prints of it.
        seconds: wall-clock time of the compilation.
        peak_memory_mib: the most memory that its process held.
    """

    original: onnx.ModelProto
    compiled: onnx.ModelProto
    static: onnx.ModelProto | None
    details: Json
    text: str
    seconds: float
    peak_memory_mib: float

    @property
    def plan(self) -> Plan:
        """The plan inside the compiled model."""
        return plan_of(self.compiled, where="")

    @property
    def fixed(self) -> onnx.ModelProto:
        """The original as it is compiled: with the target shapes that the plan fixes, and nothing else changed."""
        return fixed(normalized(self.original), self.plan.targets)

    @property
    def bare(self) -> onnx.ModelProto:
        """The same without padding where the compiled file leaves that out: all that is gained without a bypass."""
        return build_static(self.fixed, (), self.plan.padding)

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """What the models must be fed."""
        return input_specs(self.original)

    def data(self, spec: str | Path) -> Dataset:
        """A data set that fits the models."""
        return load_dataset(str(spec), self.inputs)


@dataclass(frozen=True)
class Workbench:
    """The surroundings of a benchmark.

    Attributes:
        repository: root of the checkout.
        folder: for compiled models.
        quick: whether this is a smoke test whose figures mean nothing.
        reuse: take compiled models of an earlier run.
        say: tells the user about progress.
    """

    repository: Path
    folder: Path
    quick: bool
    reuse: bool
    say: Callable[[str], None]
    _made: dict[str, Built] = field(default_factory=dict)

    def pick(self, thorough: int, quick: int) -> int:
        """A number of rounds or samples."""
        return quick if self.quick else thorough

    def compiled(self, job: Job) -> Built:
        """The result of a compilation, which runs in a process of its own, once for all benchmarks of a run.

        Raises:
            RefusedError: nothing was gained, or a promise failed; in the compiler's words.
            BenchmarkError: the compilation failed.
        """
        if job.name not in self._made:
            if self.quick:
                job = replace(job, options={**job.options, **QUICK_OPTIONS})
            folder = self.folder / job.name
            if not (self.reuse and (folder / "measured.json").exists()):
                self.say(f"compiling {job.name}")
                _compile(job, folder, self.repository)
            self._made[job.name] = _read(job, folder)
        return self._made[job.name]

    def plan_of(self, job: Job) -> Plan:
        """The plan of a compilation, arrays included; compiles where that is not done yet."""
        self.compiled(job)
        path = self.folder / job.name / "plan.json"
        return plan_from_json(path.read_text(encoding="utf-8"), where=str(path))


def _compile(job: Job, folder: Path, repository: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for left_over in folder.iterdir():
        left_over.unlink()
    work = {**asdict(job), "model": str(job.model), "folder": str(folder.relative_to(repository))}
    command = [sys.executable, "-m", "benchmarks.compiling", json.dumps(work)]
    done = subprocess.run(command, check=False, cwd=repository)
    if not done.returncode:
        return
    refused = folder / REFUSED
    if refused.exists():
        raise RefusedError(refused.read_text(encoding="utf-8"))
    raise BenchmarkError(f"compiling {job.name} failed with exit code {done.returncode}")


def _read(job: Job, folder: Path) -> Built:
    measured = json.loads((folder / "measured.json").read_text(encoding="utf-8"))
    static = folder / "static.onnx"
    return Built(
        original=load_model(job.model).model,
        compiled=load_model(folder / "compiled.onnx").model,
        static=load_model(static).model if static.exists() else None,
        details=measured["details"],
        text=measured["text"],
        seconds=measured["seconds"],
        peak_memory_mib=measured["peak_memory_mib"],
    )
