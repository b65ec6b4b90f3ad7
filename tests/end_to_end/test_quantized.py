"""A network that ONNX Runtime's quantizer put into 8 bits: compiled, certified, built again from its plan, restored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from skipc.passes.flow import subgraphs
from skipc.passes.stamp import plan_of
from tests.end_to_end.command import Ran, invoke
from tests.end_to_end.test_variants import gained_or_said_why
from tests.graphs import Net, Network
from tests.quantized import dynamic_int8

SAMPLES, BATCH = 1600, 4
INPUTS, WIDTH = 16, 128


def wide() -> Network:
    """Three residual blocks, each with eight times as many hidden units as channels."""
    net = Net(17)
    value = net.linear("x", INPUTS, WIDTH)
    for _ in range(3):
        hidden = net.node("Relu", net.linear(value, WIDTH, 8 * WIDTH))
        value = net.node("Add", value, net.linear(hidden, 8 * WIDTH, WIDTH))
    net.node("MatMul", value, net.weight(WIDTH, 8), output="y")
    return net.network([net.tensor("x", "batch", INPUTS)], [net.tensor("y", "batch", 8)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model in 8 bits, and data of few dimensions, so that there is something to gain."""
    found = tmp_path_factory.mktemp("quantized")
    onnx.save(dynamic_int8(wide()).model, found / "wide.onnx")
    random = np.random.default_rng(0)
    plane = random.standard_normal((4, INPUTS))
    for name, count in (("data", SAMPLES), ("fresh", 400)):
        np.savez(found / f"{name}.npz", x=(random.standard_normal((count, 4)) @ plane).astype(np.float32))
    return found


@pytest.fixture(scope="module")
def compiled(folder: Path) -> Ran:
    options = ["--loss", "cosine", "--risk", 0.05, "--bypass", "narrow", "--max-growth", 1, "--no-portrait"]
    company = ["--granularity", "sample", "--batch-size", BATCH]
    data = ["--data", folder / "data.npz", "-o", folder / "wide.skip.onnx"]
    ran = invoke("compile", folder / "wide.onnx", *data, *options, *company, "--output-format", "json")
    gained_or_said_why(ran)
    if ran.code == 1:
        pytest.skip(f"nothing to look at: {ran.stderr}")
    return ran


@pytest.mark.slow
def test_batches_are_the_units_where_scales_follow_their_range(compiled: Ran, folder: Path) -> None:
    plan = plan_of(onnx.load(folder / "wide.skip.onnx"), where="")
    assert plan.certificate is not None
    assert plan.certificate.samples == compiled.json["certificate"]["samples"] == SAMPLES * 2 // 5 // BATCH
    words = ["--original", folder / "wide.onnx", "--data", folder / "fresh.npz", "--output-format", "json"]
    verified = invoke("verify", folder / "wide.skip.onnx", *words)
    assert verified.code == 0, verified.stderr
    assert verified.json["samples"] == 400 // BATCH


@pytest.mark.slow
@pytest.mark.usefixtures("compiled")
def test_bypasses_multiply_in_8_bits_and_the_plan_gives_the_same_bytes(folder: Path) -> None:
    path = folder / "wide.skip.onnx"
    model = onnx.load(path)
    parts = [part for block in plan_of(model, where="").blocks for part in block.bypass.parts or (block,)]
    assert {part.bypass.kind for part in parts} == {"narrow"}
    inner = [graph for node in model.graph.node for graph in subgraphs(node)]
    every = [node for graph in (model.graph, *inner) for node in graph.node]
    assert sum(node.op_type == "MatMulInteger" for node in every) >= 8 + 2 * len(parts)
    again = folder / "again.onnx"
    ran = invoke("compile", folder / "wide.onnx", "-o", again, "--plan", folder / "wide.skip.plan.json", "-q")
    assert ran.code == 0, ran.stderr
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.slow
@pytest.mark.usefixtures("compiled")
def test_restore_gives_the_original_back(folder: Path) -> None:
    ran = invoke("restore", folder / "wide.skip.onnx", "-o", folder / "restored.onnx")
    assert ran.code == 0, ran.stderr
    assert (folder / "restored.onnx").read_bytes() == (folder / "wide.onnx").read_bytes()
