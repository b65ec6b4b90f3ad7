"""A read-out answers where it is sure, the rest of the network where it is not, and nothing odd is ever sure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import onnx
import pytest

from skipc.compiler.build import build, serialized
from skipc.compiler.probe import probe_types
from skipc.compiler.read_out import Pooling, poolings
from skipc.passes.base import run_passes
from skipc.passes.expose import ExposeDecisions, with_outputs
from skipc.passes.inject import InjectGates
from skipc.passes.restore import Restore
from skipc.passes.second_look import NAME, find_second_looks
from skipc.passes.window import InputWindow
from skipc.runtime import names
from skipc.runtime.plan import Array, Block, Bypass, Gate, Plan, Region, plan_from_json
from tests.gated import run, surveyed, window
from tests.graphs import Network, conv_net, mbconv, mlp, transformer

ROWS = 6
CLOSE = 2e-4
"""Float32 sums of a few hundred terms near 1, in another order."""

NETWORKS: dict[str, Callable[[], Network]] = {"convolutions": conv_net, "inverted": mbconv, "perceptron": mlp}


@dataclass(frozen=True)
class Case:
    """A network with a second look at one place."""

    network: Network
    model: onnx.ModelProto
    block: Block
    pooling: Pooling

    def gated(self) -> onnx.ModelProto:
        """Instrumented, with decisions and scores among the outputs."""
        return run_passes(self.model, [InjectGates((self.block,), InputWindow()), ExposeDecisions((self.block,))])

    def values(self, feeds: dict[str, Array]) -> tuple[Array, Array]:
        """What the read-out makes of the entry value by numpy, and the original's class scores."""
        region, arrays = self.block.region, self.block.bypass.arrays
        found = run(with_outputs(self.model, [region.entry, region.exit]), feeds)
        return self.pooling.of(found[region.entry]) @ arrays["weight"] + arrays["shift"], found[region.exit]


def places(network: Network) -> tuple[onnx.ModelProto, tuple[Region, ...], dict[str, object]]:
    found = surveyed(network)
    types = probe_types(found.model, [network.feeds(batch=1, length=4), network.feeds(batch=2, length=5)])
    output = found.model.graph.output[0].name
    return found.model, find_second_looks(found.model, found.survey.blocks, types, output), dict(types)


def case(name: str, position: int = 0, granularity: str = "sample", cells: int = -1) -> Case:
    network = NETWORKS[name]()
    model, regions, _ = places(network)
    region = regions[position]
    types = probe_types(model, [network.feeds(batch=1, length=4), network.feeds(batch=2, length=5)])
    pooling = poolings(types[region.entry], 1)[cells]
    entry = run(with_outputs(model, [region.entry]), network.feeds(batch=1))[region.entry]
    random = np.random.default_rng(position)
    weight = random.standard_normal((pooling.of(entry).shape[1], region.channels)).astype(np.float32)
    shift = random.standard_normal(region.channels).astype(np.float32)
    bypass = Bypass("read-out", {**pooling.arrays, "weight": weight, "shift": shift})
    gate = Gate("top", np.array([-0.5, 0.5], np.float32), -1.0, floor=-np.inf, granularity=granularity)
    return Case(network, model, Block(region, bypass, gate), pooling)


def margins(scores: Array) -> Array:
    ordered = np.sort(scores, axis=1)
    return np.asarray(ordered[:, -1] - ordered[:, -2])


