"""Try many broken models: no crash, no traceback, no hang over 10 s, exit code 2 (or 0 and 1 where nothing is wrong).

python -m tests.fuzz [CASES] [SEED]        10,000 cases by default
python -m tests.fuzz --case N [SEED]       write the file of one case to stdout
"""

from __future__ import annotations

import select
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.fuzz.worker import bases, case

LONGEST_S = 10.0

START_S = 60.0
"""A worker imports everything and builds its models before its first answer."""


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
        ready, _, _ = select.select([self._process.stdout], [], [], self._patience)
        self._patience = LONGEST_S
        if not ready:
            self.end()
            return f"no answer within {LONGEST_S:g} s"
        line = self._process.stdout.readline()
        if not line:
            return f"the process died with {self._process.wait()}"
        return line.strip()

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
    if words[:1] == ["--case"]:
        data, verb = case(int(words[1]), int(words[2]) if words[2:] else 0, bases())
        print(f"skipc {verb}", file=sys.stderr)
        sys.stdout.buffer.write(data)
        return 0
    cases, seed = (int(word) for word in (*words, *("10000", "0")[len(words) :]))
    found = findings(range(cases), seed)
    print(f"{cases} cases, {len(found)} findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
