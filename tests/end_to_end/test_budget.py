"""The demo compiled to a speed instead of a risk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import models
from tests.end_to_end.command import contents, run

pytestmark = pytest.mark.slow

SAMPLES = 400
"""Few, so that the test split's mean may be above the bound by chance."""
FEWER = ("--exclude", "convolution.[0-9]", "--no-portrait", "--output-format", "json")
"""Four of its blocks are enough to find a place for a second look; all of them take longer."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo with a part of its data beside it."""
    files = models.fetch("demo").files
    path = tmp_path_factory.mktemp("budget") / "demo.onnx"
    path.write_bytes(files["demo.onnx"].read_bytes())
    with np.load(files["demo.calib.npz"]) as arrays:
        np.savez(path.with_name("demo.calib.npz"), **{name: arrays[name][:SAMPLES] for name in arrays})
    return path


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return "--cache", tmp_path_factory.mktemp("cache")


def test_a_speed_up_is_reached_and_its_loss_is_certified(model: Path, kept: tuple[str, Path]) -> None:
    ran = run("compile", model, "--budget", "1.05x", *FEWER, *kept)
    assert ran.code == 0, ran.stderr
    found = ran.json
    assert found["budget"] == {"asked": "1.05x", "speedup": 1.05}
    assert found["speedup"]["high"] >= 1.05
    assert 0 < found["growth"] <= 0.2
    certificate = found["certificate"]
    assert (certificate["samples"], certificate["tested"], certificate["certified"]) == (0.4 * SAMPLES, 1, 1)
    assert certificate["mean"] < certificate["bound"] <= certificate["limit"] < 1
    data = model.with_name("demo.calib.npz")
    verified = run("verify", model.with_name("demo.skip.onnx"), "--original", model, "--data", data)
    assert verified.code == 0, verified.stderr


def test_out_of_reach_nothing_is_written(model: Path, kept: tuple[str, Path], tmp_path: Path) -> None:
    ran = run("compile", model, "-o", tmp_path / "fast.onnx", "--budget", "0.0001ms", "--risk", 0.4, *FEWER, *kept)
    assert (ran.code, ran.json["error"]["code"]) == (1, "budget-missed")
    assert "the most that was found is" in ran.stderr
    assert contents(tmp_path) == {}
