"""A model beyond 2 GB is compiled, restored and run without its weights being read into memory."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.large_model import WEIGHTS, LargeModel, Size
from tests.end_to_end.command import invoke, run

BEYOND = 2**31
SIZE = Size(layers=2, width=64, heads=4, vocabulary=40)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network whose data file goes on with nothing for 2 GB, of which the disk keeps none."""
    path = LargeModel(tmp_path_factory.mktemp("large"), SIZE).write()
    with (path.parent / WEIGHTS).open("r+b") as file:
        file.truncate(BEYOND)
    return path


@pytest.fixture(scope="module")
def compiled(model: Path) -> Path:
    result = run("compile", model)
    assert result.code == 0, result.stderr
    return model.with_name("large.skip.onnx")


def outputs(path: Path) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {"ids": np.arange(12).reshape(2, 6)})[0]
    return found


def test_every_layer_is_behind_gates(compiled: Path) -> None:
    nodes = onnx.load(compiled, load_external_data=False).graph.node
    assert sum(node.op_type == "If" for node in nodes) == 2 * SIZE.layers


def test_the_weights_stay_where_they_are(model: Path, compiled: Path) -> None:
    found = onnx.load(compiled, load_external_data=False).graph.initializer
    places = {item.name: str(item.external_data) for item in found if not item.name.startswith("skipc")}
    before = onnx.load(model, load_external_data=False).graph.initializer
    large = [item for item in before if np.prod(item.dims) * 4 > 4096]
    assert large
    assert all(places[item.name] == str(item.external_data) for item in large)
    assert compiled.stat().st_size < 10**6


def test_it_computes_what_the_original_does(model: Path, compiled: Path) -> None:
    assert outputs(model).tobytes() == outputs(compiled).tobytes()


def test_elsewhere_the_weights_come_along(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    assert invoke("compile", model, "-o", out).code == 0
    assert (tmp_path / WEIGHTS).samefile(model.parent / WEIGHTS)
    assert outputs(model).tobytes() == outputs(out).tobytes()


def test_other_weights_are_not_overwritten(model: Path, tmp_path: Path) -> None:
    (tmp_path / WEIGHTS).write_bytes(b"of another model")
    result = invoke("compile", model, "-o", tmp_path / "out.onnx")
    assert result.code == 2
    assert "output-unwritable" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == [WEIGHTS]


def test_the_original_comes_back(model: Path, compiled: Path, tmp_path: Path) -> None:
    result = invoke("restore", compiled, "-o", tmp_path / "back.onnx", "--output-format", "json")
    assert result.json["identical"]
    digests = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (model, tmp_path / "back.onnx")}
    assert len(digests) == 1
    assert (tmp_path / WEIGHTS).samefile(model.parent / WEIGHTS)


def test_data_are_refused(model: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", ids=np.zeros((600, 6), np.int64))
    result = invoke("compile", model, "--data", tmp_path / "data.npz", "-o", tmp_path / "out.onnx")
    assert result.code == 2
    assert "model-too-large" in result.stderr
