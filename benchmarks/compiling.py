"""One compilation in a process of its own, so that its peak memory can be told; `benchmarks.workbench` starts it.

It does what `skipc compile` does and keeps the alternative without gates as well, which the command line only times.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from benchmarks.machine import peak_memory_mib
from skipc.compiler.build import serialized
from skipc.compiler.console import Console
from skipc.compiler.data import input_specs, load_dataset
from skipc.compiler.pipeline import compile_model
from skipc.compiler.report import compile_text, details_json
from skipc.compiler.settings import Settings
from skipc.compiler.source import load_model
from skipc.runtime.errors import PromiseError, SkipcError

REFUSED = "refused.txt"
"""Says what was not gained, or which promise failed."""


def main(work: str) -> int:
    """Compile as the JSON object `work` says; the exit code is that of `skipc compile`."""
    start = time.perf_counter()
    job, console = json.loads(work), Console()
    folder = Path(job["folder"])
    try:
        source = load_model(Path(job["model"]))
        datasets = [load_dataset(spec, input_specs(source.model)) for spec in job["data"]]
        compiled = compile_model(source, datasets, Settings(**job["options"]), console)
    except SkipcError as error:
        console.error(error)
        if isinstance(error, PromiseError):
            (folder / REFUSED).write_text(str(error), encoding="utf-8")
        return error.exit_code
    seconds = time.perf_counter() - start
    memory = peak_memory_mib()
    (folder / "compiled.onnx").write_bytes(serialized(compiled.model))
    if compiled.static is not None:
        (folder / "static.onnx").write_bytes(serialized(compiled.static.model(compiled.surveyed)))
    (folder / "plan.json").write_text(compiled.plan.to_json(arrays=True), encoding="utf-8")
    details = details_json(compiled, str(folder / "compiled.onnx"), seconds)
    text = compile_text(details)
    measured = {"details": details, "text": text, "seconds": seconds, "peak_memory_mib": memory}
    # Last, since its presence says that the others are whole.
    (folder / "measured.json").write_text(json.dumps(measured), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
