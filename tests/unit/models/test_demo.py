from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import models


def stated_accuracy(part: str) -> float:
    report = json.loads((models.fetch("demo").path / "digests.json").read_text(encoding="utf-8"))
    return float(report["accuracy"][part])


def arrays(name: str) -> dict[str, Any]:
    with np.load(models.fetch("demo").files[name]) as loaded:
        return dict(loaded)


def logits(image: np.ndarray[Any, Any]) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        str(models.fetch("demo").files["demo.onnx"]), options, providers=["CPUExecutionProvider"]
    )
    return session.run(["logits"], {"image": image})[0]


def test_files_are_the_listed_ones() -> None:
    artifact = models.fetch("demo")
    assert set(artifact.files) == {"demo.onnx", "demo.calib.npz", "demo.test.npz"}
    assert sum(path.stat().st_size for path in artifact.files.values()) < 6_000_000


@pytest.mark.parametrize(("name", "count"), [("demo.calib.npz", 4000), ("demo.test.npz", 2000)])
def test_samples(name: str, count: int) -> None:
    sample = arrays(name)
    assert set(sample) == {"image", "labels"}
    assert (sample["image"].shape, sample["image"].dtype) == ((count, 1, 28, 28), np.uint8)
    assert (sample["labels"].shape, sample["labels"].dtype) == ((count,), np.int64)
    assert set(sample["labels"]) == set(range(10))


def test_samples_are_disjoint() -> None:
    calibration = {image.tobytes() for image in arrays("demo.calib.npz")["image"]}
    test = [image.tobytes() for image in arrays("demo.test.npz")["image"]]
    # The data set itself repeats a few pictures between its training and test part.
    assert sum(image in calibration for image in test) <= 2


def test_accuracy_is_the_stated_one() -> None:
    sample = arrays("demo.test.npz")
    measured = float((logits(sample["image"]).argmax(1) == sample["labels"]).mean())
    # Two pictures in 2,000: where two classes tie, another processor's rounding may decide otherwise.
    assert measured == pytest.approx(stated_accuracy("demo_test_2000"), abs=0.001)
    assert stated_accuracy("official_test_10000") >= 0.925


def test_batch_is_dynamic() -> None:
    image = arrays("demo.test.npz")["image"][:3]
    # Float32 rounding of logits near 10; other batch sizes choose other kernels.
    np.testing.assert_allclose(logits(image)[1], logits(image[1:2])[0], atol=1e-4)


def test_graph_has_fifteen_clean_blocks() -> None:
    model = onnx.load(models.fetch("demo").files["demo.onnx"])
    onnx.checker.check_model(model, full_check=True)
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds["Add"] == 15
    assert kinds["Conv"] == 1 + 2 * 15 + 2
    assert kinds["Relu"] == 1 + 2 * 15
    assert set(kinds) <= {
        "Add",
        "Conv",
        "Relu",
        "Cast",
        "Constant",
        "Sub",
        "Mul",
        "GlobalAveragePool",
        "Flatten",
        "Gemm",
    }
    assert [entry.name for entry in model.graph.input] == ["image"]
    assert [entry.name for entry in model.graph.output] == ["logits"]
    assert model.opset_import[0].version == 17
