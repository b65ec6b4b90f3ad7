"""A model file is read whole, or refused with the reason."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import onnx
import pytest

from skipc.compiler.source import load_model
from skipc.runtime.errors import InputError
from tests.gated import assert_equal, run
from tests.graphs import mlp

NETWORK = mlp(blocks=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    onnx.save(NETWORK.model, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


@pytest.fixture
def external(tmp_path: Path) -> Path:
    """A model with its weights in w.bin."""
    copy = onnx.ModelProto.FromString(NETWORK.model.SerializeToString())
    onnx.save(copy, tmp_path / "e.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    return tmp_path / "e.onnx"


def refusal(path: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        load_model(path)
    assert caught.value.where == str(path)
    return caught.value


def test_a_model_comes_with_the_digest_and_size_of_its_file(path: Path) -> None:
    source = load_model(path)
    assert source.model == NETWORK.model
    assert source.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert source.size_bytes == path.stat().st_size


def test_external_data_is_loaded(external: Path) -> None:
    source = load_model(external)
    feeds = NETWORK.feeds()
    assert_equal(run(source.model, feeds), run(NETWORK.model, feeds))
    assert source.size_bytes == external.stat().st_size + (external.parent / "w.bin").stat().st_size


def test_external_data_is_part_of_the_digest(external: Path) -> None:
    before = load_model(external).digest
    weights = external.parent / "w.bin"
    weights.write_bytes(bytes(len(weights.read_bytes())))
    assert load_model(external).digest != before


def test_a_missing_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no.onnx").code == "model-missing"


def test_a_folder(tmp_path: Path) -> None:
    assert refusal(tmp_path).code == "model-unreadable"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(path: Path) -> None:
    path.chmod(0)
    assert refusal(path).code == "model-unreadable"


@pytest.mark.parametrize("data", [b"", b"not a model", b"\x89PNG\r\n\x1a\n" + bytes(100), bytes(1000)])
def test_another_kind_of_file(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    found = refusal(path)
    assert found.code == "not-onnx"
    assert found.hint


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_file_that_was_cut_off(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    assert refusal(path).code in ("not-onnx", "model-invalid")


def test_external_data_that_is_missing(external: Path) -> None:
    (external.parent / "w.bin").unlink()
    found = refusal(external)
    assert found.code == "external-data-missing"
    assert "w.bin" in found.what


def test_external_data_that_was_cut_off(external: Path) -> None:
    weights = external.parent / "w.bin"
    weights.write_bytes(weights.read_bytes()[:8])
    assert refusal(external).code in ("external-data-invalid", "model-invalid")


def test_external_data_outside_the_folder(external: Path) -> None:
    model = onnx.load(external, load_external_data=False)
    (external.parent.parent / "elsewhere.bin").write_bytes((external.parent / "w.bin").read_bytes())
    for item in model.graph.initializer:
        for entry in item.external_data:
            if entry.key == "location":
                entry.value = "../elsewhere.bin"
    external.write_bytes(model.SerializeToString())
    assert refusal(external).code == "external-data-invalid"


def test_an_invalid_graph_is_refused_in_the_checkers_words(path: Path) -> None:
    model = onnx.load(path)
    model.graph.node[0].input[0] = "nowhere"
    path.write_bytes(model.SerializeToString())
    found = refusal(path)
    assert found.code == "model-invalid"
    assert "nowhere" in found.what
    assert "\n" not in found.what


def test_shapes_that_contradict_each_other_are_refused(path: Path) -> None:
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 7
    path.write_bytes(model.SerializeToString())
    assert refusal(path).code == "model-invalid"


@pytest.mark.parametrize("old", [b"gemm_2", b"batch", b"tests"])
def test_a_name_that_is_no_text_is_refused(path: Path, old: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, b"\xeb" + old[1:]))
    assert refusal(path).code == "not-onnx"
    assert "UTF-8" in refusal(path).what


def test_nodes_need_not_be_sorted(path: Path) -> None:
    model = onnx.load(path)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    onnx.save(model, path)
    assert load_model(path).model == model


def test_a_cycle_is_refused(path: Path) -> None:
    model = onnx.load(path)
    model.graph.node[0].input[0] = model.graph.node[2].output[0]
    onnx.save(model, path)
    assert refusal(path).code == "model-invalid"
    assert "cycle" in refusal(path).what


def test_small_weights_beside_more_than_two_gigabytes_are_read(external: Path) -> None:
    with (external.parent / "w.bin").open("r+b") as file:
        file.truncate(2**31)
    source = load_model(external)
    read = {item.name: item.raw_data for item in source.model.graph.initializer}
    assert read == {item.name: item.raw_data for item in NETWORK.model.graph.initializer}
    assert source.files == ()


def test_data_outside_of_the_folder_are_refused(external: Path) -> None:
    model = onnx.load(external, load_external_data=False)
    model.graph.initializer[0].external_data[0].value = "../w.bin"
    onnx.save(model, external)
    (external.parent.parent / "w.bin").write_bytes((external.parent / "w.bin").read_bytes())
    assert refusal(external).code == "external-data-invalid"


def test_weights_in_attributes_may_be_far_too(external: Path) -> None:
    model = onnx.load(external, load_external_data=False)
    far = model.graph.initializer.pop()
    model.graph.node.insert(0, onnx.helper.make_node("Constant", [], [far.name], value=far))
    onnx.save(model, external)
    (external.parent / "w.bin").unlink()
    assert refusal(external).code == "external-data-missing"
