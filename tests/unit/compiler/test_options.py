"""What is chosen for each region, and between regions that share nodes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from skipc.compiler.options import (
    LOSS_FLOOR_SHARE,
    Option,
    affordable_options,
    best_options,
    in_graph_order,
    lesser_half,
    without_overlap,
)
from skipc.runtime.plan import Bypass, Region

LIMIT = 0.1


def option(name: str, loss: float, saved_ms: float, nodes: str = "", kind: str = "linear") -> Option:
    """An option whose region has one node a letter."""
    region = Region(name, "feed-forward", "x", "y", "y", tuple(nodes or name), (), 1, ("n", 4), 1)
    return Option(region, Bypass(kind), loss, saved_ms)


def test_worth_is_time_saved_per_loss() -> None:
    assert option("a", 0.1, 2.0).worth(0.0) == pytest.approx(20.0)


def test_losses_far_below_the_limit_count_alike() -> None:
    assert option("a", 0.0, 1.0).worth(LIMIT) == pytest.approx(1.0 / (LOSS_FLOOR_SHARE * LIMIT))


@pytest.mark.parametrize("saved_ms", [0.0, -1.0])
def test_what_saves_nothing_is_worth_nothing(saved_ms: float) -> None:
    assert option("a", 0.0, saved_ms).worth(LIMIT) == 0.0


def test_each_region_gets_its_best_option_in_order_of_appearance() -> None:
    poor, good, other = option("b", 0.1, 1.0), option("b", 0.05, 1.0, kind="affine"), option("a", 0.2, 1.0)
    assert best_options([poor, other, good], LIMIT) == (good, other)


def test_where_all_fits_the_limit_the_most_time_is_taken() -> None:
    gentle = option("a", 0.001, 1.0), option("b", 0.001, 1.0)
    bold = option("a", 0.05, 1.5, kind="narrow"), option("b", 0.049, 1.5, kind="narrow")
    assert best_options([*gentle, *bold], LIMIT) == bold


def test_where_the_bold_do_not_fit_the_one_that_pays_most_is_bold() -> None:
    gentle = option("a", 0.01, 1.0), option("b", 0.01, 1.0)
    bold = option("a", 0.08, 1.9, kind="narrow"), option("b", 0.08, 1.5, kind="narrow")
    assert best_options([*gentle, *bold], LIMIT) == (bold[0], gentle[1])


def test_a_region_beyond_the_limit_gets_an_option_for_its_gate() -> None:
    assert best_options([option("a", 0.4, 1.0), option("a", 0.3, 0.9, kind="narrow")], LIMIT) != ()


def test_regions_worth_nothing_get_none() -> None:
    assert best_options([option("a", 0.0, -0.1), option("a", 0.0, 0.0)], LIMIT) == ()


def test_of_equals_the_first_stays() -> None:
    first = option("a", 0.1, 1.0, kind="affine")
    assert best_options([first, option("a", 0.1, 1.0, kind="linear")], LIMIT) == (first,)


def test_a_layer_worth_more_than_its_parts_goes_before_them() -> None:
    parts = option("p", 0.05, 1.0, "ab"), option("q", 0.05, 1.0, "cd")
    layer = option("layer", 0.05, 2.0, "abcd")
    assert without_overlap([*parts, layer], LIMIT) == (layer,)


def test_parts_worth_more_than_their_layer_go_before_it() -> None:
    parts = option("p", 0.01, 1.0, "ab"), option("q", 0.2, 1.0, "cd")
    layer = option("layer", 0.2, 2.0, "abcd")
    assert without_overlap([*parts, layer], LIMIT) == parts


def test_one_shared_node_is_an_overlap() -> None:
    assert without_overlap([option("p", 0.1, 1.0, "abc"), option("q", 0.1, 2.0, "cde")], LIMIT)[0].region.name == "q"


def test_regions_apart_are_all_kept_in_the_order_given() -> None:
    options = option("q", 0.1, 1.0, "cd"), option("p", 0.1, 2.0, "ab")
    assert without_overlap(options, LIMIT) == options


def test_graph_order_goes_by_the_first_node() -> None:
    first, second = option("p", 0.1, 1.0, "ab"), option("q", 0.1, 1.0, "cd")
    assert in_graph_order([second, first], {"a": 0, "b": 3, "c": 1, "d": 2}) == (first, second)


def test_the_half_of_least_impact_is_kept_in_the_order_given() -> None:
    a, b, c = (option(name, 0.1, 1.0) for name in "abc")
    assert lesser_half([a, b, c], {"a": 0.3, "b": 0.2, "c": 0.1, "unseen": 0.0}) == (b, c)
    assert lesser_half([a], {"a": 0.3}) == (a,)
    assert lesser_half([], {}) == ()


def grown(name: str, loss: float, saved_ms: float, growth: int, kind: str = "linear") -> Option:
    return replace(option(name, loss, saved_ms, kind=kind), growth=growth)


def test_where_all_fit_the_file_size_decides_nothing() -> None:
    offered = [grown("a", 0.01, 1.0, 500), grown("a", 0.01, 0.9, 0, "identity"), grown("b", 0.01, 0.1, 500)]
    assert affordable_options(offered, LIMIT, 1000) == best_options(offered, LIMIT) == (offered[0], offered[2])


def test_what_saves_little_for_its_size_goes() -> None:
    offered = [grown("a", 0.01, 1.0, 500), grown("b", 0.01, 0.1, 500), grown("c", 0.01, 0.9, 500)]
    assert affordable_options(offered, LIMIT, 1000) == (offered[0], offered[2])


def test_a_smaller_kind_takes_the_place_of_a_large_one() -> None:
    large, small = grown("a", 0.01, 1.0, 900, "narrow"), grown("a", 0.01, 0.8, 300)
    other = grown("b", 0.01, 1.0, 600)
    assert affordable_options([large, small, other], LIMIT, 1000) == (small, other)


def test_without_room_only_what_adds_nothing_is_left() -> None:
    offered = [grown("a", 0.01, 1.0, 1, "affine"), grown("b", 0.01, 1.0, 1), grown("b", 0.02, 0.5, 0, "identity")]
    assert affordable_options(offered, LIMIT, 0) == (offered[2],)


def test_no_choice_is_larger_than_asked() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        offered = [
            grown(name, float(random.random()) / 10, float(random.random()), int(random.integers(1, 1000)), kind)
            for name in "abcdef"
            for kind in ("linear", "narrow")
        ]
        most = int(random.integers(1, 3000))
        assert sum(option.growth for option in affordable_options(offered, LIMIT, most)) <= most


def test_of_blocks_that_are_alike_as_many_grow_as_fit() -> None:
    alike = [replace(option(name, 0.01, 1.0), growth=400) for name in "abc"]
    assert len(affordable_options(alike, LIMIT, 900)) == 2


def test_a_cheap_kind_gives_way_to_a_better_one_where_there_is_room() -> None:
    better = [replace(option(name, 0.005, 1.0, kind="narrow"), growth=400) for name in "abc"]
    cheap = [replace(option(name, 0.03, 1.1), growth=40) for name in "abc"]
    chosen = affordable_options([*better, *cheap], 0.02, 900)
    assert sum(item.bypass.kind == "narrow" for item in chosen) == 2
