"""A session runs where it says, and refuses with words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from skipc.runtime.errors import InputError
from skipc.runtime.session import is_equal, max_abs_difference, open_session
from tests.graphs import mlp

NETWORK = mlp(blocks=1)
BYTES = NETWORK.model.SerializeToString()
NAN, INF = np.nan, np.inf

cpu_only = pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this wheel has CUDA"
)


def test_a_session_names_its_inputs_outputs_and_provider() -> None:
    session = open_session(BYTES)
    assert (session.inputs, session.outputs, session.provider) == (("x",), ("y",), "cpu")


def test_all_outputs_or_those_asked_for() -> None:
    from skipc.passes.expose import with_outputs

    session = open_session(with_outputs(NETWORK.model, ["v1"]).SerializeToString())
    feeds = NETWORK.feeds()
    assert session.run(feeds).keys() == {"y", "v1"}
    assert session.run(feeds, ["v1"]).keys() == {"v1"}


def test_a_model_with_external_data_is_opened_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(NETWORK.model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    feeds = NETWORK.feeds()
    assert is_equal(open_session(path).run(feeds)["y"], open_session(BYTES).run(feeds)["y"])


def test_nonsense_is_unloadable() -> None:
    with pytest.raises(InputError, match="cannot load") as caught:
        open_session(b"no model", where="m.onnx")
    assert (caught.value.code, caught.value.where) == ("model-unloadable", "m.onnx")


def test_a_model_that_onnxruntime_does_not_know_is_unloadable() -> None:
    model = onnx.ModelProto()
    model.CopyFrom(NETWORK.model)
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(InputError, match="NoSuchOperator"):
        open_session(model.SerializeToString())


@cpu_only
def test_cuda_without_cuda_is_refused_rather_than_run_on_the_cpu() -> None:
    with pytest.raises(InputError, match="would run on CPUExecutionProvider") as caught:
        open_session(BYTES, provider="cuda")
    assert caught.value.code == "provider-missing"
    assert "cpu" in caught.value.hint


def test_a_provider_that_onnxruntime_drops_silently_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheel lists CUDA, but its libraries do not load: the session then runs on the CPU."""
    real = onnxruntime.InferenceSession

    def falls_back(model: bytes, options: Any, providers: list[Any]) -> Any:
        assert providers == ["CUDAExecutionProvider"]
        return real(model, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", falls_back)
    with pytest.raises(InputError) as caught:
        open_session(BYTES, provider="cuda")
    assert caught.value.code == "provider-missing"


def test_threads_and_optimisations_are_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    real = onnxruntime.InferenceSession

    def watched(model: bytes, options: Any, providers: list[str]) -> Any:
        seen.append(options)
        return real(model, options, providers=providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", watched)
    open_session(BYTES, threads=2, optimize=False)
    assert seen[0].intra_op_num_threads == 2
    assert seen[0].graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL


def array(*values: float, dtype: Any = np.float32) -> Any:
    return np.array(values, dtype)


def test_equal_means_bit_for_bit() -> None:
    assert is_equal(array(1, NAN), array(1, NAN))
    assert not is_equal(array(0.0), array(-0.0))
    assert not is_equal(array(1), array(1, dtype=np.float64))
    assert not is_equal(array(1, 2), array(1, 2).reshape(2, 1))


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (array(1, 5), array(1.5, 4), 1.0),
        (array(NAN, 1), array(NAN, 1), 0.0),
        (array(NAN, 1), array(1, 1), INF),
        (array(INF), array(INF), 0.0),
        (array(INF), array(-INF), INF),
        (array(1, 2), array(1), INF),
        (array(), array(), 0.0),
        (array(True, dtype=bool), array(False, dtype=bool), 1.0),
        (array(3, dtype=np.int64), array(5, dtype=np.int64), 2.0),
    ],
)
def test_largest_difference(first: Any, second: Any, expected: float) -> None:
    assert max_abs_difference(first, second) == expected