@pytest.mark.parametrize("granularity", ["sample", "batch"])
@pytest.mark.parametrize("name", NETWORKS)
def test_each_sample_gets_what_its_own_margin_says(name: str, granularity: str) -> None:
    each = case(name, granularity=granularity)
    feeds = each.network.feeds(batch=ROWS, seed=3)
    first, full = each.values(feeds)
    scores = -1.0 - 0.5 * margins(first)
    threshold = float(np.median(scores))
    output = each.model.graph.output[0].name
    found = run(each.gated(), {**feeds, names.WINDOW: window(1, threshold)})
    np.testing.assert_allclose(found[names.SCORES][:, 0], scores, rtol=CLOSE, atol=CLOSE)
    sure = scores < threshold if granularity == "sample" else np.zeros(ROWS, bool)
    assert 0 < int((scores < threshold).sum()) < ROWS
    np.testing.assert_array_equal(found[names.DECISIONS][:, 0], sure)
    np.testing.assert_allclose(found[output], np.where(sure[:, None], first, full), rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize("name", NETWORKS)
def test_open_it_is_the_read_out_and_shut_it_is_the_original_bit_for_bit(name: str) -> None:
    each = case(name, granularity="batch")
    feeds = each.network.feeds(batch=ROWS)
    first, full = each.values(feeds)
    output = each.model.graph.output[0].name
    opened = run(each.gated(), {**feeds, names.WINDOW: window(1, np.inf)})[output]
    shut = run(each.gated(), {**feeds, names.WINDOW: window(1, -np.inf)})[output]
    np.testing.assert_allclose(opened, first, rtol=CLOSE, atol=CLOSE)
    np.testing.assert_array_equal(shut, full)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_no_number_or_infinite_runs_the_full_network(odd: float) -> None:
    each = case("perceptron")
    shift = each.block.bypass.arrays["shift"].copy()
    shift[1] = odd
    bypass = replace(each.block.bypass, arrays={**each.block.bypass.arrays, "shift": shift})
    each = replace(each, block=replace(each.block, bypass=bypass))
    feeds = each.network.feeds(batch=ROWS)
    found = run(each.gated(), {**feeds, names.WINDOW: window(1, np.inf)})
    np.testing.assert_array_equal(found[names.DECISIONS], 0.0)
    np.testing.assert_allclose(found[each.model.graph.output[0].name], each.values(feeds)[1], rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize("cells", [0, -1])
def test_the_graph_pools_as_the_fit_does(cells: int) -> None:
    each = case("convolutions", position=1, cells=cells)
    feeds = each.network.feeds(batch=2)
    found = run(with_outputs(each.gated(), [names.first_look(NAME)]), {**feeds, names.WINDOW: window(1, np.inf)})
    np.testing.assert_allclose(found[names.first_look(NAME)], each.values(feeds)[0], rtol=CLOSE, atol=CLOSE)


def plan(block: Block) -> Plan:
    return Plan(
        model_digest="0",
        data_digests={},
        blocks=(block,),
        thresholds=((-np.inf,), (-2.0,)),
        level=1,
        certificate=None,
        loss="top1",
        batch_size=1,
        threads=1,
        provider="cpu",
        seed=0,
        versions={},
    )


@pytest.mark.parametrize("granularity", ["sample", "batch"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_plan_survives_json_and_the_original_comes_back(name: str, granularity: str) -> None:
    each = case(name, position=1, granularity=granularity)
    read = plan_from_json(plan(each.block).to_json(arrays=True), where="")
    compiled = build(each.model, read)
    assert serialized(compiled) == serialized(build(each.model, plan(each.block)))
    assert run_passes(compiled, [Restore()]).graph == each.model.graph


def test_places_run_from_the_first_block_to_the_class_scores() -> None:
    _, regions, _ = places(conv_net(blocks=3))
    ends = surveyed(conv_net(blocks=3)).survey.blocks
    assert [region.entry for region in regions] == [ends[0].entry, *(block.exit for block in ends)]
    assert {region.exit for region in regions} == {"logits"}
    assert [len(region.nodes) for region in regions] == sorted((len(region.nodes) for region in regions), reverse=True)


def test_the_scores_are_read_before_a_softmax() -> None:
    network = conv_net()
    graph = network.model.graph
    graph.node.append(onnx.helper.make_node("Softmax", ["logits"], ["odds"], name="softmax", axis=1))
    graph.output[0].name = "odds"
    _, regions, _ = places(network)
    assert regions
    assert {region.exit for region in regions} == {"logits"}


def test_no_place_where_another_output_would_not_be_looked_at_again() -> None:
    network = conv_net()
    graph = network.model.graph
    flat = next(node for node in graph.node if node.op_type == "Flatten").output[0]
    graph.output.append(onnx.helper.make_tensor_value_info(flat, onnx.TensorProto.FLOAT, ["batch", 8]))
    assert places(network)[1] == ()


def test_no_place_in_a_network_that_gives_no_class_scores() -> None:
    assert places(transformer())[1] == ()
