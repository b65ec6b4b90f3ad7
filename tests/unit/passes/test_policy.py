"""A gate may read an earlier value than its region's entry: what it decides is what that value says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper

from skipc.passes.base import copied, run_passes
from skipc.passes.cut import renamed
from skipc.passes.expose import ExposeDecisions, with_outputs
from skipc.passes.flow import Flow
from skipc.passes.inject import InjectGates, ReplaceRegions
from skipc.passes.narrow import constants_of, find_hidden
from skipc.passes.policy import POLICIES, RUN, with_policy
from skipc.passes.restore import Restore
from skipc.passes.window import InputWindow
from skipc.runtime import names
from skipc.runtime.plan import Block, Bypass, Region, plan_from_json
from skipc.runtime.session import is_equal
from tests.compiled import built, plan_for
from tests.gated import Surveyed, assert_equal, block, deciding, instrumented, random_gate, run, surveyed, window
from tests.graphs import Network, conv_net, mlp, transformer

NETWORKS = [transformer(), conv_net(), mlp()]
BACK = {"block": 0, "ahead": 1, "early": 100, "merged": 0}


def policed(network: Network, policy: str, granularity: str) -> tuple[onnx.ModelProto, onnx.ModelProto, list[Block]]:
    """The normalised network, the gated one, and its blocks with random read-outs."""
    found = surveyed(network)
    plain = [deciding(block(region, seed=i), granularity) for i, region in enumerate(found.survey.blocks)]
    blocks = [
        replace(item, gate=replace(item.gate, weight=random_gate(item.gate.weight.size, i).weight, bias=0.25))
        for i, item in enumerate(with_policy(plain, policy, Flow.of(found.model.graph)))
    ]
    gated = run_passes(found.model, [InjectGates(tuple(blocks), InputWindow()), ExposeDecisions(tuple(blocks))])
    return found.model, gated, blocks


@pytest.mark.parametrize("granularity", ["batch", "sample"])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("network", NETWORKS, ids=["transformer", "conv", "mlp"])
def test_a_gate_decides_by_the_value_that_its_policy_names(network: Network, policy: str, granularity: str) -> None:
    _, gated, blocks = policed(network, policy, granularity)
    sources = [blocks[max(0, i - BACK[policy])].region for i in range(len(blocks))]
    inputs = {item.name for item in gated.graph.input}
    read = [source.entry for source in dict.fromkeys(sources) if source.entry not in inputs]
    feeds = {**network.feeds(batch=3), names.WINDOW: window(len(blocks), 0.25)}
    found = run(with_outputs(gated, read), feeds)
    for number, (item, source) in enumerate(zip(blocks, sources, strict=True)):
        entry = np.moveaxis({**feeds, **found}[source.entry].astype(np.float64), source.channel_axis, -1)
        scores = entry.reshape(3, -1, source.channels).mean(axis=1) @ item.gate.weight.astype(np.float64) + 0.25
        # Sums of at most 36 x 16 float32 products; values grow with the blocks before.
        np.testing.assert_allclose(found[names.SCORES][:, number], scores, rtol=1e-4, atol=1e-4)
        agreed = found[names.SCORES][:, number] < 0.25
        expected = agreed if granularity == "sample" else np.repeat(agreed.all(), 3)
        assert found[names.DECISIONS][:, number].tolist() == expected.astype(float).tolist()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("network", NETWORKS, ids=["transformer", "conv", "mlp"])
def test_gates_shut_compute_what_the_original_computes(network: Network, policy: str) -> None:
    original, gated, blocks = policed(network, policy, "batch")
    feeds = network.feeds(batch=3)
    expected = run(original, feeds)
    found = run(gated, {**feeds, names.WINDOW: window(len(blocks), -np.inf)})
    assert all(is_equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize("policy", ["ahead", "early"])
def test_what_is_no_number_runs_in_full(policy: str) -> None:
    network = mlp()
    _, gated, blocks = policed(network, policy, "batch")
    feeds = {name: np.full_like(value, np.nan) for name, value in network.feeds(batch=2).items()}
    found = run(gated, {**feeds, names.WINDOW: window(len(blocks), np.inf)})
    assert not found[names.DECISIONS].any()


def test_gates_of_tokens_keep_their_own_entry() -> None:
    found = surveyed(transformer())
    plain = tuple(deciding(block(region), "token") for region in found.survey.blocks)
    assert with_policy(plain, "early", Flow.of(found.model.graph)) == plain


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("network", NETWORKS, ids=["transformer", "conv", "mlp"])
def test_the_original_comes_back_byte_for_byte(network: Network, policy: str) -> None:
    _, _, blocks = policed(network, policy, "batch")
    back = Restore().apply(built(surveyed(network), blocks))
    assert back.SerializeToString(deterministic=True) == network.model.SerializeToString(deterministic=True)


KINDS = ("linear", "identity", "low-rank", "affine")


def merged(network: Network, granularity: str) -> tuple[onnx.ModelProto, list[Block], list[Block]]:
    """The normalised network, its blocks with bypasses of all kinds, and those blocks merged."""
    found = surveyed(network)
    plain = [
        deciding(block(region, KINDS[i % len(KINDS)], seed=i), granularity)
        for i, region in enumerate(found.survey.blocks)
    ]
    return found.model, plain, list(with_policy(plain, "merged", Flow.of(found.model.graph)))


@pytest.mark.parametrize("network", NETWORKS, ids=["transformer", "conv", "mlp"])
def test_one_gate_decides_for_a_run_of_neighbours(network: Network) -> None:
    _, plain, blocks = merged(network, "batch")
    assert any(item.bypass.kind == "chain" for item in blocks)
    parts = [part.region.name for item in blocks for part in item.bypass.parts or [item]]
    assert parts == [item.region.name for item in plain]
    assert max(len(item.bypass.parts) for item in blocks) <= RUN


def test_only_regions_that_can_always_be_bypassed_share_a_gate() -> None:
    found = surveyed(transformer(layers=2))
    plain = [deciding(block(region), "batch") for region in found.survey.blocks]
    regions = [item.region.name for item in plain]
    blocks = with_policy(plain, "merged", Flow.of(found.model.graph), steady={*regions[:2], regions[3]})
    assert [item.region.name for item in blocks] == [f"{regions[0]}..{regions[1]}", *regions[2:]]


def test_behind_the_first_run_one_gate_decides_for_all_neighbours() -> None:
    found = surveyed(transformer(layers=6))
    plain = [deciding(block(region), "batch") for region in found.survey.blocks]
    regions = [item.region.name for item in plain]
    assert len(regions) > 2 * RUN + 1
    flow = Flow.of(found.model.graph)
    blocks = with_policy(plain, "merged", flow, steady=set(regions))
    assert [len(item.bypass.parts) for item in blocks] == [RUN, len(regions) - RUN]
    alone = with_policy(plain, "merged", flow, steady=set(regions[1:]))
    assert [len(item.bypass.parts) for item in alone] == [0, RUN, len(regions) - 1 - RUN]


@pytest.mark.parametrize("network", NETWORKS, ids=["transformer", "conv", "mlp"])
def test_an_open_gate_of_a_run_runs_the_bypasses_of_its_parts(network: Network) -> None:
    original, plain, blocks = merged(network, "batch")
    feeds = network.feeds(batch=3)
    opened = [
        run(instrumented(original, items), {**feeds, names.WINDOW: window(len(items), np.inf)})
        for items in (plain, blocks)
    ]
    assert_equal(opened[1], opened[0])
    static = [run(run_passes(original, [ReplaceRegions(tuple(items))]), feeds) for items in (plain, blocks)]
    assert_equal(static[1], static[0])


@pytest.mark.parametrize("network", NETWORKS, ids=["transformer", "conv", "mlp"])
def test_each_sample_of_a_run_gets_what_it_gets_alone(network: Network) -> None:
    original, _, blocks = merged(network, "sample")
    assert_apart(network, original, blocks)


def assert_apart(network: Network, original: onnx.ModelProto, blocks: list[Block]) -> None:
    """Samples of which some are bypassed get what they get alone."""
    feeds = network.feeds(batch=5)
    gated = run_passes(original, [InjectGates(tuple(blocks), InputWindow()), ExposeDecisions(tuple(blocks))])
    scores = run(gated, {**feeds, names.WINDOW: window(len(blocks), -np.inf)})[names.SCORES]
    limits = window(len(blocks), 0.0)
    limits[0] = np.median(scores, axis=0)
    together = run(gated, {**feeds, names.WINDOW: limits})
    assert 0 < together[names.DECISIONS].mean() < 1
    for row in range(5):
        alone = run(gated, {name: array[row : row + 1] for name, array in feeds.items()} | {names.WINDOW: limits})
        for name in together:
            # Products of several rows may be summed in another order than those of one.
            np.testing.assert_allclose(together[name][row : row + 1], alone[name], rtol=1e-4, atol=1e-5)


def test_what_is_read_between_two_regions_keeps_them_apart() -> None:
    network = mlp()
    found = surveyed(network)
    plain = [block(region) for region in found.survey.blocks]
    shown = with_outputs(found.model, [plain[0].region.exit])
    blocks = with_policy(plain, "merged", Flow.of(shown.graph))
    assert blocks[0] == plain[0]


def test_a_plan_keeps_the_parts_of_a_run() -> None:
    _, _, blocks = merged(transformer(), "sample")
    plan = plan_for(blocks)
    text = plan.to_json(arrays=True)
    again = plan_from_json(text, where="")
    assert again.to_json(arrays=True) == text
    assert [len(item.bypass.parts) for item in again.blocks] == [len(item.bypass.parts) for item in blocks]


def narrowed(found: Surveyed, region: Region, seed: int) -> Block:
    """A block on its first two hidden units with a random projection; a linear one where nothing can be narrowed."""
    item = block(region, seed=seed)
    hidden = find_hidden(Flow.of(found.model.graph), constants_of(found.model.graph), region)
    if hidden is None:
        return item
    down = np.random.default_rng(seed).standard_normal((2, region.channels)).astype(np.float32)
    return replace(item, bypass=Bypass("narrow", {**item.bypass.arrays, "units": np.array([0, 1]), "down": down}))


def test_a_narrow_part_of_a_run() -> None:
    network = transformer()
    found = surveyed(network)
    plain = [narrowed(found, region, seed=i) for i, region in enumerate(found.survey.blocks)]
    assert "narrow" in {item.bypass.kind for item in plain}
    blocks = with_policy(plain, "merged", Flow.of(found.model.graph))
    assert blocks[0].bypass.kind == "chain"
    feeds = network.feeds(batch=3)
    opened = [
        run(instrumented(found.model, items), {**feeds, names.WINDOW: window(len(items), np.inf)})
        for items in (plain, blocks)
    ]
    assert_equal(opened[1], opened[0])
    back = Restore().apply(built(found, blocks))
    assert back.SerializeToString(deterministic=True) == network.model.SerializeToString(deterministic=True)


def test_so_does_a_node_that_nobody_uses() -> None:
    network = mlp()
    found = surveyed(network)
    plain = [block(region) for region in found.survey.blocks]
    model = onnx.ModelProto()
    model.CopyFrom(found.model)
    model.graph.node.append(onnx.helper.make_node("Neg", [plain[0].region.exit], ["unused"], name="unused"))
    blocks = with_policy(plain, "merged", Flow.of(model.graph))
    assert blocks[0] == plain[0]
    run_passes(model, [InjectGates(blocks, InputWindow())])


def bridged(granularity: str = "batch") -> tuple[Network, Surveyed, list[Block], list[Block]]:
    """A network in which every other region has a bypass, those blocks, and the same behind as few gates as can be."""
    network = transformer(layers=6)
    found = surveyed(network)
    regions = found.survey.blocks
    chosen = [*regions[:RUN], *regions[RUN + 1 :: 2]]
    plain = [deciding(block(region, seed=i), granularity) for i, region in enumerate(chosen)]
    steady = {region.name for region in chosen}
    return network, found, plain, list(with_policy(plain, "merged", Flow.of(found.model.graph), steady, regions))


def test_what_is_not_bypassed_may_lie_between_two_that_share_a_gate() -> None:
    _, found, plain, blocks = bridged()
    regions = found.survey.blocks
    assert [item.region.name for item in blocks] == [
        f"{regions[0].name}..{regions[RUN - 1].name}",
        f"{regions[RUN + 1].name}..{regions[-1].name}",
    ]
    parts = blocks[1].bypass.parts
    assert [part.region for part in parts] == list(regions[RUN + 1 :])
    assert [part.is_bypassed for part in parts] == [True, False] * (len(parts) // 2) + [True]
    without = with_policy(plain, "merged", Flow.of(found.model.graph), {item.region.name for item in plain})
    assert len(without) == 1 + len(plain) - RUN


@pytest.mark.parametrize("value", [np.inf, -np.inf], ids=["open", "shut"])
@pytest.mark.parametrize("granularity", ["batch", "sample"])
def test_a_region_between_two_of_a_run_gives_what_it_always_does(value: float, granularity: str) -> None:
    network, found, plain, blocks = bridged(granularity)
    feeds = network.feeds(batch=3)
    apart, together = (
        run(instrumented(found.model, items), {**feeds, names.WINDOW: window(len(items), value)})
        for items in (plain, blocks)
    )
    assert_equal(together, apart)
    back = Restore().apply(built(found, blocks))
    assert back.SerializeToString(deterministic=True) == network.model.SerializeToString(deterministic=True)


def test_samples_of_a_run_with_such_a_region_stay_apart() -> None:
    network, found, _, blocks = bridged("sample")
    assert_apart(network, found.model, blocks)


def test_kernels_are_in_no_two_branches() -> None:
    found = surveyed(conv_net(blocks=8))
    regions = found.survey.blocks
    assert len(regions) > RUN + 2
    chosen = [*regions[:RUN], regions[RUN], regions[RUN + 2]]
    plain = [deciding(block(region), "batch") for region in chosen]
    steady = {region.name for region in chosen}
    blocks = with_policy(plain, "merged", Flow.of(found.model.graph), steady, regions)
    assert all(part.is_bypassed for item in blocks for part in item.bypass.parts)


def test_graphs_within_graphs_are_not_copied() -> None:
    _, found, plain, blocks = bridged()
    gap = next(part.region for part in blocks[1].bypass.parts if not part.is_bypassed)
    model = copied(found.model)
    node = next(node for node in model.graph.node if node.name in gap.nodes)
    inner = helper.make_graph([renamed(node, {node.output[0]: "inner"})], "inner", [], [])
    node.attribute.append(helper.make_attribute("then_branch", inner))
    steady = {item.region.name for item in plain}
    apart = with_policy(plain, "merged", Flow.of(model.graph), steady, found.survey.blocks)
    assert gap not in [part.region for item in apart for part in item.bypass.parts]
    assert len(apart) == len(blocks) + 1


@pytest.mark.parametrize("weights", ["auto", "branch", "outer"])
def test_weights_of_such_a_region_are_there_for_both_branches(weights: str) -> None:
    network, found, _, blocks = bridged()
    feeds = network.feeds(batch=2)
    placed = [replace(item, region=replace(item.region, weights=weights)) for item in blocks]
    model = built(found, placed)
    onnx.checker.check_model(model)
    assert_equal(run(model, feeds), run(built(found, blocks), feeds))
