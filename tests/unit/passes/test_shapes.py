"""Computed target shapes become constants; what computed them goes where nothing else needs it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from skipc.compiler.build import fixed, normalized
from skipc.passes.narrow import constants_of
from skipc.passes.restore import Restore
from skipc.passes.shapes import constant_targets
from skipc.runtime import names
from skipc.runtime.plan import Target
from tests.compiled import compiled
from tests.gated import run, surveyed
from tests.graphs import HEADS, WIDTH, Net, Network, transformer
from tests.quantized import optimised

SPLIT = (0, 0, HEADS, WIDTH // HEADS)


def without_chains(network: Network) -> tuple[onnx.ModelProto, tuple[Target, ...]]:
    """A network's model with fixed targets, and these."""
    model = normalized(network.model)
    targets = constant_targets(model, constants_of(model.graph))
    return fixed(model, targets), targets


def chained(reader: str = "") -> Network:
    """x [batch, length, 8] split into two heads by a computed shape, which something else may read as well."""
    net = Net()
    shape = net.node("Shape", "x", output="extents")
    sizes = [net.node("Gather", shape, net.constant([axis], f"axis_{axis}"), axis=0) for axis in (0, 1)]
    target = net.node("Concat", *sizes, net.constant([2, 4], "heads"), axis=0, output="target")
    net.node("Reshape", "x", target, output="y")
    outputs = [net.tensor("y", "batch", "length", 2, 4)]
    if reader:
        net.node("Cast", reader, output="read", to=onnx.TensorProto.FLOAT)
        outputs.append(net.tensor("read", 4 if reader == "target" else 3))
    return net.network([net.tensor("x", "batch", "length", 8)], outputs)


@pytest.mark.parametrize("opset", [11, 17, 25])
def test_all_of_attention_is_fixed(opset: int) -> None:
    network = transformer(opset=opset)
    model, targets = without_chains(network)
    assert {target.shape for target in targets} == {SPLIT, (0, 0, WIDTH)}
    assert not {"Shape", "Concat"} & {node.op_type for node in model.graph.node}
    for batch, length in ((1, 1), (1, 7), (3, 2)):
        feeds = network.feeds(batch=batch, length=length)
        expected, found = run(network.model, feeds), run(model, feeds)
        assert all(np.array_equal(expected[name], found[name]) for name in expected)


def test_the_chain_goes_with_its_constants() -> None:
    model, _ = without_chains(chained())
    assert [node.op_type for node in model.graph.node] == ["Reshape"]
    assert [item.name for item in model.graph.initializer] == [names.shape((0, 0, 2, 4))]


@pytest.mark.parametrize(
    ("reader", "operators", "constants"),
    [
        ("target", ["Shape", "Gather", "Gather", "Concat", "Reshape", "Cast"], {"axis_0", "axis_1", "heads"}),
        ("extents", ["Shape", "Reshape", "Cast"], set()),
    ],
)
def test_what_others_read_stays(reader: str, operators: list[str], constants: set[str]) -> None:
    network = chained(reader)
    model, _ = without_chains(network)
    assert [node.op_type for node in model.graph.node] == operators
    assert {item.name for item in model.graph.initializer} == {names.shape((0, 0, 2, 4)), *constants}
    feeds = network.feeds(batch=3, length=4)
    assert run(model, feeds)["read"].tolist() == run(network.model, feeds)["read"].tolist()


def test_weights_stay() -> None:
    """One whose extent gives the shape has no other reader: `restore` must find it where it was."""
    net = Net()
    extent = net.node("Gather", net.node("Shape", net.weight(300, 8, name="large")), net.constant([1]), axis=0)
    first = net.node("Gather", net.node("Shape", "x"), net.constant([0], "first"), axis=0)
    net.node("Reshape", "x", net.node("Concat", first, extent, axis=0), output="y")
    model, targets = without_chains(net.network([net.tensor("x", "batch", 2, 4)], [net.tensor("y", "batch", 8)]))
    assert [target.shape for target in targets] == [(0, 8)]
    assert [node.op_type for node in model.graph.node] == ["Shape", "Reshape"]
    assert {item.name for item in model.graph.initializer} == {"large", names.shape((0, 8))}


def test_an_extent_that_cannot_be_told_stays_computed() -> None:
    net = Net()
    shape = net.node("Gather", net.node("Shape", "other"), net.constant([1, 0]), axis=0)
    net.node("Reshape", "x", shape, output="y")
    inputs = [net.tensor("x", None, None), net.tensor("other", None, None)]
    _, targets = without_chains(net.network(inputs, [net.tensor("y", None, None)]))
    assert not targets


def test_restore_brings_chains_and_constants_back() -> None:
    network = transformer()
    model = compiled(network)
    assert "Shape" not in {node.op_type for node in model.graph.node}
    restored = Restore().apply(model)
    assert restored.SerializeToString(deterministic=True) == network.model.SerializeToString(deterministic=True)


def test_what_cannot_be_inferred_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    surveyed(optimised(transformer(norm="post", fused=True, opset=21)))
    assert list(tmp_path.iterdir()) == []
