"""Rows that need a region get it, all others its bypass, and no row notices what the others got."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from skipc.passes.base import run_passes
from skipc.passes.expose import ExposeDecisions, with_outputs
from skipc.passes.inject import ImposeDecisions, InjectGates
from skipc.passes.window import InputWindow
from skipc.runtime import names
from skipc.runtime.plan import Block
from tests.gated import Surveyed, block, deciding, run, surveyed, window
from tests.graphs import OPSETS, Network, conv_net, mbconv, mlp, transformer

ROWS = 4
CLOSE = 2e-4
"""Other numbers of rows make a product sum in another order: a few hundred float32 operations on values near 1."""

NETWORKS: dict[str, Callable[[], Network]] = {
    "post-norm": transformer,
    "pre-norm": lambda: transformer(norm="pre"),
    "convolutions": conv_net,
    "inverted residuals": mbconv,
    "perceptron": mlp,
}


def cases() -> Iterator[tuple[str, int, str]]:
    """Every block of every network, by every granularity that it allows."""
    for name, network in NETWORKS.items():
        for position, region in enumerate(surveyed(network()).survey.blocks):
            yield name, position, "sample"
            if len(region.dims) == 3 and not region.sides:
                yield name, position, "token"


def imposed(found: Surveyed, item: Block) -> onnx.ModelProto:
    """The network with the block's decisions as an input and its exit among the outputs."""
    return with_outputs(run_passes(found.model, [ImposeDecisions((item,))]), [item.region.exit])


def patterns(shape: tuple[int, ...]) -> list[NDArray[np.float32]]:
    """All, none, exactly one, all but one, and a random half of the rows bypassed."""
    random = np.random.default_rng(0)
    one = np.zeros(shape, np.float32)
    one[(1,) * len(shape)] = 1.0
    return [np.ones(shape, np.float32), one * 0, one, 1 - one, (random.random(shape) < 0.5).astype(np.float32)]


@pytest.mark.parametrize("kind", ["identity", "linear"])
@pytest.mark.parametrize(("name", "position", "granularity"), list(cases()))
def test_every_row_gets_what_was_decided_for_it(name: str, position: int, granularity: str, kind: str) -> None:
    network = NETWORKS[name]()
    found = surveyed(network)
    item = deciding(block(found.survey.blocks[position], kind), granularity)
    leaving, agreed = item.region.exit, names.agreed(item.region.name)
    feeds = network.feeds(batch=ROWS)
    whole = run(with_outputs(found.model, [item.region.entry, leaving]), feeds)
    entry = whole.get(item.region.entry, feeds.get(item.region.entry))
    assert entry is not None
    shape = entry.shape[:2] if granularity == "token" else entry.shape[:1]
    model = imposed(found, item)
    bypassed = run(model, {**feeds, agreed: np.ones(shape, np.float32)}, [leaving])[leaving]
    for chosen in patterns(shape):
        result = run(model, {**feeds, agreed: chosen}, [leaving])[leaving]
        np.testing.assert_allclose(result[chosen == 0], whole[leaving][chosen == 0], rtol=CLOSE, atol=CLOSE)
        np.testing.assert_allclose(result[chosen == 1], bypassed[chosen == 1], rtol=CLOSE, atol=CLOSE)


def test_the_first_if_tells_whether_rows_disagree() -> None:
    """So that no node is run to find out where all of them are bypassed."""
    network = transformer()
    found = surveyed(network)
    item = deciding(block(found.survey.blocks[0]), "sample")
    condition, agreed = f"{names.mixed(item.region.name)}/condition", names.agreed(item.region.name)
    model = run_passes(found.model, [ImposeDecisions((item,))])
    first = next(node for node in model.graph.node if node.op_type == "If")
    assert list(first.output)[1:] == [condition]
    model.graph.output.append(onnx.helper.make_tensor_value_info(condition, onnx.TensorProto.BOOL, []))
    for chosen in patterns((ROWS,)):
        told = run(model, {**network.feeds(batch=ROWS), agreed: chosen}, [condition])[condition]
        assert bool(told) == (0 < chosen.sum() < ROWS)


@pytest.mark.parametrize("granularity", ["sample", "token"])
def test_with_no_row_bypassed_the_result_is_equal_bit_for_bit(granularity: str) -> None:
    network = transformer()
    found = surveyed(network)
    items = tuple(
        deciding(block(region), granularity)
        for region in found.survey.blocks
        if granularity == "sample" or not region.sides
    )
    model = run_passes(found.model, [InjectGates(items, InputWindow())])
    feeds = network.feeds(batch=ROWS)
    shut = run(model, {**feeds, names.WINDOW: window(len(items), -np.inf)})
    for name, expected in run(found.model, feeds).items():
        assert shut[name].tobytes() == expected.tobytes()


