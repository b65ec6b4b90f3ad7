"""A mask of ones changes nothing, a mask of zeros leaves out what a region adds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from skipc.passes.base import run_passes
from skipc.passes.candidate import ValueType
from skipc.passes.expose import with_outputs
from skipc.passes.mask import DeclareTypes, FixInputs, MaskRegions, ShiftMerges
from skipc.runtime import names
from skipc.runtime.plan import Region
from tests.gated import Array, Arrays, run, surveyed
from tests.graphs import OPSETS, Net, Network, conv_net, mbconv, mlp, transformer

BUILDS = [transformer, conv_net, mbconv, mlp, lambda **options: mlp(tail="Tanh", **options)]
each_network = pytest.mark.parametrize("build", BUILDS, ids=["transformer", "conv", "mbconv", "mlp", "mlp-tail"])


def masked(model: onnx.ModelProto, regions: tuple[Region, ...], *values: str) -> onnx.ModelProto:
    return with_outputs(run_passes(model, [MaskRegions(regions)]), values)


def mask(count: int, value: float = 1.0) -> Array:
    return np.full(count, value, np.float32)


@pytest.mark.parametrize("opset", [OPSETS[0], OPSETS[-1]])
@each_network
def test_a_mask_of_ones_is_the_original(build: Callable[..., Network], opset: int) -> None:
    network = build(opset=opset)
    found = surveyed(network)
    regions = found.survey.regions
    feeds = network.feeds()
    changed = run(masked(found.model, regions), {**feeds, names.REGION_MASK: mask(len(regions))})
    for name, expected in run(found.model, feeds).items():
        np.testing.assert_array_equal(changed[name], expected)


@each_network
def test_a_mask_of_zeros_leaves_the_entry_value_at_the_merge(build: Callable[..., Network]) -> None:
    network = build()
    found = surveyed(network)
    for position, region in enumerate(found.survey.regions):
        model = masked(found.model, found.survey.regions, region.entry, region.merge)
        factors = mask(len(found.survey.regions))
        factors[position] = 0.0
        values = run(model, {**network.feeds(), names.REGION_MASK: factors})
        # merge - (merge - entry) is rounded twice, at values near 1.
        np.testing.assert_allclose(values[region.merge], values[region.entry], rtol=0, atol=1e-6)


def test_half_a_mask_adds_half() -> None:
    network = mlp(blocks=1)
    found = surveyed(network)
    (region,) = found.survey.blocks
    plain = run(with_outputs(found.model, [region.entry, region.merge]), network.feeds())
    model = masked(found.model, (region,), region.merge)
    half = run(model, {**network.feeds(), names.REGION_MASK: mask(1, 0.5)})
    expected = (plain[region.entry] + plain[region.merge]) / 2
    np.testing.assert_allclose(half[region.merge], expected, rtol=0, atol=1e-6)


def test_regions_that_share_a_merge_are_masked_one_after_the_other() -> None:
    """The last block of a layer ends where the layer does; each mask acts on what the one before leaves."""
    network = transformer()
    found = surveyed(network)
    layer = found.survey.layers[0]
    block = next(item for item in found.survey.blocks if item.merge == layer.merge)
    regions = (block, layer)
    model = masked(found.model, regions, block.entry, layer.entry, layer.merge)
    factors = {"block": np.array([0, 1], np.float32), "layer": np.array([1, 0], np.float32)}
    entries = {"block": block.entry, "layer": layer.entry}
    for name, values in factors.items():
        result: Arrays = run(model, {**network.feeds(), names.REGION_MASK: values})
        np.testing.assert_allclose(result[layer.merge], result[entries[name]], rtol=0, atol=1e-6)


@pytest.mark.parametrize("elem_type", [onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16])
def test_a_shift_is_added_to_a_merge_of_a_masked_model(elem_type: int) -> None:
    network = mlp(elem_type=elem_type)
    found = surveyed(network)
    regions = found.survey.blocks
    model = run_passes(found.model, [MaskRegions(regions), ShiftMerges(regions[:1])])
    model = with_outputs(model, [regions[0].merge])
    plain = run(with_outputs(found.model, [regions[0].merge]), network.feeds())
    merge = plain[regions[0].merge]
    by = np.arange(merge.size, dtype=np.float32).reshape(merge.shape) / 8
    feeds = {**network.feeds(), names.REGION_MASK: mask(len(regions)), names.shift(regions[0].merge): by}
    # float16 keeps eleven bits of values up to 8, and ONNX Runtime rounds only the sum of what NumPy rounds one by one.
    tolerance = 0 if elem_type == onnx.TensorProto.FLOAT else 8 * 2**-11
    expected = merge + by.astype(merge.dtype)
    np.testing.assert_allclose(run(model, feeds)[regions[0].merge], expected, rtol=0, atol=tolerance)


def test_the_mask_has_the_type_of_the_network() -> None:
    network = mlp(elem_type=onnx.TensorProto.FLOAT16)
    found = surveyed(network)
    changed = run(masked(found.model, found.survey.blocks), {**network.feeds(), names.REGION_MASK: mask(3)})
    np.testing.assert_array_equal(changed["y"], run(found.model, network.feeds())["y"])


def test_the_given_model_is_left_alone() -> None:
    found = surveyed(mlp())
    before = found.model.SerializeToString()
    MaskRegions(found.survey.blocks).apply(found.model)
    ShiftMerges(found.survey.blocks).apply(found.model)
    FixInputs({"x": (2, 6)}).apply(found.model)
    assert found.model.SerializeToString() == before


def test_fixed_inputs_give_every_value_a_shape() -> None:
    network = conv_net()
    fixed = run_passes(network.model, [FixInputs({"image": (4, 3, 6, 6)})])
    written = {name for node in fixed.graph.node for name in node.output}
    known = {
        item.name: [dim.dim_value for dim in item.type.tensor_type.shape.dim]
        for item in (*fixed.graph.value_info, *fixed.graph.output)
    }
    assert known.keys() >= written
    assert all(extents and min(extents) > 0 for extents in known.values())
    assert known["logits"] == [4, 5]


def test_declared_types_fill_what_inference_leaves_open() -> None:
    """The extent behind a Slice whose ends are computed is only known by running."""
    net = Net()
    half = net.node("Div", net.node("Gather", net.node("Shape", "x"), net.constant([1]), axis=0), net.constant([2]))
    value = net.node("Slice", "x", net.constant([0]), half, net.constant([1]))
    net.node("Concat", value, value, output="y", axis=1)
    network = net.network([net.tensor("x", 3, "width")], [net.tensor("y", 3, None)])
    fixed = run_passes(network.model, [FixInputs({"x": (3, 6)})])
    types = {value: ValueType(onnx.TensorProto.FLOAT, (3, 3)), "x": ValueType(onnx.TensorProto.FLOAT, (3, 6))}
    declared = run_passes(fixed, [DeclareTypes(types)])
    dims = {item.name: [dim.dim_value for dim in item.type.tensor_type.shape.dim] for item in declared.graph.value_info}
    assert dims[value] == [3, 3]
    assert "x" not in dims
    assert len(dims) == len(set(dims)) == len(declared.graph.value_info)
