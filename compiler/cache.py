"""Measurements kept on disk, so that work that was interrupted goes on where it stopped.

An entry is what one measurement gave, under the digest of all that it depends on: model, data and settings as its
caller lists them, and with them the source of skipc, the versions of the packages that it runs on, and the machine.
Losses come out the same when they are measured again; times do not, so a compilation that finds its times here decides
as the one that measured them did. What was promised is never taken from here: verification and the final timing always
run.
"""

from __future__ import annotations

import hashlib
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import onnx

from skipc.compiler.build import versions
from skipc.compiler.cached_values import decoded, encoded
from skipc.compiler.console import Console
from skipc.compiler.latency import processor
from skipc.compiler.progress import Progress

Value = TypeVar("Value")

MOST_BYTES = 4 * 2**30
"""Of all entries together; beyond it those go that were not used for the longest time."""

LEAST_LEFT = 0.75
"""Share of `MOST_BYTES` that is kept when entries go, so that this does not happen every time."""

STRAY_S = 3600.0
"""A file that was not finished after so long belongs to a process that is gone."""

SUFFIX = ".npz"


class Cache:
    """A folder of measurements; without a folder everything is measured.

    Args:
        folder: made where it is missing; None to keep nothing.
        most_bytes: of all entries together.

    Attributes:
        taken: measurements that were found.
        made: measurements that had to be made.
    """

    def __init__(self, folder: Path | None = None, most_bytes: int = MOST_BYTES) -> None:
        self.taken = 0
        self.made = 0
        self._folder = folder
        self._most_bytes = most_bytes

    @property
    def keeps(self) -> bool:
        """Whether anything is kept."""
        return self._folder is not None

    def recall(self, kind: str, parts: Sequence[object], measure: Callable[[], Value]) -> Value:
        """What was measured before for the same parts, or else measure it now and keep it.

        Args:
            kind: what is measured; the beginning of the entry's name.
            parts: everything that the result depends on; see `digest`.
            measure: gives numbers, strings, arrays, and tuples, dicts or dataclasses of skipc that hold such.
        """
        if self._folder is None:
            self.made += 1
            return measure()
        path = self._folder / f"{kind}-{digest(_circumstances(), kind, *parts)}{SUFFIX}"
        found = _read(path)
        if found is not None:
            self.taken += 1
            value: Value = found[0]
            return value
        self.made += 1
        fresh = measure()
        self._keep(path, fresh)
        return fresh

    def _keep(self, path: Path, value: object) -> None:
        """Write an entry whole or not at all; a disk that is full or read-only is no reason to fail."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        arrays = encoded(value)
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("wb") as file:
                    np.savez(file, **cast(Any, arrays))
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
            self._prune(path.parent)

    def _prune(self, folder: Path) -> None:
        """Remove what a killed process left, and what was not used for the longest time where it is too much."""
        for path in folder.glob(f".*{SUFFIX}.*"):
            if time.time() - path.stat().st_mtime > STRAY_S:
                path.unlink(missing_ok=True)
        found = [(path.stat(), path) for path in folder.glob(f"*{SUFFIX}")]
        entries = sorted(found, key=lambda entry: entry[0].st_mtime)
        total = sum(stat.st_size for stat, _ in entries)
        if total <= self._most_bytes:
            return
        for stat, path in entries:
            if total <= LEAST_LEFT * self._most_bytes:
                break
            path.unlink(missing_ok=True)
            total -= stat.st_size


@contextmanager
def measuring(console: Console, title: str, cache: Cache) -> Iterator[Progress]:
    """A stage that says how many of its measurements were found in the cache."""
    taken, made = cache.taken, cache.made

    def note() -> str:
        found, fresh = cache.taken - taken, cache.made - made
        return f"{found} of {found + fresh} measurements from the cache" if found else ""

    with console.stage(title, note) as progress:
        yield progress


def default_folder(environment: Mapping[str, str], home: Path) -> Path:
    """`measurements` under ``$SKIPC_CACHE``, ``$XDG_CACHE_HOME/skipc`` or ``~/.cache/skipc``."""
    if chosen := environment.get("SKIPC_CACHE"):
        return Path(chosen).expanduser().absolute() / "measurements"
    base = environment.get("XDG_CACHE_HOME")
    return (Path(base) if base else home / ".cache") / "skipc" / "measurements"


def digest(*parts: object) -> str:
    """SHA-256 of values: numbers, strings, bytes, arrays, models, and sequences, mappings or dataclasses of such.

    Raises:
        TypeError: a part is anything else, such as a function, whose behaviour no digest can tell.
    """
    sha = hashlib.sha256()
    for part in parts:
        _update(sha, part)
    return sha.hexdigest()


def _update(sha: hashlib._Hash, part: Any) -> None:
    sha.update(f"{type(part).__name__}\0".encode())
    if part is None or isinstance(part, (bool, int, float, str)):
        sha.update(f"{part!r}\0".encode())
    elif isinstance(part, bytes):
        sha.update(f"{len(part)}\0".encode() + part)
    elif isinstance(part, (np.ndarray, np.generic)):
        array = np.asarray(part)
        sha.update(f"{array.dtype.str}\0{array.shape}\0".encode())
        sha.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    elif isinstance(part, onnx.ModelProto):
        _update(sha, part.SerializeToString(deterministic=True))
    elif isinstance(part, Mapping):
        _update(sha, [item for key in sorted(part, key=str) for item in (key, part[key])])
    elif isinstance(part, Sequence):
        sha.update(f"{len(part)}\0".encode())
        for item in part:
            _update(sha, item)
    elif is_dataclass(part) and not isinstance(part, type):
        _update(sha, {field.name: getattr(part, field.name) for field in fields(part)})
    else:
        raise TypeError(f"no digest of a {type(part).__name__}")


@cache
def _circumstances() -> str:
    """Digest of what every measurement depends on: skipc's own source, the packages, the machine."""
    rooms = Path(__file__).resolve().parent.parent
    sources = [path for room in ("compiler", "passes", "runtime") for path in sorted((rooms / room).glob("*.py"))]
    machine = (processor(), platform.machine(), os.cpu_count())
    return digest([path.read_bytes() for path in sources], versions(), machine)


def _read(path: Path) -> tuple[Any] | None:
    """The value of an entry; None where there is none, or where it is damaged in any way."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            value = decoded(arrays)
        os.utime(path)
    except Exception:  # whatever damage makes zipfile, json or numpy say, it means that there is no such entry
        return None
    return (value,)
