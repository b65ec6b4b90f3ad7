"""restore, diff and view, as their users run them."""

from __future__ import annotations

import signal
import subprocess
import urllib.request
from pathlib import Path

import onnx
import pytest

from tests.end_to_end.command import PROGRAM, contents, invoke
from tests.graphs import conv_net, mlp


@pytest.fixture
def compiled(tmp_path: Path) -> Path:
    """A file compiled without data, its original beside it."""
    model = tmp_path / "net.onnx"
    onnx.save(conv_net().model, model)
    assert invoke("compile", model).code == 0
    return tmp_path / "net.skip.onnx"


def test_restore_writes_the_file_that_was_compiled(compiled: Path) -> None:
    original = compiled.with_name("net.onnx")
    content = original.read_bytes()
    original.unlink()
    ran = invoke("restore", compiled, "--output-format", "json")
    assert (ran.code, ran.json["identical"]) == (0, True)
    assert Path(ran.json["output"]) == original
    assert original.read_bytes() == content


def test_restore_does_not_overwrite_the_original_unasked(compiled: Path) -> None:
    ran = invoke("restore", compiled)
    assert ran.code == 0
    assert "byte for byte" in ran.stdout
    assert compiled.with_name("net.restored.onnx").read_bytes() == compiled.with_name("net.onnx").read_bytes()


def test_restore_refuses_to_overwrite_what_it_reads(compiled: Path) -> None:
    before = contents(compiled.parent)
    ran = invoke("restore", compiled, "-o", compiled)
    assert (ran.code, "output-is-input" in ran.stderr) == (2, True)
    assert contents(compiled.parent) == before


@pytest.mark.parametrize("verb", ["restore", "diff", "view"])
def test_a_model_that_was_not_compiled_is_refused(verb: str, compiled: Path) -> None:
    ran = invoke(verb, compiled.with_name("net.onnx"))
    assert (ran.code, "error[not-compiled]" in ran.stderr) == (2, True)


def test_diff_tells_what_happened_to_each_region(compiled: Path) -> None:
    found = invoke("diff", compiled, "--output-format", "json").json
    first, second = found["regions"]
    assert (first["name"], second["name"]) == ("convolution.0", "convolution.1")
    assert first["nodes"] == {"Conv": 2, "Relu": 2, "Add": 1}
    assert first["parameters"] == 2 * (8 * 8 * 9 + 8)
    assert (first["bypass"]["kind"], first["bypass"]["parameters"]) == ("identity", 0)
    assert first["gate"]["threshold"] == "never"
    assert len(first["weights_moved"]) == 4
    assert found["nodes"]["moved"] == 10
    assert found["metadata_added"] == ["skipc.plan", "skipc.original"]


def test_diff_in_words_names_every_region(compiled: Path) -> None:
    text = invoke("diff", compiled).stdout
    assert "moved into skipc/convolution.1: 5 nodes (2 Conv, 2 Relu, Add) (1,168 parameters)" in text
    assert "identity bypass: 1 node (Identity)" in text


def test_diff_checks_the_original(compiled: Path) -> None:
    ran = invoke("diff", compiled, "--original", compiled.with_name("net.onnx"))
    assert (ran.code, ran.stdout.splitlines()[-1]) == (0, "restored, it equals the original")
    other = compiled.with_name("other.onnx")
    onnx.save(mlp().model, other)
    assert "plan-of-another-model" in invoke("diff", compiled, "--original", other).stderr


def test_diff_notices_a_weight_that_was_changed_later(compiled: Path) -> None:
    model = onnx.load(compiled)
    (weight,) = (item for item in model.graph.initializer if item.name == "w10")
    weight.raw_data = bytes(len(weight.raw_data))
    onnx.save(model, compiled)
    ran = invoke("diff", compiled, "--original", compiled.with_name("net.onnx"))
    assert (ran.code, ran.stdout.splitlines()[-1]) == (1, "DIFFERENT from the original when restored")


def test_view_serves_both_until_interrupted(compiled: Path) -> None:
    pytest.importorskip("netron")
    command = [*PROGRAM, "view", str(compiled), "--no-browser"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        try:
            addresses = [word.rstrip(",;") for word in line.split() if word.startswith("http://")]
            pages = [urllib.request.urlopen(address, timeout=5).read() for address in addresses]
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 0
    assert len(pages) == 2
    assert all(b"netron" in page.lower() for page in pages)
