"""Try many broken models: no crash, no traceback, no hang over 10 s, exit code 2 (or 0 and 1 where nothing is wrong).

python -m tests.fuzz [--cases 10000] [--first 0] [--seed 0] [-o FILE]     FILE gets one more entry, as JSON
python -m tests.fuzz --case N [--seed 0]                                  write the file of one case to stdout
"""

from __future__ import annotations

import argparse
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.machine import circumstances
from tests.fuzz.worker import bases, case

REPOSITORY = Path(__file__).resolve().parents[2]
TOTALS = ("cases", "findings")
CLOCKS = Path("/proc")

LONGEST_S = 10.0
"""Of work on one case; on a busy machine its answer may take longer."""

START_S = 60.0
"""A worker imports everything and builds its models before its first answer."""

LOCKED_S = 180.0
"""Without an answer, whether it works or waits."""


class Worker:
    """A process that answers case by case."""

    def __init__(self, seed: int) -> None:
        command = [sys.executable, "-m", "tests.fuzz.worker", str(seed)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._patience = START_S

    def ask(self, number: int) -> str:
        """What is wrong with a case; empty if nothing. Afterwards the worker may be dead."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{number}\n")
        self._process.stdin.flush()
        if not self._answers(self._patience):
            self.end()
            return f"no answer within {self._patience:g} s of work"
        self._patience = LONGEST_S
        line = self._process.stdout.readline()
        if not line:
            return f"the process died with {self._process.wait()}"
        return line.strip()

    def _answers(self, patience_s: float) -> bool:
        """Wait until there is an answer, or no more hope for one."""
        assert self._process.stdout
        asked, busy = time.monotonic(), self._busy_s()
        while not select.select([self._process.stdout], [], [], 1.0)[0]:
            waited = time.monotonic() - asked
            if waited > LOCKED_S or (self._busy_s() - busy if CLOCKS.exists() else waited) > patience_s:
                return False
        return True

    def _busy_s(self) -> float:
        """Processor time that the worker has used so far; 0 where the system does not tell."""
        path = CLOCKS / str(self._process.pid) / "stat"
        if not path.exists():
            return 0.0
        ticks = path.read_text(encoding="utf-8").rpartition(")")[2].split()[11:13]
        return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def end(self) -> None:
        """Stop it."""
        self._process.kill()
        self._process.communicate()


@contextmanager
def _ended(workers: list[Worker]) -> Iterator[None]:
    try:
        yield
    finally:
        for worker in workers:
            worker.end()


def findings(numbers: Sequence[int], seed: int) -> dict[int, str]:
    """What went wrong, by case."""
    found = {}
    workers = [Worker(seed)]
    with _ended(workers):
        for number in numbers:
            if not workers[0].alive:
                workers[0] = Worker(seed)
            what = workers[0].ask(number)
            if what:
                found[number] = what
                print(f"case {number}: {what}", flush=True)
    return found


def main(words: Sequence[str]) -> int:
    """Run the cases; 1 if anything was found."""
    options = _parser().parse_args(words)
    if options.case is not None:
        data, verb = case(options.case, options.seed, bases())
        print(f"skipc {verb}", file=sys.stderr)
        sys.stdout.buffer.write(data)
        return 0
    numbers = range(options.first, options.first + options.cases)
    found = findings(numbers, options.seed)
    print(f"{len(numbers)} cases, {len(found)} findings")
    if options.out:
        _record(options.out, {"seed": options.seed, "first": numbers.start, "cases": len(numbers), "findings": found})
    return 1 if found else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int)
    parser.add_argument("-o", "--out", type=Path)
    return parser


def _record(path: Path, run: dict[str, Any]) -> None:
    """Add a run to a file of results."""
    where = circumstances(REPOSITORY)
    earlier = json.loads(path.read_text(encoding="utf-8"))["runs"] if path.exists() else []
    runs = [*earlier, {"commit": where["commit"], **run}]
    total = {name: sum(item["cases"] if name == "cases" else len(item["findings"]) for item in runs) for name in TOTALS}
    path.write_text(f"{json.dumps({**where, **total, 'runs': runs}, indent=1)}\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
