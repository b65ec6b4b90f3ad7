"""All files or none, whatever fails and whenever."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skipc.compiler.emit import check_writable, write_all
from skipc.runtime.errors import InputError

DEAD_PROCESS = 4_194_305
"""Above the largest process number that Linux gives out, 2²²."""

NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
FAILURES = [NO_SPACE, KeyboardInterrupt(), MemoryError()]

posix_only = pytest.mark.skipif(os.name != "posix", reason="signals and permissions of POSIX")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def outputs(folder: Path) -> dict[Path, bytes]:
    """A new file, one that replaces an old one, and the model last."""
    return {folder / "m.report.html": b"report", folder / "m.plan.json": b"plan", folder / "m.onnx": b"model"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "m.plan.json").write_bytes(b"old plan")
    (tmp_path / "m.onnx").write_bytes(b"old model")
    return tmp_path


def fail_at(call: int, failure: BaseException, real: Callable[..., Any]) -> Callable[..., Any]:
    """The real function, except that one call (counted from 0) and no other raises."""
    calls = 0

    def fake(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call + 1:
            raise failure
        return real(*arguments, **options)

    return fake


def test_writes_everything_and_leaves_nothing_else(folder: Path) -> None:
    write_all(outputs(folder))
    assert contents(folder) == {"m.report.html": b"report", "m.plan.json": b"plan", "m.onnx": b"model"}


def test_the_model_appears_last(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    appeared: list[str] = []
    real = Path.replace

    def recording(self: Path, target: Path) -> Path:
        appeared.append(target.name)
        return real(self, target)

    monkeypatch.setattr(Path, "replace", recording)
    write_all(outputs(folder))
    assert appeared == ["m.report.html", "m.plan.json", "m.onnx"]


@pytest.mark.parametrize("failure", FAILURES, ids=["no space", "interrupt", "no memory"])
@pytest.mark.parametrize("call", [0, 1, 2])
@pytest.mark.parametrize(
    ("place", "function"),
    [(Path, "open"), (os, "fsync"), (Path, "replace")],
    ids=["open", "fsync", "replace"],
)
def test_a_failure_at_any_step_changes_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, place: Any, function: str, call: int, failure: BaseException
) -> None:
    before = contents(folder)
    with monkeypatch.context() as patch:
        patch.setattr(place, function, fail_at(call, failure, getattr(place, function)))
        with pytest.raises(InputError if isinstance(failure, OSError) else type(failure)):
            write_all(outputs(folder))
    assert contents(folder) == before


@pytest.mark.parametrize("failure", FAILURES, ids=["no space", "interrupt", "no memory"])
@pytest.mark.parametrize("call", [0, 1])
def test_a_failure_to_keep_the_old_content_changes_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, call: int, failure: BaseException
) -> None:
    before = contents(folder)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "hardlink_to", _no_links)
        patch.setattr(shutil, "copy2", fail_at(call, failure, shutil.copy2))
        with pytest.raises(InputError if isinstance(failure, OSError) else type(failure)):
            write_all(outputs(folder))
    assert contents(folder) == before


def _no_links(*_: object) -> None:
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


@pytest.mark.parametrize("call", [0, 1, 2])
def test_an_interrupt_right_after_a_rename_is_undone(folder: Path, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    before = contents(folder)
    real, calls = Path.replace, 0

    def interrupted(self: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        renamed = real(self, target)
        if calls == call + 1:
            raise KeyboardInterrupt
        return renamed

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_all(outputs(folder))
    assert contents(folder) == before


def test_without_hard_links_the_old_content_is_copied(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(folder)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "hardlink_to", _no_links)
        patch.setattr(Path, "replace", fail_at(2, NO_SPACE, Path.replace))
        with pytest.raises(InputError):
            write_all(outputs(folder))
    assert contents(folder) == before


def test_says_what_the_operating_system_says(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", fail_at(2, NO_SPACE, os.fsync))
    with pytest.raises(InputError, match=os.strerror(errno.ENOSPC)) as caught:
        write_all(outputs(folder))
    assert caught.value.code == "output-write-failed"
    assert caught.value.where == str(folder / "m.onnx")
    assert caught.value.__cause__ is NO_SPACE


def test_old_content_that_cannot_be_put_back_is_named_and_left(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = Path.replace, 0

    def failing(self: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls > 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(InputError, match="could not be put back") as caught:
        write_all(outputs(folder))
    kept = folder / f".m.plan.json.{os.getpid()}.old.skipc-tmp"
    assert str(kept) in caught.value.what
    assert contents(folder) == {"m.plan.json": b"plan", "m.onnx": b"old model", kept.name: b"old plan"}


def test_leftovers_of_dead_processes_are_removed_and_others_stay(folder: Path) -> None:
    dead = [f".m.onnx.{DEAD_PROCESS}.skipc-tmp", f".m.plan.json.{DEAD_PROCESS}.old.skipc-tmp"]
    others = [
        f".m.onnx.{os.getppid()}.skipc-tmp",
        f".n.onnx.{DEAD_PROCESS}.skipc-tmp",
        ".m.onnx.notes.skipc-tmp",
        f".m.onnx.{DEAD_PROCESS}.skipc-tmp.txt",
    ]
    for name in dead + others:
        (folder / name).touch()
    write_all(outputs(folder))
    assert {path.name for path in folder.iterdir()} == {"m.report.html", "m.plan.json", "m.onnx", *others}


@posix_only
def test_a_file_keeps_its_permissions(folder: Path) -> None:
    (folder / "m.onnx").chmod(0o640)
    write_all(outputs(folder))
    assert stat.S_IMODE((folder / "m.onnx").stat().st_mode) == 0o640


@posix_only
def test_a_link_stays_a_link(folder: Path) -> None:
    link = folder / "latest.onnx"
    link.symlink_to(folder / "m.onnx")
    write_all({link: b"model"})
    assert link.is_symlink()
    assert (folder / "m.onnx").read_bytes() == b"model"


def test_one_file_under_two_names_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="same file"):
        write_all({folder / "m.onnx": b"one", folder / "." / ".." / folder.name / "m.onnx": b"other"})
    assert (folder / "m.onnx").read_bytes() == b"old model"


def test_check_accepts_a_new_file_and_an_old_one(folder: Path) -> None:
    before = contents(folder)
    check_writable(folder / "m.onnx")
    check_writable(folder / "new.onnx")
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("name", "words"),
    [("", "is a folder"), ("missing/m.onnx", "does not exist"), ("m.onnx/m.onnx", "does not exist")],
)
def test_check_refuses_what_cannot_be_written(folder: Path, name: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        check_writable(folder / name)
    assert caught.value.code == "output-unwritable"
    assert caught.value.where == str(folder / name)


@posix_only
def test_check_refuses_a_device() -> None:
    with pytest.raises(InputError, match="ordinary file"):
        check_writable(Path(os.devnull))


@posix_only
def test_check_refuses_a_circle_of_links(folder: Path) -> None:
    (folder / "circle.onnx").symlink_to(folder / "circle.onnx")
    with pytest.raises(InputError, match="cannot be reached"):
        check_writable(folder / "circle.onnx")


def test_check_refuses_a_folder_without_permission(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is faked, since the superuser may write anywhere."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match="cannot be written to"):
        check_writable(folder / "m.onnx")


KILLED = """
import os, sys, time
from pathlib import Path
from skipc.compiler import emit

