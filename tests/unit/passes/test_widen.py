"""bfloat16 models are surveyed and verified in float32, and compiled as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from skipc.compiler.build import build
from skipc.compiler.console import QUIET, Console
from skipc.compiler.data import input_specs
from skipc.compiler.probe import probe_feeds, probe_types
from skipc.compiler.settings import Settings
from skipc.compiler.verbs import compile_verb, inspect_verb
from skipc.passes.base import check
from skipc.passes.external import tensors
from skipc.passes.regions import find_regions
from skipc.passes.widen import is_narrow, widened
from skipc.runtime.session import open_session
from tests.compiled import plan_for
from tests.gated import block
from tests.graphs import Array, Net, Network

BFLOAT16 = TensorProto.BFLOAT16


def brain() -> Network:
    """Two residual layers in bfloat16 between casts, one with a Constant node inside and a branch of its own."""
    net = Net(21, elem_type=BFLOAT16)
    value = net.node("Cast", "x", to=BFLOAT16)
    for _ in range(2):
        inner = net.node("Relu", net.node("MatMul", value, net.weight(8, 32)))
        half = net.node("Constant", value=helper.make_tensor("", BFLOAT16, [1], [0.5]))
        inner = net.node("MatMul", net.node("Mul", inner, half), net.weight(32, 8))
        value = net.node("Add", value, inner)
    net.node("Cast", value, output="y", to=TensorProto.FLOAT)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 8]) for name in ("x", "y")]
    network = net.network(ends[:1], ends[1:])
    check(network.model)
    return network


def reference(model: onnx.ModelProto, feeds: dict[str, Any]) -> Array:
    return np.asarray(next(iter(ReferenceEvaluator(model).run(["y"], feeds))))


def test_nothing_of_it_is_left() -> None:
    model = brain().model
    assert is_narrow(model)
    wide = widened(model)
    check(wide)
    assert not is_narrow(wide)
    assert is_narrow(model)
    assert {tensor.data_type for tensor in tensors(wide.graph) if tensor.data_type} == {TensorProto.FLOAT}


def test_values_are_held_exactly() -> None:
    """float32 rounds where bfloat16 does and more finely, so that only the roundings of results differ."""
    network = brain()
    feeds: dict[str, Any] = network.feeds()
    wide = open_session(widened(network.model).SerializeToString()).run(feeds)["y"]
    narrow = reference(network.model, feeds)
    np.testing.assert_allclose(wide, narrow, atol=0.1)
    assert np.abs(wide).max() > 0.5


def test_types_stay_bfloat16() -> None:
    model = brain().model
    types = probe_types(model, probe_feeds(model, input_specs(model), None))
    found = find_regions(model, types)
    assert [region.elem_type for region in found.blocks] == [BFLOAT16] * 2
    assert types["x"].elem_type == types["y"].elem_type == TensorProto.FLOAT


@pytest.mark.parametrize("kind", ["identity", "affine", "linear", "low-rank"])
def test_bypasses_are_bfloat16(kind: str) -> None:
    """By onnx.reference, which knows the type: open, it is what the same bypasses give in float32."""
    network = brain()
    model = network.model
    found = find_regions(model, probe_types(model, probe_feeds(model, input_specs(model), None)))
    compiled = build(model, plan_for([block(region, kind, seed) for seed, region in enumerate(found.blocks)]))
    feeds: dict[str, Any] = network.feeds()
    narrow = reference(compiled, feeds)
    wide = open_session(widened(compiled).SerializeToString()).run(feeds)["y"]
    np.testing.assert_allclose(narrow, wide, atol=0.1)


def test_compile_and_inspect_without_data(tmp_path: Path) -> None:
    path = tmp_path / "brain.onnx"
    onnx.save(brain().model, path)
    found, text = inspect_verb(Console(QUIET), model=path, data=None)
    assert [item["time_share"] for item in found["regions"]] == [None] * 2
    assert "not timed" in text
    options = {**Settings().__dict__, "cache": None, "no_cache": True}
    compile_verb(Console(QUIET), model=path, out=None, data=(), plan=None, **options)
    assert (tmp_path / "brain.skip.onnx").exists()
