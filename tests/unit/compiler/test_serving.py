"""A repository that Triton can read: the config against Triton's own schema, the model as it was."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from google.protobuf import text_format
from onnx import TensorProto, helper

from skipc.compiler.serving import triton_config
from skipc.runtime.errors import InputError
from tests.deployment import compiled, original, parsed, plan
from tests.end_to_end.command import invoke


@pytest.fixture(scope="module")
def schema() -> Any:
    """Triton's messages; its package would import gRPC, which they do not need."""
    found = importlib.util.find_spec("tritonclient")
    if found is None or not found.submodule_search_locations:
        pytest.skip("tritonclient is not installed")
    path = Path(found.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def config(schema: Any, model: onnx.ModelProto, *, gpu: bool = False) -> Any:
    return text_format.Parse(triton_config(model, "m", gpu=gpu), schema.ModelConfig())


def model_of(*tensors: onnx.ValueInfoProto) -> onnx.ModelProto:
    """A model that copies its first value to its last, and is never run."""
    node = helper.make_node("Identity", [tensors[0].name], [tensors[-1].name])
    return helper.make_model(helper.make_graph([node], "g", list(tensors[:-1]), [tensors[-1]]))


def test_the_signature_is_the_models(schema: Any) -> None:
    found = config(schema, parsed(compiled(plan(batch_size=4))))
    assert (found.name, found.backend, found.max_batch_size) == ("m", "onnxruntime", 4)
    assert [(item.name, item.data_type, list(item.dims)) for item in found.input] == [("x", schema.TYPE_FP32, [6])]
    assert [(item.name, item.data_type, list(item.dims)) for item in found.output] == [("y", schema.TYPE_FP32, [3])]
    assert found.parameters["intra_op_thread_count"].string_value == "1"
    assert not found.HasField("dynamic_batching")


@pytest.mark.parametrize("gpu", [False, True])
def test_instances_run_where_they_should(schema: Any, gpu: bool) -> None:
    (group,) = config(schema, parsed(original()), gpu=gpu).instance_group
    assert group.kind == (schema.ModelInstanceGroup.KIND_GPU if gpu else schema.ModelInstanceGroup.KIND_CPU)


def test_open_extents_and_fixed_batches(schema: Any) -> None:
    tokens = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "length"])
    scores = helper.make_tensor_value_info("s", TensorProto.FLOAT16, ["batch"])
    found = config(schema, model_of(tokens, scores))
    assert (found.max_batch_size, list(found.input[0].dims)) == (1, [-1])
    assert (list(found.output[0].dims), found.output[0].HasField("reshape")) == ([1], True)
    fixed = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])
    found = config(schema, model_of(fixed, scores))
    assert (found.max_batch_size, list(found.input[0].dims), list(found.output[0].dims)) == (0, [2, 3], [-1])


def test_every_type_is_one_of_tritons(schema: Any) -> None:
    from skipc.compiler.serving import TYPES

    assert set(TYPES.values()) <= set(schema.DataType.keys())


def test_a_type_that_triton_lacks_is_refused() -> None:
    tokens = helper.make_tensor_value_info("ids", TensorProto.COMPLEX64, ["batch"])
    with pytest.raises(InputError) as caught:
        triton_config(model_of(tokens, tokens), "m", gpu=False)
    assert (caught.value.code, caught.value.where) == ("triton-type", "ids")


def test_the_promise_is_in_the_comments() -> None:
    text = triton_config(parsed(compiled()), "m", gpu=False)
    assert "# Certified: mean relative-l2 of y at most 0.05 with confidence 0.95, for batches of 1." in text
    assert "Nothing is certified" in triton_config(parsed(compiled(plan(certificate=None))), "m", gpu=False)


def test_the_verb_writes_the_repository(tmp_path: Path) -> None:
    model = tmp_path / "m.skip.onnx"
    model.write_bytes(compiled())
    ran = invoke("triton", model, "-o", tmp_path / "repository", "--output-format", "json")
    assert (ran.code, ran.json["name"]) == (0, "m_skip")
    assert (tmp_path / "repository" / "m_skip" / "1" / "model.onnx").read_bytes() == compiled()
    assert 'name: "m_skip"' in (tmp_path / "repository" / "m_skip" / "config.pbtxt").read_text()


@pytest.mark.parametrize("words", [("--name", "a/b"), ("-o", "/proc/no")])
def test_names_and_places_that_cannot_be(tmp_path: Path, words: tuple[str, str]) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(original())
    ran = invoke("triton", model, "-o", tmp_path / "r", *words, "--output-format", "json")
    assert (ran.code, ran.json["error"]["code"]) == (2, "triton-name" if words[0] == "--name" else "output-unwritable")


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_request_made_of_the_config_alone_runs(schema: Any, tmp_path: Path, batch_size: int) -> None:
    """As Triton would: the file beside the config, in ONNX Runtime, at the largest batch and the type it names."""
    path = tmp_path / "m.skip.onnx"
    path.write_bytes(compiled(plan(batch_size=batch_size)))
    assert invoke("triton", path, "-o", tmp_path / "r").code == 0
    found = text_format.Parse((tmp_path / "r" / "m_skip" / "config.pbtxt").read_text(), schema.ModelConfig())
    session = onnxruntime.InferenceSession(tmp_path / "r" / "m_skip" / "1" / "model.onnx")
    assert {item.data_type for item in (*found.input, *found.output)} == {schema.TYPE_FP32}
    feeds = {
        item.name: np.ones((found.max_batch_size, *(abs(extent) for extent in item.dims)), np.float32)
        for item in found.input
    }
    outputs = session.run([item.name for item in found.output], feeds)
    for item, array in zip(found.output, outputs, strict=True):
        assert array.shape == (batch_size, *item.dims)
        assert array.dtype == np.float32
