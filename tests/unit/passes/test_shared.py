"""Gates that read the same value share their nodes, and decide as each would by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from skipc.passes.base import run_passes
from skipc.passes.expose import ExposeDecisions, with_outputs
from skipc.passes.flow import Flow, subgraphs
from skipc.passes.inject import ImposeDecisions, InjectGates
from skipc.passes.normalize import Normalize
from skipc.passes.policy import POLICIES, with_policy
from skipc.passes.restore import Restore
from skipc.passes.shared import groups_of
from skipc.passes.window import InputWindow
from skipc.runtime import names
from skipc.runtime.plan import Block, Region
from tests.compiled import built
from tests.gated import Array, assert_equal, block, deciding, random_gate, run, surveyed, window
from tests.graphs import OPSETS, Network, conv_net, mlp, transformer

BATCH = 6
Taught = tuple[onnx.ModelProto, onnx.ModelProto, tuple[Block, ...]]
KINDS = ("linear", "identity")


def gated(network: Network, policy: str, granularity: str) -> Taught:
    """The normalised network, the gated one, and its blocks; read-outs and bypasses are random."""
    found = surveyed(network)
    return taught(found.model, found.survey.blocks, policy, granularity)


def taught(original: onnx.ModelProto, regions: Sequence[Region], policy: str, granularity: str) -> Taught:
    plain = [deciding(block(region, KINDS[i % 2], seed=i), granularity) for i, region in enumerate(regions)]
    blocks = tuple(
        replace(item, gate=replace(item.gate, weight=random_gate(item.gate.weight.size, i).weight, bias=0.25))
        for i, item in enumerate(with_policy(plain, policy, Flow.of(original.graph)))
    )
    return original, run_passes(original, [InjectGates(blocks, InputWindow()), ExposeDecisions(blocks)]), blocks


def half(build: Callable[..., Network], elem_type: int, policy: str, granularity: str) -> Taught:
    """The same in half precision. ONNX Runtime runs no bfloat16 on the CPU, so regions are found in float32."""
    regions = [replace(region, elem_type=elem_type) for region in surveyed(build()).survey.blocks]
    model = run_passes(build(elem_type=elem_type).model, [Normalize()])
    return taught(model, regions, policy, granularity)


def medians(model: onnx.ModelProto, blocks: Sequence[Block], feeds: dict[str, Array]) -> Array:
    """Thresholds that about half of the samples stay below, at every gate."""
    limits = window(len(blocks), 0.0)
    limits[0] = np.median(run(model, {**feeds, names.WINDOW: window(len(blocks), -np.inf)})[names.SCORES], axis=0)
    return limits


def operators(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes of ours, those in branches included."""
    for node in graph.node:
        yield from (node,) if names.is_ours(node.name) else ()
        for inner in subgraphs(node):
            yield from operators(inner)


def count(model: onnx.ModelProto, op_type: str) -> int:
    return sum(node.op_type == op_type for node in operators(model.graph))


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("network", [transformer, conv_net, mlp])
def test_each_sample_is_run_as_its_own_decisions_say(network: Callable[..., Network], opset: int) -> None:
    example = network(opset=opset)
    original, model, blocks = gated(example, "early", "sample")
    feeds = example.feeds(batch=BATCH)
    found = run(model, {**feeds, names.WINDOW: medians(model, blocks, feeds)})
    decisions = found[names.DECISIONS]
    assert ((decisions == 0) | (decisions == 1)).all()
    assert 0 < decisions.mean() < 1
    imposed = run_passes(original, [ImposeDecisions(blocks)])
    agreed = {names.agreed(item.region.name): decisions[:, i].copy() for i, item in enumerate(blocks)}
    assert_equal(found, run(imposed, {**feeds, **agreed}))


@pytest.mark.parametrize("threshold", [-np.inf, np.inf])
@pytest.mark.parametrize("granularity", ["batch", "sample"])
def test_all_samples_one_way(granularity: str, threshold: float) -> None:
    example = transformer()
    original, model, blocks = gated(example, "early", granularity)
    feeds = example.feeds(batch=BATCH)
    found = run(model, {**feeds, names.WINDOW: window(len(blocks), threshold)})
    assert (found[names.DECISIONS] == (threshold > 0)).all()
    imposed = run_passes(original, [ImposeDecisions(blocks)])
    rows = np.full(BATCH, threshold > 0, np.float32)
    assert_equal(found, run(imposed, {**feeds, **{names.agreed(item.region.name): rows for item in blocks}}))


def test_a_batch_is_decided_on_as_one() -> None:
    example = transformer()
    _, model, blocks = gated(example, "early", "batch")
    feeds = example.feeds(batch=BATCH)
    limits = medians(model, blocks, feeds)
    scores = run(model, {**feeds, names.WINDOW: window(len(blocks), -np.inf)})[names.SCORES]
    limits[0, ::2] = scores.max(axis=0)[::2] + 0.1
    found = run(model, {**feeds, names.WINDOW: limits})
    expected = (found[names.SCORES] < limits[0]).all(axis=0)
    assert 0 < expected.mean() < 1
    np.testing.assert_array_equal(found[names.DECISIONS], np.tile(expected.astype(np.float32), (BATCH, 1)))