def gated(granularity: str, *, mask: str = "", opset: int = OPSETS[-1]) -> tuple[Network, onnx.ModelProto, int]:
    """A transformer with a gate that tells rows apart before every feed-forward block, decisions exposed."""
    network = transformer(opset=opset)
    found = surveyed(network)
    items = tuple(
        deciding(block(region, seed=seed), granularity, mask)
        for seed, region in enumerate(found.survey.blocks)
        if region.kind == "feed-forward"
    )
    model = run_passes(found.model, [InjectGates(items, InputWindow()), ExposeDecisions(items)])
    return network, model, len(items)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("granularity", ["sample", "token"])
def test_a_sample_gets_the_same_in_any_company(granularity: str, opset: int) -> None:
    network, model, gates = gated(granularity, opset=opset)
    feeds = {**network.feeds(batch=8), names.WINDOW: window(gates, 0.25)}
    together = run(model, feeds)
    assert 0 < together[names.DECISIONS].mean() < 1
    for row in range(8):
        alone = run(model, {k: v if k == names.WINDOW else v[row : row + 1] for k, v in feeds.items()})
        np.testing.assert_array_equal(alone[names.DECISIONS][0], together[names.DECISIONS][row])
        for name in alone:
            np.testing.assert_allclose(alone[name][0], together[name][row], rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize("granularity", ["sample", "token"])
def test_the_reference_runtime_agrees(granularity: str) -> None:
    network, model, gates = gated(granularity, opset=17)
    feeds = {**network.feeds(batch=3), names.WINDOW: window(gates, 0.25)}
    ours = run(model, feeds)
    theirs = dict(zip(ours, ReferenceEvaluator(model).run(list(ours), feeds), strict=True))
    np.testing.assert_array_equal(ours[names.DECISIONS], theirs[names.DECISIONS])
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize("granularity", ["sample", "token"])
def test_a_batch_without_rows_gives_none(granularity: str) -> None:
    network = mlp() if granularity == "sample" else transformer()
    found = surveyed(network)
    region = next(item for item in found.survey.blocks if item.kind == "feed-forward")
    model = run_passes(found.model, [InjectGates((deciding(block(region), granularity),), InputWindow())])
    feeds = {name: value[:0] for name, value in network.feeds().items()}
    expected = run(found.model, feeds)
    for threshold in (-np.inf, 0.0, np.inf):
        result = run(model, {**feeds, names.WINDOW: window(1, threshold)})
        assert {name: value.shape for name, value in result.items()} == {k: v.shape for k, v in expected.items()}


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_broken_sample_runs_in_full_and_leaves_the_others_alone(broken: float) -> None:
    network = mlp()
    found = surveyed(network)
    item = deciding(block(found.survey.blocks[0]), "sample")
    model = run_passes(found.model, [InjectGates((item,), InputWindow()), ExposeDecisions((item,))])
    feeds = {**network.feeds(batch=ROWS), names.WINDOW: window(1, np.inf)}
    value = next(name for name in feeds if name != names.WINDOW)
    healthy = run(model, feeds)
    feeds[value] = feeds[value].copy()
    feeds[value][1] = broken
    result = run(model, feeds)
    assert result[names.DECISIONS][:, 0].tolist() == [1.0, 0.0, 1.0, 1.0]
    others = [0, 2, 3]
    for name in healthy:
        np.testing.assert_allclose(result[name][others], healthy[name][others], rtol=CLOSE, atol=CLOSE)


def test_a_masked_gate_does_not_see_padding() -> None:
    network, model, gates = gated("sample", mask="attention_mask")
    feeds = network.feeds(batch=1, length=5)
    feeds["attention_mask"] = np.ones_like(feeds["attention_mask"])
    padded = {name: np.concatenate([value, np.zeros_like(value[:, :3])], axis=1) for name, value in feeds.items()}
    limits = {names.WINDOW: window(gates, 0.25)}
    short, long = run(model, {**feeds, **limits}), run(model, {**padded, **limits})
    np.testing.assert_array_equal(short[names.DECISIONS], long[names.DECISIONS])
    np.testing.assert_allclose(short[names.SCORES], long[names.SCORES], rtol=1e-4, atol=1e-4)
