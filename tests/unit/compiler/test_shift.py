"""Leaving clusters out: what is chosen never looks at the cluster, and gates notice one that is unlike the rest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from skipc.compiler.certify import Claim
from skipc.compiler.data import Batch, input_specs
from skipc.compiler.executors import Local
from skipc.compiler.gate_fit import Evidence
from skipc.compiler.impact import instrument, ungated
from skipc.compiler.loss import Loss
from skipc.compiler.moments import observe
from skipc.compiler.options import Option
from skipc.compiler.running import Judged, opened, run_gated
from skipc.compiler.shift import (
    FEWEST,
    Known,
    Pattern,
    estimate_shift,
    leave_clusters_out,
    one_by_one,
    runner,
    sample_means,
)
from skipc.compiler.survey import Surveyed
from skipc.runtime.losses import relative_l2
from skipc.runtime.plan import Bypass
from skipc.runtime.session import open_session
from tests.gated import surveyed
from tests.graphs import Network, mlp

GATES, UNITS = 3, 120


def simulated(seed: int = 0) -> tuple[Known, NDArray[np.int64]]:
    """Three blocks whose losses are plain to see from x, and large in cluster 2 only; joint losses add up."""
    random = np.random.default_rng(seed)
    clusters = np.repeat([0, 1, 2], [50, 40, 30])
    losses = np.exp(random.normal(-5.0, 0.5, (GATES, UNITS))) * np.where(clusters == 2, 20.0, 1.0)
    pooled = [np.stack([np.log(row), random.standard_normal(UNITS)], axis=1).astype(np.float32) for row in losses]

    def run(units: NDArray[np.int64], patterns: Pattern) -> NDArray[np.float64]:
        return np.asarray((losses[:, units].T * patterns).sum(axis=1))

    return Known(pooled, losses, np.array([1.0, 1.0, 1.0]), 0.03, run), clusters


def test_gates_notice_a_cluster_that_is_hard_and_static_blocks_do_not() -> None:
    known, clusters = simulated()
    hard = leave_clusters_out(known, clusters)[2]
    assert hard.units == 30
    assert max(hard.gated.known_loss, hard.static.known_loss) <= known.limit
    assert hard.static.left_out_loss > 5 * known.limit
    assert hard.gated.left_out_loss < known.limit
    assert hard.gated.left_out_saved_ms < 0.1 * hard.gated.known_saved_ms
    assert hard.static.left_out_saved_ms == hard.static.known_saved_ms == 3.0


def test_what_is_chosen_keeps_to_the_limit_where_it_was_chosen() -> None:
    known, clusters = simulated()
    for limit in (0.003, 0.01, 0.03, 0.3):
        for found in leave_clusters_out(replace(known, limit=limit), clusters):
            assert max(found.gated.known_loss, found.static.known_loss) <= limit


def test_all_is_bypassed_where_the_limit_allows_it() -> None:
    known, clusters = simulated()
    found = leave_clusters_out(replace(known, limit=1.0), clusters)
    assert all(item.static.known_saved_ms == item.gated.known_saved_ms == GATES for item in found)


def test_the_choice_does_not_look_at_the_cluster() -> None:
    """Losses inside the cluster may be anything: what is done outside, and what is bypassed inside, stays the same."""
    known, clusters = simulated()
    before = leave_clusters_out(known, clusters)[1]
    changed = known.losses.copy()
    changed[:, clusters == 1] = 1.0
    after = leave_clusters_out(replace(known, losses=changed), clusters)[1]
    assert before == after


def test_small_clusters_are_not_left_out() -> None:
    known, _ = simulated()
    clusters = np.repeat([0, 1, 2], [UNITS - 2 * FEWEST + 1, FEWEST, FEWEST - 1])
    assert [item.units for item in leave_clusters_out(known, clusters)] == [UNITS - 2 * FEWEST + 1, FEWEST]
    assert leave_clusters_out(known, np.zeros(UNITS, np.int64)) == ()


LOSS = Loss("relative-l2", relative_l2)


def judged(network: Network, sizes: list[int]) -> Judged:
    session = open_session(network.model.SerializeToString())
    items, start = [], 0
    for seed, size in enumerate(sizes):
        items.append(Batch(network.feeds(batch=size, seed=seed), tuple(range(start, start + size)), None))
        start += size
    references = tuple(session.run(item.feeds)["y"] for item in items)
    return Judged(tuple(items), references, (None,) * len(items), "y")


def test_patterns_are_run_and_remembered() -> None:
    network = mlp()
    found = surveyed(network)
    blocks = [ungated(region, Bypass("identity")) for region in found.survey.blocks]
    model = instrument(found.model, blocks, Local())
    data = judged(network, [1, 1, 1])
    run = runner(model.session, data, LOSS)
    patterns = np.array([[False] * 3, [True, False, True], [True, False, True]])
    losses = run(np.array([0, 1, 2]), patterns)
    assert losses[0] == pytest.approx(0.0, abs=1e-6)
    expected = run_gated(model, opened(3, [0, 2]), data, LOSS).losses
    np.testing.assert_array_equal(losses[1:], expected[1:])
    np.testing.assert_array_equal(run(np.array([2, 1]), patterns[1:]), expected[[2, 1]])


def test_batches_are_taken_apart() -> None:
    network = mlp()
    original = open_session(network.model.SerializeToString())
    labelled = replace(judged(network, [2, 1, 3]), labels=(np.array([0, 1]), np.array([2]), np.array([3, 4, 5])))
    rows = [{"x": row[None]} for item in labelled.items for row in item.feeds["x"]]
    single = [Batch(row, (i,), None) for i, row in enumerate(rows)]
    found = one_by_one(original, labelled, single, LOSS, 4)
    assert [item.feeds["x"].tolist() for item in found.items] == [row["x"].tolist() for row in rows[:4]]
    assert [labels.tolist() for labels in found.labels if labels is not None] == [[0], [1], [2], [3]]
    np.testing.assert_allclose(np.concatenate(found.references), np.concatenate(labelled.references)[:4], atol=1e-6)
    assert one_by_one(original, replace(labelled, labels=(None,) * 3), single, LOSS, 4).labels == (None,) * 4


def test_samples_of_several_rows_are_averaged() -> None:
    pooled = np.arange(12, dtype=np.float32).reshape(6, 2)
    np.testing.assert_array_equal(sample_means(pooled, 6), pooled)
    np.testing.assert_array_equal(sample_means(pooled, 2), [[2, 3], [8, 9]])


def test_a_network_is_estimated_the_same_way_every_time() -> None:
    network = mlp()
    found = surveyed(network)
    data = judged(network, [1] * 80)
    evidence = Evidence(observe(found.model, found.survey.blocks, data.items, 0), data, data.items, (), "")
    options = [Option(region, Bypass("identity"), 0.1, 1.0) for region in found.survey.blocks]
    claim = Claim(LOSS, "y", 0.4, 0.95, binary=False)
    whole = Surveyed(found.original, found.model, input_specs(found.model), found.survey, {})
    original = open_session(found.model.SerializeToString())
    first, second = (estimate_shift(whole, original, options, evidence, claim, 0) for _ in range(2))
    assert first == second
    assert 2 <= len(first) <= 4
    assert sum(item.units for item in first) <= 80
    assert estimate_shift(whole, original, [], evidence, claim, 0) == ()
