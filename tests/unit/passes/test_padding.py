"""Without its padding a model gives the same at every real token, whatever its branches do, and computes no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from skipc.compiler.build import build, build_static
from skipc.compiler.probe import probe_types
from skipc.compiler.shipped import without_gate
from skipc.passes.base import opset_of, run_passes
from skipc.passes.expose import ExposeDecisions, with_outputs
from skipc.passes.flow import subgraphs
from skipc.passes.freeze import FreezeScales, scales_of
from skipc.passes.padding import padding_of
from skipc.passes.restore import Restore
from skipc.passes.stamp import SetLevel
from skipc.passes.tokenwise import PACKED_PRODUCTS, PRODUCTS
from skipc.runtime import names
from skipc.runtime.plan import Padding, Plan, plan_from_json
from tests.compiled import plan_for
from tests.gated import Surveyed, assert_equal, block, deciding, run, surveyed
from tests.graphs import OPSETS, WIDTH, Net, Network, transformer
from tests.quantized import dynamic_int8, four_bit, optimised, static_int8

Array = NDArray[Any]
MASK = "attention_mask"
OPEN = 1.0
GRANULARITIES = ("batch", "sample", "token")


def padding_in(found: Surveyed, network: Network, mask: str = MASK) -> Padding | None:
    types = probe_types(found.model, [network.feeds(batch=1, length=4), network.feeds(batch=2, length=5)])
    return padding_of(found.model, types, mask)


def found_in(found: Surveyed, network: Network) -> Padding:
    padding = padding_in(found, network)
    assert padding is not None
    return padding


def half_open(found: Surveyed, granularity: str, kind: str = "linear") -> Plan:
    """Gates that let about half of the rows by, so that every branch of every `If` runs; attention mixes tokens."""
    plain = [block(region, kind, seed) for seed, region in enumerate(found.survey.blocks)]
    blocks = [
        deciding(item, "sample" if granularity == "token" and item.region.kind == "attention" else granularity, MASK)
        for item in plain
    ]
    return replace(plan_for(blocks, found.targets), thresholds=((-np.inf,) * len(blocks), (OPEN,) * len(blocks)))


def assert_same_tokens(one: dict[str, Array], other: dict[str, Array], real: Array) -> None:
    for name, array in one.items():
        assert array.shape == other[name].shape
        np.testing.assert_allclose(other[name][real], array[real], rtol=0, atol=1e-5)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_real_tokens_stay_what_they_are(opset: int, norm: str) -> None:
    network = transformer(norm=norm, fused=opset >= 17, opset=opset)
    found = surveyed(network)
    model = build_static(found.model, (), found_in(found, network))
    assert opset_of(model) == opset
    for seed in range(3):
        feeds = network.feeds(batch=4, length=9, seed=seed)
        real = feeds[MASK] != 0
        assert 0 < real.sum() < real.size
        assert_same_tokens(run(found.model, feeds), run(model, feeds), real)
        turned = {name: np.ascontiguousarray(array[:, ::-1]) for name, array in feeds.items()}
        assert_same_tokens(run(found.model, turned), run(model, turned), turned[MASK] != 0)


def test_products_run_on_real_tokens_alone() -> None:
    network = transformer()
    found = surveyed(network)
    model = build_static(found.model, (), found_in(found, network))
    products = [node.output[0] for node in found.model.graph.node if node.op_type == "MatMul"]
    feeds = network.feeds(batch=4, length=9)
    values = run(with_outputs(model, products), feeds, products)
    flat = [array for array in values.values() if array.ndim == 2]
    of_attention = 2 * 2
    assert len(flat) == len(products) - of_attention - 1, "all but attention's own, and the output, which is padded"
    assert {len(array) for array in flat} == {int(feeds[MASK].sum())}


def test_a_sample_of_padding_alone_runs_in_full() -> None:
    network = transformer()
    found = surveyed(network)
    model = build_static(found.model, (), found_in(found, network))
    feeds = network.feeds(batch=3, length=6)
    feeds[MASK][1] = 0
    real = feeds[MASK] != 0
    real[1] = True
    assert_same_tokens(run(found.model, feeds), run(model, feeds), real)
    feeds[MASK][:] = 0
    assert_same_tokens(run(found.model, feeds), run(model, feeds), feeds[MASK] == 0)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("kind", ["linear", "identity"])
def test_every_branch_leaves_padding_out(granularity: str, norm: str, kind: str) -> None:
    network = transformer(norm=norm, fused=True)
    found = surveyed(network)
    plan = half_open(found, granularity, kind)
    kept, left_out = (build(found.original, replace(plan, padding=p)) for p in (None, found_in(found, network)))
    decided: set[bool] = set()
    shares: set[bool] = set()
    for seed in range(6):
        for batch in (1, 5):
            feeds = network.feeds(batch=batch, length=7, seed=seed)
            real = feeds[MASK] != 0
            assert_same_tokens(run(kept, feeds), run(left_out, feeds), real)
            gates = [names.gate(item.region.name) for item in plan.blocks]
            rows = [names.agreed(item.region.name) for item in plan.blocks if granularity != "batch"]
            shares |= {0 < array.mean() < 1 for array in run(with_outputs(kept, rows), feeds, rows).values()}
            decided |= {bool(array) for array in run(with_outputs(kept, gates), feeds, gates).values()}
    assert decided == {False, True}
    assert True in shares or granularity == "batch", "in some batch rows disagree"


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_a_block_may_end_in_an_output(granularity: str) -> None:
    network = transformer()
    leaving = surveyed(network).survey.blocks[-1].exit
    network.model.graph.output.append(onnx.helper.make_tensor_value_info(leaving, 1, ["batch", "length", WIDTH]))
    found = surveyed(network)
    plan = half_open(found, granularity)
    kept, left_out = (build(found.original, replace(plan, padding=p)) for p in (None, found_in(found, network)))
    feeds = network.feeds(batch=5, length=7)
    assert_same_tokens(run(kept, feeds), run(left_out, feeds), feeds[MASK] != 0)
    restored = Restore().apply(left_out)
    assert restored.SerializeToString(deterministic=True) == network.model.SerializeToString(deterministic=True)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("afterwards", [False, True])
def test_decisions_and_scores_stay(granularity: str, afterwards: bool) -> None:
    """By tokens they are means over real ones; the last gate is settled and has the same score for every input."""
    network = transformer()
    found = surveyed(network)
    plan = half_open(found, granularity)
    plan = replace(plan, blocks=(*plan.blocks[:-1], without_gate(plan.blocks[-1])))
    models = [
        build(found.original, replace(plan, padding=padding), decisions=not afterwards)
        for padding in (None, found_in(found, network))
    ]
    if afterwards:
        models = [ExposeDecisions(plan.blocks).apply(model) for model in models]
    shown = [*(names.score(item.region.name) for item in plan.blocks), names.DECISIONS, names.SCORES]
    for seed in range(3):
        feeds = network.feeds(batch=5, length=7, seed=seed)
        kept, left_out = (run(with_outputs(model, shown), feeds, shown) for model in models)
        for name in shown:
            assert left_out[name].shape == kept[name].shape, name
        for name in (names.DECISIONS, names.SCORES):
            np.testing.assert_allclose(left_out[name], kept[name], rtol=0, atol=1e-4)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_at_level_0_padding_stays(granularity: str) -> None:
    network = transformer()
    found = surveyed(network)
    plan = replace(half_open(found, granularity), padding=found_in(found, network))
    feeds = network.feeds(batch=4, length=9)
    for as_input in (False, True):
        model = build(found.original, plan, level_input=as_input)
        fed = {**feeds, names.LEVEL: np.array(0)} if as_input else feeds
        shut = model if as_input else SetLevel(0).apply(model)
        assert_equal(run(shut, fed), run(found.original, feeds))


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("typed", [False, True])
def test_the_original_comes_back(granularity: str, typed: bool) -> None:
    network = transformer(norm="pre", fused=True)
    if typed:
        network = Network(onnx.shape_inference.infer_shapes(network.model), network.inputs)
    found = surveyed(network)
    model = build(found.original, replace(half_open(found, granularity), padding=found_in(found, network)))
    restored = Restore().apply(model)
    assert restored.SerializeToString(deterministic=True) == network.model.SerializeToString(deterministic=True)


def pooled(*, masked: bool) -> Network:
    """A layer per token, averaged over the tokens of a sample, or over all places."""
    net = Net()
    value = net.node("Gather", net.weight(11, WIDTH, scale=1.0), "ids")
    for _ in range(2):
        value = net.node("Add", value, net.linear(net.node("Tanh", net.linear(value, WIDTH, WIDTH)), WIDTH, WIDTH))
    if masked:
        real = net.node("Unsqueeze", net.node("Cast", MASK, to=net.elem_type), net.constant([2]))
        shape = net.node("Shape", value)
        value = net.node("Mul", value, net.node("Expand", real, shape))
    mean = net.node("ReduceSum", value, net.constant([1]), keepdims=0)
    net.node("MatMul", mean, net.weight(WIDTH, 3), output="y")
    inputs = [net.tensor(name, "batch", "length", elem_type=onnx.TensorProto.INT64) for name in ("ids", MASK)]
    return net.network(inputs, [net.tensor("y", "batch", 3)])


def test_what_a_mask_makes_zero_is_zero_at_padding() -> None:
    network = pooled(masked=True)
    found = surveyed(network)
    model = build_static(found.model, (), found_in(found, network))
    feeds = network.feeds(batch=4, length=9)
    np.testing.assert_allclose(run(model, feeds)["y"], run(found.model, feeds)["y"], rtol=0, atol=1e-5)


def test_nothing_to_leave_out() -> None:
    network = transformer()
    found = surveyed(network)
    assert padding_in(found, network, "hidden") is None, "not [batch, sequence]"
    assert padding_in(found, network, "") is None
    plan = half_open(found, "batch")
    types = probe_types(found.model, [network.feeds(batch=1, length=4), network.feeds(batch=2, length=5)])
    gated = build(found.original, plan)
    assert any(True for node in gated.graph.node for _ in subgraphs(node))
    assert padding_of(gated, types, MASK) is None, "it has subgraphs of its own"


FORMATS: dict[str, Callable[[Network], Network]] = {
    "dynamic": dynamic_int8,
    "static": static_int8,
    "4 bit": four_bit,
    "optimised": optimised,
}


@pytest.mark.parametrize("form", FORMATS)
def test_number_formats(form: str) -> None:
    """Where a scale follows the range of all tokens, padding has a say in the original: it is held for both."""
    network = FORMATS[form](transformer(norm="post", fused=True, opset=21))
    found = surveyed(network)
    models = [found.model, build_static(found.model, (), found_in(found, network))]
    scales = scales_of(found.model)
    original, without = (run_passes(model, [FreezeScales()]) for model in models)
    feeds = network.feeds(batch=4, length=9)
    feeds |= run(with_outputs(found.model, scales), feeds, scales) if scales else {}
    assert_same_tokens(run(original, feeds), run(without, feeds), feeds[MASK] != 0)
    products = [node for node in models[1].graph.node if node.op_type in PRODUCTS | PACKED_PRODUCTS]
    ranks = [
        array.ndim for array in run(with_outputs(models[1], [n.output[0] for n in products]), network.feeds()).values()
    ]
    assert ranks.count(2) >= 12


def test_the_plan_remembers() -> None:
    network = transformer()
    found = surveyed(network)
    plan = replace(half_open(found, "sample"), padding=found_in(found, network))
    assert plan_from_json(plan.to_json(arrays=True), where="").padding == plan.padding
    assert "padding" not in replace(plan, padding=None).to_json(arrays=True)
