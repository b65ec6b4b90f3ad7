"""Measurements that are kept: work goes on where it was killed, and decides as if it had never stopped."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import models
from skipc.compiler import bench, granularity, impact
from tests.end_to_end.command import PROGRAM, invoke, run

pytestmark = pytest.mark.slow

SAMPLES = 300
ASKED = ("--risk", 0.1, "--bypass", "linear", "--no-portrait")
"""Little, so that it does not take long; what is asked for decides nothing here."""
MEASURED = (
    "observing activations",
    "differentiating",
    "measuring the impact and cost of every region",
    "fitting gates and laying the path",
    "certifying",
)
PATIENCE_S = 60


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The demo with a part of its data beside it, in a folder of its own."""
    files = models.fetch("demo").files
    path = tmp_path / "work" / "demo.onnx"
    path.parent.mkdir()
    path.write_bytes(files["demo.onnx"].read_bytes())
    with np.load(files["demo.calib.npz"]) as arrays:
        np.savez(path.with_name("demo.calib.npz"), **{name: arrays[name][:SAMPLES] for name in arrays})
    return path


def from_cache(stderr: str) -> dict[str, tuple[int, int]]:
    """By stage, how many measurements were found and how many there were; stages without any are left out."""
    pattern = r"^- (.*) \([0-9.]+ s, (\d+) of (\d+) measurements from the cache\)$"
    return {title: (int(found), int(total)) for title, found, total in re.findall(pattern, stderr, re.MULTILINE)}


def test_a_killed_compilation_goes_on(model: Path, tmp_path: Path) -> None:
    asked = ["compile", model, *ASKED, "--cache", tmp_path / "cache"]
    killed_behind = MEASURED[2]
    command = [*PROGRAM, *map(str, asked)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if killed_behind in line:
                break
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=PATIENCE_S)
    assert process.returncode == -signal.SIGKILL
    assert from_cache("".join(lines)) == {}
    assert not model.with_name("demo.skip.onnx").exists()

    resumed = run(*asked)
    assert resumed.code == 0, resumed.stderr
    found = from_cache(resumed.stderr)
    for title in MEASURED[:3]:
        assert found[title][0] == found[title][1], title
    assert MEASURED[3] not in found or found[MEASURED[3]][0] < found[MEASURED[3]][1]
    plan = model.with_name("demo.skip.plan.json").read_bytes()

    again = run(*asked)
    assert again.code == 0, again.stderr
    found = from_cache(again.stderr)
    assert [title for title in MEASURED if found[title][0] == found[title][1]] == list(MEASURED)
    assert model.with_name("demo.skip.plan.json").read_bytes() == plan


def untimed(runs: Sequence[Callable[[], object]], rounds: int, *_: object, **__: object) -> NDArray[np.float64]:
    """In the place of a clock: each takes less time than the one before it, as bypasses do than the original."""
    return np.tile(2.0 / (1.0 + np.arange(len(runs))), (rounds, 1))


def test_the_plan_does_not_depend_on_the_cache(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where times are the same, since all else is."""
    for module in (bench, granularity, impact):
        monkeypatch.setattr(module, "interleaved", untimed)
    kept = ("--cache", tmp_path / "cache")
    plans = []
    for words in (("--no-cache",), kept, kept):
        ran = invoke("compile", model, *ASKED, *words)
        assert ran.code == 0, ran.stderr
        plans.append(model.with_name("demo.skip.plan.json").read_bytes())
    assert plans[0] == plans[1] == plans[2]
    assert set(from_cache(ran.stderr)) >= set(MEASURED)
