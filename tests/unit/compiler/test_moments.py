"""Sums over the data equal numpy's on all rows at once, and come out the same every time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from skipc.compiler import moments
from skipc.compiler.data import Batch
from skipc.compiler.moments import CHUNK, Moments, Observed, observe, pooled_rows, rows_of
from skipc.passes.expose import with_outputs
from skipc.runtime.plan import Array, Region
from tests.gated import run, surveyed
from tests.graphs import Network, conv_net, mlp, transformer

each_network = pytest.mark.parametrize("build", [transformer, conv_net, lambda: mlp(tail="Tanh")])
COUNT = CHUNK + 5
"""More than one chunk, so that its seam is crossed."""
DRAWS = 40


def items_of(network: Network) -> tuple[Batch, ...]:
    """Batches of differing sizes."""
    feeds = (network.feeds(batch=1 + seed % 3, length=3 + seed % 4, seed=seed) for seed in range(COUNT))
    return tuple(Batch(item, (seed,), None) for seed, item in enumerate(feeds))


def features(value: Array, region: Region) -> Array:
    """Rows of features, in float64, by another way than the code's."""
    order = [axis for axis in range(value.ndim) if axis != region.channel_axis]
    return value.transpose([*order, region.channel_axis]).reshape(-1, region.channels).astype(np.float64)


def plain_moments(entry: Array, merge: Array) -> dict[str, Array]:
    d = merge - entry
    return {
        "x": entry.sum(0),
        "d": d.sum(0),
        "xx": np.einsum("ri,rj->ij", entry, entry),
        "xd": np.einsum("ri,rj->ij", entry, d),
        "dd": (d**2).sum(0),
    }


@each_network
def test_moments_equal_those_of_all_rows_at_once(build: Callable[[], Network]) -> None:
    network = build()
    found = surveyed(network)
    items = items_of(network)
    observed = observe(found.model, found.survey.regions, items, 0)
    values = [name for region in found.survey.regions for name in (region.entry, region.merge, region.exit)]
    # The optimised session that is observed may differ by fused kernels: 1e-5 of values near 1.
    runs = [run(with_outputs(found.model, values), item.feeds) for item in items]
    for region in found.survey.regions:
        seen = observed[region.name]
        for half in (0, 1):
            entry, merge = (
                np.concatenate([features(runs[i][name], region) for i in range(COUNT) if i // CHUNK % 2 == half])
                for name in (region.entry, region.merge)
            )
            assert seen.halves[half].rows == len(entry)
            for name, expected in plain_moments(entry, merge).items():
                scale = 1e-4 * max(1.0, np.abs(expected).max())
                np.testing.assert_allclose(getattr(seen.halves[half], name), expected, rtol=0, atol=scale)
        entry, leaving = (
            np.concatenate([features(result[name], region) for result in runs]) for name in (region.entry, region.exit)
        )
        norms = np.linalg.norm(entry, axis=1), np.linalg.norm(leaving, axis=1)
        moved = norms[1] > 0
        assert (moved | (norms[0] == 0)).all()
        change = (np.linalg.norm(leaving - entry, axis=1)[moved] / norms[1][moved]).sum() / len(entry)
        cosine = (entry * leaving).sum(axis=1)[moved] / np.maximum(norms[0] * norms[1], 1e-12)[moved]
        influence = (1 - cosine).sum() / len(entry)
        np.testing.assert_allclose((seen.change, seen.influence), (change, influence), rtol=1e-4)
        pooled = [
            np.stack([features(sample[None], region).mean(axis=0) for sample in result[region.entry]])
            for result in runs
        ]
        np.testing.assert_allclose(seen.pooled, np.concatenate(pooled), rtol=0, atol=1e-5)


def flattened(observed: Observed) -> list[bytes]:
    arrays = [getattr(half, name) for half in observed.halves for name in ("x", "d", "xx", "xd", "dd")]
    return [array.tobytes() for array in (*arrays, observed.pooled)]


@each_network
def test_the_same_data_give_the_same_sums_bit_for_bit(build: Callable[[], Network]) -> None:
    network = build()
    found = surveyed(network)
    first, second = (observe(found.model, found.survey.blocks, items_of(network), 0) for _ in range(2))
    assert {name: flattened(item) for name, item in first.items()} == {
        name: flattened(item) for name, item in second.items()
    }


def test_rows_of_an_image_are_its_pixels() -> None:
    region = Region("r", "convolution", "x", "y", "y", (), (), 1, ("n", 2, 3, 4), 1)
    value = np.arange(48.0).reshape(2, 2, 3, 4)
    rows = rows_of(value, region)
    assert rows.shape == (24, 2)
    assert rows[13].tolist() == [value[1, 0, 0, 1], value[1, 1, 0, 1]]
    np.testing.assert_array_equal(pooled_rows(value, region), value.mean(axis=(2, 3)))


def test_rows_of_features_are_not_pooled() -> None:
    region = Region("r", "feed-forward", "x", "y", "y", (), (), 1, ("n", 3), 1)
    value = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(rows_of(value, region), value)
    np.testing.assert_array_equal(pooled_rows(value, region), value)


def test_no_rows_add_nothing() -> None:
    entry, merge = np.random.default_rng(0).standard_normal((2, 5, 3))
    some = Moments.of(entry, merge)
    total = Moments.none(3) + some
    assert total.rows == 5
    np.testing.assert_array_equal(total.xd, some.xd)


def mean_square(seen: Observed) -> float:
    """Of d, over the rows that were summed up, channels added."""
    return float(sum(half.dd.sum() for half in seen.halves) / sum(half.rows for half in seen.halves))


def test_of_many_rows_some_are_drawn_by_the_seed_and_pooling_sees_all(monkeypatch: pytest.MonkeyPatch) -> None:
    network = conv_net()
    found = surveyed(network)
    whole = observe(found.model, found.survey.blocks, items_of(network), 0)
    monkeypatch.setattr(moments, "MOST_ROWS", 5)
    items = items_of(network)
    first, again, *others = (observe(found.model, found.survey.blocks, items, seed) for seed in (0, *range(DRAWS)))
    for name, item in first.items():
        assert sum(half.rows for half in item.halves) == 5 * COUNT < sum(half.rows for half in whole[name].halves)
        assert flattened(item) == flattened(again[name]) != flattened(others[0][name])
        np.testing.assert_array_equal(item.pooled, whole[name].pooled)
        drawn = np.mean([mean_square(other[name]) for other in others])
        # 105 rows a draw, of which each is off by about its size: a hundredth or two over all draws.
        assert drawn == pytest.approx(mean_square(whole[name]), rel=0.06)


@pytest.mark.parametrize("held_out", [3, CHUNK, CHUNK + 2])
def test_what_is_held_out_is_pooled_and_not_summed_up(held_out: int) -> None:
    network = conv_net()
    found, items = surveyed(network), items_of(network)
    whole, part = (observe(found.model, found.survey.blocks, items, 0, count) for count in (0, held_out))
    rest = observe(found.model, found.survey.blocks, items[held_out:], 0)
    for name, item in part.items():
        np.testing.assert_array_equal(item.pooled, whole[name].pooled)
        # Chunks begin elsewhere, so that sums are added up in another order.
        assert item.change == pytest.approx(rest[name].change)
        sums, expected = (each.halves[0] + each.halves[1] for each in (item, rest[name]))
        assert sums.rows == expected.rows < (whole[name].halves[0] + whole[name].halves[1]).rows
        np.testing.assert_allclose(sums.xd, expected.xd, rtol=1e-6, atol=1e-6)
