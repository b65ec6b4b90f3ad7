"""A gate may read an earlier value than its region's entry: what it decides is what that value says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from skipc.compiler.build import build
from skipc.passes.base import run_passes
from skipc.passes.expose import ExposeDecisions, with_outputs
from skipc.passes.inject import InjectGates
from skipc.passes.policy import POLICIES, with_policy
from skipc.passes.restore import Restore
from skipc.passes.window import InputWindow
from skipc.runtime import names
from skipc.runtime.plan import Block
from skipc.runtime.session import is_equal
from tests.compiled import plan_for
from tests.gated import block, deciding, random_gate, run, surveyed, window
from tests.graphs import Network, conv_net, mlp, transformer

NETWORKS = [transformer(), conv_net(), mlp()]
BACK = {"block": 0, "ahead": 1, "early": 100}


def policed(network: Network, policy: str, granularity: str) -> tuple[onnx.ModelProto, onnx.ModelProto, list[Block]]:
    """The normalised network, the gated one, and its blocks with random read-outs."""
    found = surveyed(network)
    plain = [deciding(block(region, seed=i), granularity) for i, region in enumerate(found.survey.blocks)]
    blocks = [
        replace(item, gate=replace(item.gate, weight=random_gate(item.gate.weight.size, i).weight, bias=0.25))
        for i, item in enumerate(with_policy(plain, policy))
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
    assert with_policy(plain, "early") == plain


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("network", NETWORKS, ids=["transformer", "conv", "mlp"])
def test_the_original_comes_back_byte_for_byte(network: Network, policy: str) -> None:
    normalised, _, blocks = policed(network, policy, "batch")
    built = build(normalised, plan_for(blocks))
    back = Restore().apply(built)
    assert back.SerializeToString(deterministic=True) == network.model.SerializeToString(deterministic=True)
