"""The decision log: one JSON line a request, written by a thread of its own that never holds up inference."""

from __future__ import annotations

import atexit
import random
import threading
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from skipc.runtime.answer import Answer, Facts, Feeds
from skipc.runtime.errors import InputError
from skipc.runtime.lines import Told, line
from skipc.runtime.plan import Array

if TYPE_CHECKING:
    from types import TracebackType

    from skipc.runtime.deployed import Session


Kept = tuple[Facts, Feeds, Mapping[str, Array]]
"""What the writer needs of a request: facts, and copies of inputs and outputs, or none."""

NOTHING: Mapping[str, Array] = {}

PAUSE_S = 0.05
"""From one look at what waits to the next: waking the writer for each request costs the request 40 µs more."""


class DecisionLog:
    """Logs a sample of all requests. An observer of a `Session`; close it, or use it as a context, to lose nothing.

    Args:
        path: the file; lines are appended. Full ones are kept as ``PATH.1`` (the newest) to ``PATH.<files>``.
        sample: share of requests that are logged, chosen at random.
        keep_inputs: also log what a replay needs; inputs may be private, and are large.
        max_bytes: a file that has grown to this is full.
        files: full ones that are kept.
        waiting: requests that may wait for the writer; more are dropped, and counted.
        seed: of the choice.

    Raises:
        InputError: ``log-unwritable``.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        sample: float = 1.0,
        keep_inputs: bool = False,
        max_bytes: int = 64 << 20,
        files: int = 5,
        waiting: int = 10_000,
        seed: int = 0,
    ) -> None:
        self._path, self._max_bytes, self._files = Path(path), max_bytes, files
        self._sample, self._keep_inputs = sample, keep_inputs
        self._random = random.Random(seed)
        self._most_waiting = waiting
        self._waiting: deque[Kept] = deque()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._told: Told = {}
        self._written = self._dropped = 0
        try:
            self._file = self._path.open("ab")
        except OSError as error:
            what = f"cannot write the decision log: {error.strerror or error}"
            raise InputError("log-unwritable", what, where=str(path), hint="name another file") from error
        self._writer = threading.Thread(target=self._write_all, name="skipc decision log", daemon=True)
        self._writer.start()
        atexit.register(self.close)

    @property
    def written(self) -> int:
        """Requests that were logged."""
        return self._written

    @property
    def dropped(self) -> int:
        """Requests that were to be logged and were not: the writer was behind, or the disk refused."""
        return self._dropped

    def attach(self, session: Session) -> None:
        """See `Observer.attach`; one log can serve several sessions."""

    def observe(self, answer: Answer) -> None:
        """See `Observer.observe`."""
        if self._sample < 1.0 and self._random.random() >= self._sample:
            return
        if self._closed.is_set() or len(self._waiting) >= self._most_waiting:
            self._drop()
        else:
            self._waiting.append(self._kept(answer) if self._keep_inputs else (answer.facts, NOTHING, NOTHING))

    def _kept(self, answer: Answer) -> Kept:
        """Copies: the caller may change its own meanwhile."""
        feeds, outputs = (
            {name: np.array(array) for name, array in kept.items()} for kept in (answer.feeds, answer.outputs)
        )
        return answer.facts, feeds, outputs

    def _drop(self) -> None:
        with self._lock:
            self._dropped += 1

    def _write_all(self) -> None:
        while not self._closed.wait(PAUSE_S):
            self._write_waiting()
        self._write_waiting()

    def _write_waiting(self) -> None:
        """Write what waits. The log must not end the service: a full disk may have room again later."""
        while self._waiting:
            try:
                self._write(*self._waiting.popleft())
                self._written += 1
            except (OSError, ValueError):
                self._drop()
        with suppress(OSError):
            self._file.flush()

    def _write(self, facts: Facts, feeds: Feeds, outputs: Mapping[str, Array]) -> None:
        if self._file.tell() >= self._max_bytes:
            self._rotate()
        self._file.write(line(facts, feeds, outputs, self._dropped, self._told).encode() + b"\n")

    def _rotate(self) -> None:
        self._file.close()
        paths = [self._path, *(self._path.with_name(f"{self._path.name}.{k + 1}") for k in range(self._files))]
        for older, newer in zip(reversed(paths[1:]), reversed(paths[:-1]), strict=True):
            if newer.exists():
                newer.replace(older)
        self._file = self._path.open("wb")

    def close(self) -> None:
        """Write what is waiting, and end; what comes later is dropped."""
        if not self._closed.is_set():
            self._closed.set()
            self._writer.join()
            self._file.close()
            while self._waiting:
                self._waiting.pop()
                self._drop()
        atexit.unregister(self.close)

    def __enter__(self) -> DecisionLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
