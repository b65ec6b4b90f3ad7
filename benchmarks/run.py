"""`python -m benchmarks.run [NAME...]`: measure, and write one JSON file for each benchmark."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.failure import BenchmarkError
from benchmarks.machine import circumstances
from benchmarks.suite import BENCHMARKS
from benchmarks.workbench import Workbench
from models import ModelsError
from skipc.runtime.errors import SkipcError

REPOSITORY = Path(__file__).resolve().parent.parent
SCHEMA = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 1 where a benchmark gave no result, 2 for bad usage."""
    options = _parser().parse_args(arguments)
    work = REPOSITORY / "build" / "benchmarks"
    out = options.out or (work / "quick" if options.quick else REPOSITORY / "benchmarks" / "results")
    bench = Workbench(REPOSITORY, work / "quick" if options.quick else work, options.quick, options.reuse, _say)
    out.mkdir(parents=True, exist_ok=True)
    failed = [name for name in options.names or BENCHMARKS if not _measure(name, bench, out)]
    if failed:
        _say(f"no result: {', '.join(failed)}")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[[], *BENCHMARKS], help=", ".join(BENCHMARKS))
    parser.add_argument("--quick", action="store_true", help="a smoke test: few rounds, into build/benchmarks/quick")
    parser.add_argument("--reuse", action="store_true", help="take the compiled models of an earlier run")
    parser.add_argument("--out", type=Path, help="folder for the results")
    return parser


def _measure(name: str, bench: Workbench, out: Path) -> bool:
    """Run one benchmark and write its result; a failed one leaves an earlier result alone."""
    start = time.perf_counter()
    try:
        results = BENCHMARKS[name](bench)
    except (BenchmarkError, ModelsError, SkipcError) as error:
        _say(f"error: {name}: {error}")
        return False
    seconds = round(time.perf_counter() - start, 1)
    found = {"schema": SCHEMA, "name": name, "quick": bench.quick, **circumstances(bench.repository)}
    text = json.dumps({**found, "seconds": seconds, "results": results}, indent=1)
    path = out / f"{name}.json"
    path.write_text(f"{text}\n", encoding="utf-8")
    _say(f"{name}: {path} ({seconds:.0f} s)")
    return True


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
