"""Other ways to compile: without data, with several data sets, with blocks left alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import models
from skipc.compiler.data import input_specs, load_dataset
from tests.end_to_end.command import Ran, contents, invoke
from tests.end_to_end.running import assert_shut_equal, complaints, ifs, signature
from tests.graphs import Net

Arrays = dict[str, NDArray[Any]]

SMALL = 300
"""Samples of each small data set: 120 of them calibrate, and 29 would do for a risk of 0.1 if none showed a loss."""


@pytest.fixture(scope="module")
def calibration() -> Arrays:
    with np.load(models.fetch("demo").files["demo.calib.npz"]) as arrays:
        return dict(arrays)


def original() -> Path:
    return models.fetch("demo").files["demo.onnx"]


def copy_of_demo(folder: Path) -> Path:
    path = folder / "bare.onnx"
    path.write_bytes(original().read_bytes())
    return path


def gained_or_said_why(ran: Ran) -> None:
    """Compiled and certified, or an honest refusal: how fast a block is decides, and the machine is not ours alone."""
    assert ran.code in {0, 1}, ran.stderr
    if ran.code == 1:
        assert ran.json["error"]["code"] in {"nothing-gained", "nothing-certified", "risk-exceeded"}


def test_without_data_every_gate_is_shut_and_nothing_is_certified(tmp_path: Path) -> None:
    model = copy_of_demo(tmp_path)
    ran = invoke("compile", model, "--output-format", "json")
    assert ran.code == 0, ran.stderr
    assert "nothing is certified" in ran.stderr
    assert (ran.json["certificate"], ran.json["speedup"]) == (None, None)
    out = tmp_path / "bare.skip.onnx"
    assert len(ifs(onnx.load(out))) == ran.json["gates"] == ran.json["regions"] == 13
    assert signature(onnx.load(out)) == signature(onnx.load(model))
    with np.load(models.fetch("demo").files["demo.test.npz"]) as arrays:
        feeds = [{"image": arrays["image"][row : row + 1]} for row in range(4)]
    assert_shut_equal(model, out, feeds)
    assert complaints(out) == ""
    assert "nothing is certified" in invoke("inspect", out).stdout


def test_without_data_the_next_command_is_named(tmp_path: Path) -> None:
    ran = invoke("compile", copy_of_demo(tmp_path), "-q")
    assert (ran.code, ran.stderr) == (0, "")
    assert "next: skipc compile" in ran.stdout
    assert "--data" in ran.stdout


def test_excluded_regions_stay_as_they_are(tmp_path: Path) -> None:
    ran = invoke("compile", copy_of_demo(tmp_path), "--exclude", "convolution.1*", "--output-format", "json")
    assert ran.code == 0, ran.stderr
    kept = ifs(onnx.load(tmp_path / "bare.skip.onnx"))
    assert kept == [f"skipc/convolution.{i}" for i in (0, 2, 3, 4, 5, 6, 7, 8, 9)]


def test_all_regions_excluded_leaves_nothing_to_do(tmp_path: Path) -> None:
    model = copy_of_demo(tmp_path)
    ran = invoke("compile", model, "--exclude", "*", "--output-format", "json")
    assert (ran.code, ran.json["error"]["code"]) == (1, "no-regions")
    assert set(contents(tmp_path)) == {model.name}


def test_too_few_samples_say_how_many_are_needed(tmp_path: Path, calibration: Arrays) -> None:
    model = copy_of_demo(tmp_path)
    np.savez(tmp_path / "few.npz", image=calibration["image"][:200])
    before = contents(tmp_path)
    ran = invoke("compile", model, "--data", tmp_path / "few.npz", "--loss", "top1", "--output-format", "json")
    assert (ran.code, ran.json["error"]["code"]) == (1, "too-few-samples")
    # 0.99 ** 299 < 0.05, and two fifths of 748 samples calibrate.
    assert "299" in ran.json["error"]["message"]
    assert "748" in ran.json["error"]["hint"]
    assert contents(tmp_path) == before


def test_a_broken_option_of_the_settings_is_no_bug(tmp_path: Path, calibration: Arrays) -> None:
    np.savez(tmp_path / "some.npz", image=calibration["image"][:SMALL])
    model = copy_of_demo(tmp_path)
    before = contents(tmp_path)
    for option, value, code in (
        ("--loss", "nothing", "loss-unknown"),
        ("--loss", "accuracy", "labels-missing"),
        ("--output", "hidden", "output-unknown"),
        ("--provider", "cuda", "provider-missing"),
    ):
        ran = invoke("compile", model, "--data", tmp_path / "some.npz", option, value, "--output-format", "json")
        assert (ran.code, ran.json["error"]["code"]) == (2, code)
    assert contents(tmp_path) == before


@pytest.mark.slow
def test_each_data_set_is_certified(tmp_path: Path, calibration: Arrays) -> None:
    parts = {"first": slice(0, SMALL), "second": slice(SMALL, 2 * SMALL)}
    for name, rows in parts.items():
        np.savez(tmp_path / f"{name}.npz", image=calibration["image"][rows])
    words = [word for name in parts for word in ("--data", f"named-{name}={tmp_path / name}.npz")]
    out = tmp_path / "two.skip.onnx"
    ran = invoke(
        "compile", original(), "-o", out, *words, "--risk", 0.1, "--bypass", "identity", "--output-format", "json"
    )
    gained_or_said_why(ran)
    if ran.code == 1:
        pytest.skip(f"nothing to look at: {ran.json['error']['message']}")
    assert ran.json["verification"].keys() == {"named-first", "named-second"}
    plan = json.loads(out.with_suffix(".plan.json").read_text(encoding="utf-8"))
    inputs = input_specs(onnx.load(original()))
    digests = {f"named-{name}": load_dataset(str(tmp_path / f"{name}.npz"), inputs).digest for name in parts}
    assert plan["data_digests"] == digests


def residual_with_classes(folder: Path) -> Path:
    """`two_outputs` in a folder; ``one.npz`` has 300 samples of one class, ``three.npz`` 150 of each of three."""
    onnx.save(two_outputs("batch"), folder / "model.onnx")
    random = np.random.default_rng(0)
    for name, labels in (("one", np.zeros(300, np.int64)), ("three", np.repeat(np.arange(3), 150))):
        np.savez(folder / f"{name}.npz", x=random.standard_normal((len(labels), 6)).astype(np.float32), labels=labels)
    return folder / "model.onnx"


GENEROUS = (
    "--loss",
    "relative-l2",
    "--risk",
    0.2,
    "--output",
    "scores",
    "--bypass",
    "linear",
    "--output-format",
    "json",
)


@pytest.mark.slow
def test_classes_and_data_sets_are_certified_one_by_one(tmp_path: Path) -> None:
    model = residual_with_classes(tmp_path)
    data = [word for name in ("one", "three") for word in ("--data", f"{name}={tmp_path / name}.npz")]
    ran = invoke("compile", model, *data, *GENEROUS)
    assert ran.code == 0, ran.stderr
    assert ran.json["verification"].keys() == {"one", "three"}
    # The smaller of the two decides: two fifths of 300 samples.
    assert ran.json["certificate"]["samples"] in {120, 180}
    ran = invoke("compile", model, *data, "--group-by", "labels", *GENEROUS)
    assert ran.code == 0, ran.stderr
    assert ran.json["verification"].keys() == {"one:0", "three:0", "three:1", "three:2"}
    plan = json.loads((tmp_path / "model.skip.plan.json").read_text(encoding="utf-8"))
    assert plan["data_digests"].keys() == {"one:0", "three:0", "three:1", "three:2"}
    assert ran.json["certificate"]["samples"] in {60, 120}


@pytest.mark.slow
def test_classes_with_too_few_samples_are_named(tmp_path: Path) -> None:
    """Two fifths of 150 samples are 60; a limit of 0.05 for a loss that is no step takes 65."""
    model = residual_with_classes(tmp_path)
    before = contents(tmp_path)
    words = ("--data", f"three={tmp_path / 'three.npz'}", "--group-by", "labels", *GENEROUS, "--risk", 0.05)
    ran = invoke("compile", model, *words)
    assert (ran.code, ran.json["error"]["code"]) == (1, "too-few-samples")
    assert ran.json["error"]["where"] == "three:0, three:1, three:2"
    assert "60 in three:0, 60 in three:1, 60 in three:2" in ran.json["error"]["message"]
    assert "of each" in ran.json["error"]["hint"]
    assert contents(tmp_path) == before


@pytest.mark.slow
def test_classes_without_labels_are_refused(tmp_path: Path) -> None:
    model = residual_with_classes(tmp_path)
    np.savez(tmp_path / "bare.npz", x=np.ones((400, 6), np.float32))
    ran = invoke("compile", model, "--data", tmp_path / "bare.npz", "--group-by", "labels", *GENEROUS)
    assert (ran.code, ran.json["error"]["code"]) == (2, "labels-missing")


@pytest.mark.slow
@pytest.mark.parametrize("measure", ["gradient", "activation"])
def test_another_measure_of_impact_shortlists(tmp_path: Path, measure: str) -> None:
    """The blocks of `two_outputs` are wide, so that there is something to gain with half of them, too."""
    model = tmp_path / "model.onnx"
    onnx.save(two_outputs("batch"), model)
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).standard_normal((400, 6)).astype(np.float32))
    words = ("--data", tmp_path / "data.npz", "--loss", "relative-l2", "--risk", 0.2, "--output", "scores")
    ran = invoke("compile", model, *words, "--impact", measure, "--bypass", "linear")
    assert ran.code == 0, ran.stderr
    assert "gradient by reverse mode" in ran.stdout
    plan = json.loads((tmp_path / "model.skip.plan.json").read_text(encoding="utf-8"))
    assert 1 <= len(plan["blocks"]) <= 2


def two_outputs(batch: int | str) -> onnx.ModelProto:
    """A residual network with wide blocks and two outputs, `sum` before `scores`."""
    net, width, hidden = Net(17), 128, 1024
    value = net.linear("x", 6, width)
    for _ in range(3):
        inner = net.node("Relu", net.linear(value, width, hidden))
        value = net.node("Add", value, net.node("MatMul", inner, net.weight(hidden, width, scale=1e-3)))
    net.node("ReduceSum", value, net.constant(np.array([1])), output="sum", keepdims=0)
    net.node("Gemm", value, net.weight(width, 3), net.weight(3), output="scores")
    outputs = [net.tensor("sum", batch), net.tensor("scores", batch, 3)]
    return net.network([net.tensor("x", batch, 6)], outputs).model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("batch", "output"),
    [
        ("batch", "scores"),
        (1, "sum"),
    ],
)
def test_the_judged_output_and_a_fixed_batch(tmp_path: Path, batch: int | str, output: str) -> None:
    """Without labels, too. The blocks hardly change anything, so that there is much to gain on any machine."""
    model = tmp_path / "model.onnx"
    onnx.save(two_outputs(batch), model)
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).standard_normal((400, 6)).astype(np.float32))
    words = ("--data", tmp_path / "data.npz", "--loss", "relative-l2", "--risk", 0.2, "--output", output)
    ran = invoke("compile", model, *words, "--output-format", "json")
    assert ran.code == 0, ran.stderr
    assert ran.json["certificate"]["output"] == output
    made = onnx.load(tmp_path / "model.skip.onnx")
    assert signature(made) == signature(onnx.load(model))
    verified = invoke("verify", tmp_path / "model.skip.onnx", "--original", model, "--data", tmp_path / "data.npz")
    assert verified.code == 0, verified.stderr