def test_one_sample_that_is_no_number_runs_in_full_and_the_others_as_they_should() -> None:
    example = mlp()
    _, model, blocks = gated(example, "early", "sample")
    feeds = {name: array.copy() for name, array in example.feeds(batch=BATCH).items()}
    feeds["x"][2] = np.nan
    found = run(model, {**feeds, names.WINDOW: window(len(blocks), np.inf)})
    expected = np.ones((BATCH, len(blocks)), np.float32)
    expected[2] = 0.0
    np.testing.assert_array_equal(found[names.DECISIONS], expected)


@pytest.mark.parametrize("granularity", ["batch", "sample"])
def test_the_value_is_pooled_and_the_rows_are_counted_once(granularity: str) -> None:
    _, model, blocks = gated(conv_net(blocks=3), "early", granularity)
    assert len(blocks) == 3
    compared = 1 + (granularity == "sample")
    assert (count(model, "ReduceMean"), count(model, "Gemm"), count(model, "Less")) == (1, 1, compared)
    assert count(model, "NonZero") == (granularity == "sample")
    assert count(gated(conv_net(blocks=3), "block", "sample")[1], "NonZero") > 3


@pytest.mark.parametrize("granularity", ["batch", "sample"])
@pytest.mark.parametrize("opset", OPSETS)
def test_the_original_comes_back_byte_for_byte(opset: int, granularity: str) -> None:
    example = transformer(opset=opset)
    _, _, blocks = gated(example, "early", granularity)
    back = Restore().apply(built(surveyed(example), blocks))
    assert back.SerializeToString(deterministic=True) == example.model.SerializeToString(deterministic=True)


HALVES: dict[int, np.dtype] = {
    TensorProto.FLOAT16: np.dtype(np.float16),
    TensorProto.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
}
WITHOUT_KERNEL = {"ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "Greater", "Less", "GlobalAveragePool", "Gemm"}
"""Operators of which ONNX Runtime has no CUDA kernel for bfloat16, and others that would round scores."""


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("granularity", ["batch", "sample", "token"])
@pytest.mark.parametrize("elem_type", HALVES)
def test_gates_compute_in_float32_whatever_the_network_does(elem_type: int, granularity: str, policy: str) -> None:
    _, model, _ = half(transformer, elem_type, policy, granularity)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    types = {item.name: item.type.tensor_type.elem_type for item in (*inferred.value_info, *inferred.input)}
    types |= {item.name: item.data_type for item in inferred.initializer}
    # Copies of a region's own tail compute as the region does.
    ours = [item for item in operators(model.graph) if "/tail/" not in item.name]
    checked = [item for item in ours if item.op_type in WITHOUT_KERNEL]
    assert checked
    assert {types[item.input[0]] for item in checked} == {TensorProto.FLOAT}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("elem_type", HALVES)
def test_scores_of_a_half_precision_network_are_what_float32_makes_of_its_values(elem_type: int, policy: str) -> None:
    _, model, blocks = half(mlp, elem_type, policy, "batch")
    read = [item.gate.reading.value if item.gate.reading else item.region.entry for item in blocks]
    shown = with_outputs(model, read)
    feeds = {**mlp(elem_type=elem_type).feeds(batch=3), names.WINDOW: window(len(blocks), -np.inf)}
    outputs = [item.name for item in shown.graph.output]
    found = {**feeds, **dict(zip(outputs, ReferenceEvaluator(shown).run(outputs, feeds), strict=True))}
    for number, (item, value) in enumerate(zip(blocks, read, strict=True)):
        assert found[value].dtype == HALVES[elem_type]
        scores = found[value].astype(np.float64) @ item.gate.weight.astype(np.float64) + 0.25
        # Sums of 12 float32 products: far below the steps of either half precision.
        np.testing.assert_allclose(found[names.SCORES][:, number], scores, rtol=1e-5, atol=1e-5)


def test_gates_with_features_along_other_axes_of_one_value_stand_alone() -> None:
    first = block(surveyed(conv_net()).survey.blocks[0])
    turned = replace(first, region=replace(first.region, channel_axis=len(first.region.dims) - 1))
    assert groups_of([first, first]) == ((0, 1),)
    assert groups_of([first, turned]) == ((0,), (1,))


@pytest.mark.parametrize("threshold", [None, -np.inf, np.inf])
@pytest.mark.parametrize("network", [transformer, conv_net, mlp])
def test_another_runtime_gives_the_same(network: Callable[..., Network], threshold: float | None) -> None:
    """Also where a Split hands out no rows at all."""
    example = network(opset=17)
    _, model, blocks = gated(example, "early", "sample")
    feeds = example.feeds(batch=BATCH)
    limits = medians(model, blocks, feeds) if threshold is None else window(len(blocks), threshold)
    expected = run(model, {**feeds, names.WINDOW: limits})
    found = ReferenceEvaluator(model).run(list(expected), {**feeds, names.WINDOW: limits})
    for name, array in zip(expected, found, strict=True):
        # Sums of at most 36 x 16 float32 products, in another order.
        np.testing.assert_allclose(array, expected[name], rtol=1e-4, atol=1e-5)