def hang(*_):
    print("waiting", flush=True)
    time.sleep(60)

owner = {"os": os, "Path": Path}[sys.argv[2]]
real, left = getattr(owner, sys.argv[3]), int(sys.argv[4])

def step(*arguments):
    global left
    left -= 1
    return hang() if left < 0 else real(*arguments)

setattr(owner, sys.argv[3], step)
folder = Path(sys.argv[1])
emit.write_all({folder / "m.report.html": b"report", folder / "m.plan.json": b"plan", folder / "m.onnx": b"model"})
"""


@posix_only
@pytest.mark.parametrize(
    ("step", "calls", "expected"),
    [
        (("os", "fsync"), 1, {"m.plan.json": b"old plan", "m.onnx": b"old model"}),
        (("Path", "replace"), 0, {"m.plan.json": b"old plan", "m.onnx": b"old model"}),
        (("Path", "replace"), 2, {"m.report.html": b"report", "m.plan.json": b"plan", "m.onnx": b"old model"}),
    ],
    ids=["while writing", "before the first rename", "before the last rename"],
)
def test_a_kill_leaves_whole_files_and_the_next_run_cleans_up(
    folder: Path, step: tuple[str, str], calls: int, expected: dict[str, bytes]
) -> None:
    command = [sys.executable, "-c", KILLED, str(folder), *step, str(calls)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"waiting\n"
        process.send_signal(signal.SIGKILL)
    left = contents(folder)
    assert {name: left[name] for name in left if not name.startswith(".")} == expected
    assert any(name.endswith(".skipc-tmp") for name in left)
    write_all(outputs(folder))
    assert contents(folder) == {"m.report.html": b"report", "m.plan.json": b"plan", "m.onnx": b"model"}
