"""Whatever stops a run half way, nothing half done is left under a final name."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import models
from tests.end_to_end.command import PROGRAM, contents, invoke

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")

PATIENCE_S = 60
"""Far above what any of the waited-for steps takes; a test that runs into it fails."""

STOPPED = """
import sys, time
from skipc.compiler import emit

def hang(*_):
    print("waiting", flush=True)
    time.sleep({patience})

emit.os.fsync = hang
from skipc.compiler.cli import main
main()
"""


@pytest.fixture(autouse=True)
def heeded_interrupts() -> Iterator[None]:
    """A shell starts background jobs with SIGINT ignored, which children inherit; with a handler they start afresh."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The demo without data, compiled in half a second, with the result of an earlier run beside it."""
    path = tmp_path / "bare.onnx"
    path.write_bytes(models.fetch("demo").files["demo.onnx"].read_bytes())
    (tmp_path / "bare.skip.onnx").write_bytes(b"of an earlier run")
    return path


def test_a_full_disk(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(model.parent)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    ran = invoke("compile", model, "--output-format", "json")
    assert (ran.code, ran.json["error"]["code"]) == (2, "output-write-failed")
    assert "No space left on device" in ran.stderr
    assert "hint: " in ran.stderr
    assert contents(model.parent) == before


def stopped_while_writing(model: Path, number: signal.Signals) -> tuple[int, str]:
    """Exit code and stderr of a compilation that got a signal when its first file was half written."""
    script = STOPPED.format(patience=PATIENCE_S)
    command = [sys.executable, "-c", script, "compile", str(model), "-q"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(number)
        _, stderr = process.communicate(timeout=PATIENCE_S)
    return process.returncode, stderr


def test_a_kill_while_writing(model: Path) -> None:
    before = contents(model.parent)
    code, _ = stopped_while_writing(model, signal.SIGKILL)
    assert code == -signal.SIGKILL
    left = contents(model.parent)
    assert any(name.endswith(".skipc-tmp") for name in left), "killed too late to show anything"
    assert {name: left[name] for name in left if not name.endswith(".skipc-tmp")} == before
    assert invoke("compile", model, "-q").code == 0
    assert set(contents(model.parent)) == {
        "bare.onnx",
        "bare.skip.onnx",
        "bare.skip.plan.json",
        "bare.skip.report.html",
    }


def test_ctrl_c_while_writing(model: Path) -> None:
    before = contents(model.parent)
    code, stderr = stopped_while_writing(model, signal.SIGINT)
    assert (code, stderr) == (130, "interrupted; nothing was written\n")
    assert contents(model.parent) == before


@pytest.mark.slow
def test_ctrl_c_while_measuring(model: Path) -> None:
    """In the middle of the work, most of which is inside ONNX Runtime."""
    before = contents(model.parent)
    data = models.fetch("demo").files["demo.calib.npz"]
    command = [*PROGRAM, "compile", str(model), "--data", str(data)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "running the original" in line:
                break
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, stdout) == (130, "")
    assert stderr.endswith("interrupted; nothing was written\n")
    assert "Traceback" not in stderr
    assert contents(model.parent) == before
