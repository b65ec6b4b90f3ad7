"""What was measured once is found again, and nothing else is."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from skipc.compiler.cache import Cache, default_folder, digest
from skipc.compiler.impact import Costs
from skipc.compiler.moments import Moments, Observed
from skipc.compiler.running import Outcome
from skipc.runtime.plan import Bypass

VALUES = [
    0.1 + 0.2,
    float("-inf"),
    None,
    "words",
    (1, [2.5, True], {"a": (None,), "b": []}),
    np.arange(6, dtype=np.float32).reshape(2, 3),
    Costs(1.0, 2.0, np.array([0.5, np.nan]), np.zeros(2), 0.0),
    Outcome(
        np.ones(2),
        np.zeros(2),
        np.ones((1, 1), np.float32),
        (np.ones(3, np.float32), np.zeros(0, np.float32)),
        (np.ones((2, 1), np.float32), np.zeros((2, 1), np.float32)),
    ),
    {"block": Observed((Moments.none(2), Moments.none(2)), np.ones((4, 2), np.float32), 0.5, 0.25)},
    Bypass("linear", {"weight": np.eye(2, dtype=np.float32), "units": np.arange(2)}),
]


class Counted:
    """A measurement that says how often it was made."""

    def __init__(self, value: object) -> None:
        self.value = value
        self.times = 0

    def __call__(self) -> object:
        self.times += 1
        return self.value


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_comes_back_as_it_was(tmp_path: Path, value: object) -> None:
    measure = Counted(value)
    for _ in range(2):
        found = Cache(tmp_path).recall("kind", ("part",), measure)
        assert type(found) is type(value)
        assert digest(found) == digest(value)
    assert measure.times == 1


def test_it_counts_what_it_found_and_what_it_made(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    for part in (1, 2, 1, 1):
        cache.recall("kind", (part,), Counted(part))
    assert (cache.taken, cache.made) == (2, 2)


def test_without_a_folder_everything_is_measured() -> None:
    measure = Counted(1.0)
    assert [Cache().recall("kind", (), measure) for _ in range(2)] == [1.0, 1.0]
    assert measure.times == 2


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((1,), (2,)),
        ((1,), (1.0,)),
        (("ab", "c"), ("a", "bc")),
        ((b"ab", b"c"), (b"a", b"bc")),
        (([1, 2], 3), ([1], [2, 3])),
        ((np.zeros(2, np.float32),), (np.zeros(2, np.float64),)),
        ((np.zeros((2, 3)),), (np.zeros((3, 2)),)),
        (({"a": 1, "b": 2},), ({"a": 2, "b": 1},)),
        ((Moments.none(2),), (Moments.none(3),)),
    ],
)
def test_other_parts_have_another_digest(one: tuple[object, ...], other: tuple[object, ...]) -> None:
    assert digest(*one) != digest(*other)
    assert digest(*one) == digest(*one)


def test_a_function_has_no_digest() -> None:
    """Its name stays where its behaviour changes."""
    with pytest.raises(TypeError, match="no digest of a function"):
        digest(lambda: 1)


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    middle = data.index(b"\x93NUMPY") + 140
    return data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]


def of_another_class(data: bytes) -> bytes:
    """A file that names a class which is none of skipc's; the check sum of the archive no longer fits either."""
    return data.replace(b"skipc.compiler", b"elsew.compiler")


@pytest.mark.parametrize("damage", [truncated, flipped, of_another_class, lambda _: b"", lambda _: pickle.dumps(1)])
def test_a_damaged_entry_is_measured_anew(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    value = Costs(1.0, 2.0, np.arange(3.0), np.zeros(3), 0.0)
    measure = Counted(value)
    Cache(tmp_path).recall("kind", (), measure)
    (entry,) = tmp_path.iterdir()
    entry.write_bytes(damage(entry.read_bytes()))
    for _ in range(2):
        assert digest(Cache(tmp_path).recall("kind", (), measure)) == digest(value)
    assert measure.times == 2


def test_what_was_not_used_for_the_longest_time_goes(tmp_path: Path) -> None:
    size = 10_000
    cache = Cache(tmp_path, most_bytes=5 * size)
    for part in range(4):
        cache.recall("kind", (part,), Counted(np.zeros(size, np.uint8)))
        for entry in tmp_path.iterdir():
            before = entry.stat().st_mtime - 10
            os.utime(entry, (before, before))
    cache.recall("kind", (0,), Counted(None))
    for part in range(4, 6):
        cache.recall("kind", (part,), Counted(np.zeros(size, np.uint8)))
    assert sum(entry.stat().st_size for entry in tmp_path.iterdir()) <= 5 * size
    kept, gone = (Counted(np.zeros(size, np.uint8)) for _ in range(2))
    cache.recall("kind", (0,), kept)
    cache.recall("kind", (1,), gone)
    assert (gone.times, kept.times) == (1, 0)


def test_what_a_killed_process_left_goes(tmp_path: Path) -> None:
    old, new = (tmp_path / f".kind-0.npz.1.{number}" for number in range(2))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    Cache(tmp_path).recall("kind", (), Counted(1.0))
    assert (old.exists(), new.exists()) == (False, True)


def test_a_folder_that_cannot_be_made_is_no_reason_to_fail(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    assert Cache(tmp_path / "file" / "cache").recall("kind", (), Counted(1.0)) == 1.0


def test_what_is_half_written_is_no_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert Cache(tmp_path).recall("kind", (), Counted(1.0)) == 1.0
    assert list(tmp_path.iterdir()) == []


def test_where_it_lies() -> None:
    home = Path("/home/me")
    assert default_folder({}, home) == Path("/home/me/.cache/skipc/measurements")
    assert default_folder({"XDG_CACHE_HOME": "/xdg"}, home) == Path("/xdg/skipc/measurements")
    assert default_folder({"SKIPC_CACHE": "/own", "XDG_CACHE_HOME": "/xdg"}, home) == Path("/own/measurements")
