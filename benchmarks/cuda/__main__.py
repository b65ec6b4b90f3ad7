"""`python -m benchmarks.cuda`: what gates cost and save on a GPU, against honest opponents.

Results are written after every case, so that a run may be cut short; with --resume the next one goes on where it ended.
On the CPU provider it does the same and says so: that is a test of the benchmark, and no figure about a GPU.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.cuda.contenders import Field, opened_on
from benchmarks.cuda.measuring import compared, measured
from benchmarks.cuda.networks import DTYPES, SIZES, SMALL
from benchmarks.cuda.subject import QUARTERS, SHARE, Subject
from benchmarks.failure import BenchmarkError
from benchmarks.machine import circumstances
from benchmarks.workbench import Json
from models.errors import ModelsError
from skipc.passes.policy import POLICIES
from skipc.runtime.errors import SkipcError

REPOSITORY = Path(__file__).resolve().parent.parent.parent
SCHEMA = 1
BATCHES, QUICK_BATCHES = (8, 32, 1, 128), (1, 4)
GRANULARITIES = ("batch", "sample")
SECONDS, QUICK_SECONDS = 8.0, 0.5
NOTE = (
    "random weights, so latency only; decisions are set by the inputs, and everywhere but at `none` and `all` each "
    "gate bypasses its block for a quarter of the runs"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 1 where a provider or an answer is not what it should be."""
    options = _parser().parse_args(arguments)
    start = time.perf_counter()
    try:
        whole = _Run(options, start).measure()
    except (BenchmarkError, ModelsError, SkipcError) as error:
        _say(f"error: {error}")
        return 1
    return 0 if whole else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cuda", description=__doc__)
    parser.add_argument("--provider", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="a smoke test: small networks, few rounds")
    parser.add_argument("-o", "--out", type=Path, help="file for the results")
    parser.add_argument("--resume", action="store_true", help="keep what the file holds, and measure the rest")
    parser.add_argument("--budget", type=float, default=float("inf"), metavar="S", help="begin no case after S seconds")
    parser.add_argument("--seconds", type=float, metavar="S", help="for timing each case")
    parser.add_argument("--threads", type=int, default=0, help="of the CPU provider; 0 for all cores")
    parser.add_argument("--networks", nargs="+", choices=SIZES, default=list(SIZES), metavar="NAME")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES), metavar="TYPE")
    parser.add_argument("--batches", nargs="+", type=int, metavar="N")
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=list(POLICIES), metavar="POLICY")
    parser.add_argument("--granularities", nargs="+", choices=GRANULARITIES, default=list(GRANULARITIES), metavar="G")
    return parser


