"""Each kind of bypass computes what its formula says, wherever features lie."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from skipc.passes.builder import Builder
from skipc.passes.surrogate import KINDS as ALL_KINDS
from skipc.passes.surrogate import write_bypass
from skipc.runtime.plan import Dim, Region
from tests.gated import KINDS, approximate, random_bypass, run
from tests.graphs import OPSETS

SHAPES: dict[str, tuple[tuple[Dim, ...], tuple[int, ...], int]] = {
    "rows": (("batch", 8), (3, 8), 1),
    "tokens": (("batch", "length", 8), (2, 5, 8), 2),
    "signal": (("batch", 8, "length"), (2, 8, 5), 1),
    "image": (("batch", 8, None, None), (2, 8, 3, 4), 1),
    "volume": (("batch", 8, 2, 3, 4), (1, 8, 2, 3, 4), 1),
}


def region_of(layout: str, elem_type: int = TensorProto.FLOAT) -> Region:
    dims, _, axis = SHAPES[layout]
    return Region("r", "feed-forward", "x", "y", "y", (), (), elem_type, dims, axis)


def bypass_model(region: Region, kind: str, opset: int) -> onnx.ModelProto:
    builder = Builder("b", opset)
    result = write_bypass(builder, region, random_bypass(kind, 8))
    builder.op("Identity", [result], output="y")
    fragment = builder.fragment()
    ends = [helper.make_tensor_value_info(name, region.elem_type, list(region.dims)) for name in "xy"]
    graph = helper.make_graph(fragment.nodes, "net", ends[:1], ends[1:], fragment.initializers)
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets))
    onnx.checker.check_model(model, full_check=True)
    return model


def test_every_kind_that_is_a_formula_of_the_entry_is_tested() -> None:
    assert set(KINDS) == set(ALL_KINDS) - {"narrow", "int8"}


@pytest.mark.parametrize("opset", [OPSETS[0], OPSETS[-1]])
@pytest.mark.parametrize("layout", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_bypass_computes_its_formula(kind: str, layout: str, opset: int) -> None:
    region = region_of(layout)
    x = np.random.default_rng(0).standard_normal(SHAPES[layout][1]).astype(np.float32)
    found = run(bypass_model(region, kind, opset), {"x": x})["y"]
    # At most two products over 8 channels, on values near 1: under 40 roundings of 6e-8.
    np.testing.assert_allclose(found, approximate(region, random_bypass(kind, 8), x), rtol=0, atol=4e-6)


@pytest.mark.parametrize("layout", ["tokens", "image"])
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_stays_half_precision(kind: str, layout: str) -> None:
    region = region_of(layout, TensorProto.FLOAT16)
    x = np.random.default_rng(0).standard_normal(SHAPES[layout][1]).astype(np.float16)
    found = run(bypass_model(region, kind, 17), {"x": x})["y"]
    assert found.dtype == np.float16
    # Parameters and sums are rounded to 11 bits, 5e-4 of values that stay below 8.
    np.testing.assert_allclose(found, approximate(region, random_bypass(kind, 8), x), rtol=0, atol=2e-2)


def test_a_low_rank_bypass_is_narrow_in_its_middle() -> None:
    region = region_of("tokens")
    arrays = random_bypass("low-rank", 8).arrays
    initializers = bypass_model(region, "low-rank", 17).graph.initializer
    assert sorted(tuple(item.dims) for item in initializers) == [(2, 8), (8,), (8, 2)]
    assert arrays["down"].shape == (8, 2)