class _Run:
    """One run of the benchmark and the file that it fills.

    Args:
        options: of the command line.
        start: when it began, on `time.perf_counter`.
    """

    def __init__(self, options: argparse.Namespace, start: float) -> None:
        self._options, self._start = options, start
        kind = f"cuda-{options.provider}" if options.provider != "cuda" else "cuda"
        folder = REPOSITORY / "build" / "benchmarks" / "quick" if options.quick else REPOSITORY / "build" / "benchmarks"
        whole = options.provider == "cuda" and not options.quick
        self._out: Path = options.out or (REPOSITORY / "benchmarks" / "results" if whole else folder) / f"{kind}.json"
        self._work = folder / "cuda"
        self._sizes = SMALL if options.quick else SIZES
        self._batches: tuple[int, ...] = tuple(options.batches or (QUICK_BATCHES if options.quick else BATCHES))
        self._seconds: float = options.seconds or (QUICK_SECONDS if options.quick else SECONDS)
        self._subjects: dict[tuple[str, str], Subject] = {}
        self._found = self._begun()

    def measure(self) -> bool:
        """Measure what is not in the file yet; whether all could be measured and all answers were right."""
        smallest = Subject.of("chain", SMALL["chain"], "float32", self._work / "smallest")
        opened_on(smallest, smallest.model, self._options.provider, 1)
        for name in self._options.networks:
            for dtype in self._options.dtypes:
                left = [size for size in self._batches if _key(name, dtype, size) not in self._found["cases"]]
                if left and not self._is_over():
                    self._tried(name, dtype, left)
        done = len(self._found["cases"])
        self._found["left"] = self._left()
        self._write()
        _say(f"{self._out}: {done} cases, {len(self._found['left'])} left")
        equal = all(item["ok"] for found in self._found["equality"].values() for item in found.values())
        return equal and not self._found["errors"]

    def _tried(self, name: str, dtype: str, sizes: Sequence[int]) -> None:
        """All cases of one network in one type; if they fail, the others still get their turn."""
        self._found["errors"].pop(f"{name}, {dtype}", None)
        try:
            self._network(name, dtype, sizes)
        except Exception as error:  # memory and kernels of a device fail in classes of their own
            self._found["errors"][f"{name}, {dtype}"] = f"{type(error).__name__}: {error}"[:500]
            self._write()
            _say(f"error: {name}, {dtype}: {error}")

    def _network(self, name: str, dtype: str, sizes: Sequence[int]) -> None:
        """All cases of one network in one type, and how its answers compare with the CPU's."""
        _say(f"{name}, {dtype}: exporting, finding regions, opening sessions")
        options = self._options
        subject = self._subject(name, dtype)
        half = self._subject(name, "float16") if dtype != "float16" else None
        kinds = [(policy, granularity) for policy in options.policies for granularity in options.granularities]
        field = Field.of(subject, half, kinds, options.provider, options.threads)
        for size in sizes:
            if self._is_over():
                return
            self._found["cases"][_key(name, dtype, size)] = measured(field, size, self._seconds)
            self._write()
            _say(f"{_key(name, dtype, size)}: {self._elapsed():.0f} s")
        if f"{name}, {dtype}" not in self._found["equality"]:
            self._found["equality"][f"{name}, {dtype}"] = compared(field)
            self._write()

    def _subject(self, name: str, dtype: str) -> Subject:
        """A network, made once for both of its uses; of other networks nothing is kept."""
        self._subjects = {key: item for key, item in self._subjects.items() if key[0] == name}
        if (name, dtype) not in self._subjects:
            self._subjects[name, dtype] = Subject.of(name, self._sizes[name], dtype, self._work / f"{name}-{dtype}")
        return self._subjects[name, dtype]

    def _begun(self) -> Json:
        """The result so far, or an empty one."""
        about = {
            "schema": SCHEMA,
            "name": "cuda",
            "quick": self._options.quick,
            "provider": self._options.provider,
            "device": _device(self._options.provider),
        }
        if self._options.resume and self._out.exists():
            found: Json = json.loads(self._out.read_text(encoding="utf-8"))
            other = [key for key, value in about.items() if found.get(key) != value]
            if other:
                raise BenchmarkError(f"{self._out} holds results of another {', '.join(other)}")
            return found
        note = {"note": NOTE, "share": SHARE, "samples_in_turn": len(QUARTERS), "seconds_a_case": self._seconds}
        return {**about, **circumstances(REPOSITORY), **note, "left": [], "cases": {}, "equality": {}, "errors": {}}

    def _left(self) -> list[str]:
        wanted = [(name, dtype) for name in self._options.networks for dtype in self._options.dtypes]
        keys = [_key(*pair, size) for pair in wanted for size in self._batches]
        return [key for key in keys if key not in self._found["cases"]]

    def _elapsed(self) -> float:
        return time.perf_counter() - self._start

    def _is_over(self) -> bool:
        return self._elapsed() > self._options.budget

    def _write(self) -> None:
        self._out.parent.mkdir(parents=True, exist_ok=True)
        self._out.write_text(f"{json.dumps(self._found, indent=1)}\n", encoding="utf-8")


def _key(name: str, dtype: str, size: int) -> str:
    return f"{name}, {dtype}, batch {size}"


def _device(provider: str) -> dict[str, Any] | None:
    """Name, driver and memory of the GPU as its driver tells them; None for the CPU."""
    if provider != "cuda":
        return None
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise BenchmarkError(f"nvidia-smi tells of no GPU: {error}") from error
    name, driver, memory = (part.strip() for part in done.stdout.splitlines()[0].split(","))
    return {"gpu": name, "driver": driver, "memory": memory}


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
