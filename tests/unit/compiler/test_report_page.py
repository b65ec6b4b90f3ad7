"""The page's pictures: the figures are in them, and they hold without colour, script or measurements."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from skipc.compiler.latency import Speedup
from skipc.compiler.opponents import Opponent
from skipc.compiler.portrait import COMPILED, ORIGINAL, SHUT, GateQuality, Portrait
from skipc.compiler.prices import Latency, Memory
from skipc.compiler.report import details_json
from skipc.compiler.report_page import page
from skipc.compiler.report_svg import frontier, heat_map, stacks, ticks
from tests.unit.compiler.test_report import certified, parsed, shut

PORTRAIT = Portrait(
    opponents=(
        Opponent("static", None, True, 0.04, "always on their bypass: feed-forward.1"),
        Opponent("identity", None, False, 0.31, "not even the least of all, feed-forward.2, can be taken out"),
        Opponent("int8", None, False, None, "onnxruntime.quantization does not take the model: no kernel"),
        Opponent("int8 of the compiled", None, True, 0.03, "dynamic quantization by onnxruntime.quantization"),
    ),
    latencies={
        ORIGINAL: Latency(10.0, 11.0, 12.0, None),
        COMPILED: Latency(8.0, 10.5, 11.75, Speedup(1.25, 1.2, 1.3)),
        SHUT: Latency(10.25, 11.5, 12.5, Speedup(0.98, 0.97, 0.99)),
        "identity": Latency(7.0, 8.0, 9.0, Speedup(1.43, 1.4, 1.5)),
        "int8 of the compiled": Latency(5.0, 6.0, 7.0, Speedup(2.0, 1.9, 2.1)),
    },
    gates=(GateQuality("feed-forward.0", 0.5, 0.0125, 0.025, 0.0075, 0.625),),
    run=((0.0, 1.0, 0.25), (1.0, 1.0, 0.0), (0.0, 0.0, 0.0)),
    file_bytes=(2 << 20, 3 << 20),
    memory=(Memory(40.0, 30.0), Memory(50.0, 33.0)),
)


@pytest.fixture
def details(tmp_path: Path) -> dict[str, Any]:
    return details_json(replace(certified(tmp_path), portrait=PORTRAIT), "out.onnx", 1.0)


def test_opponents_stand_beside_the_compiled_model(details: dict[str, Any]) -> None:
    text = parsed(page(details)).text
    for words in (
        "static1.15x",
        "0.04yes",
        "identity1.43x",
        "0.31no",
        "int8---no",
        "int8 of the compiled2.00x",
        "no kernel",
        "compiled1.25x",
        "0.02yes",
    ):
        assert words in text


def test_a_certified_model_that_fails_on_test_says_so(details: dict[str, Any]) -> None:
    details["portrait"]["opponents"][0]["loss"] = 0.06
    assert "yes, but above the limit on test" in parsed(page(details)).text


def test_prices_are_compared_with_the_original(details: dict[str, Any]) -> None:
    text = parsed(page(details)).text
    for words in (
        "file, MiB23+50.0 %",
        "memory while loading, MiB4050+25.0 %",
        "memory once loaded, MiB3033+10.0 %",
        "worst case: every gate shut, median, ms1010.2+2.5 %",
        "latency, 99th percentile, ms1211.8-2.1 %",
    ):
        assert words in text


def test_gates_stand_beside_chance_and_oracle(details: dict[str, Any]) -> None:
    assert "feed-forward.050 %0.01250.0250.00750.62" in parsed(page(details)).text


def test_everything_is_told_apart_without_colour(details: dict[str, Any]) -> None:
    """Shapes and names for points, bars or none for decisions, and letters for the parts of a latency."""
    tags = [tag for tag, _ in parsed(page(details)).found]
    assert {"circle", "polygon", "pattern", "rect"} <= set(tags)
    labels = [attrs["aria-label"] for tag, attrs in parsed(page(details)).found if attrs.get("role") == "img"]
    assert len(labels) == 3
    assert all(labels)


def test_bars_of_the_heat_map_are_what_ran() -> None:
    drawn = heat_map(["a", "b", "c"], PORTRAIT.run)
    heights = sorted(float(found) for found in re.findall(r'class="bar"[^>]* height="([\d.]+)"', drawn))
    assert heights == [5.5, 22.0, 22.0, 22.0]


def test_a_point_beyond_the_picture_keeps_its_figure() -> None:
    point = {"name": "identity", "certified": False, "loss": 0.31, "speedup": 1.4}
    drawn = frontier([point], [(0.0, 1.0), (0.01, 1.2)], 0.05, "cosine")
    assert "identity, not certified \u2192 0.31" in drawn
    assert "limit 0.05" in drawn


def test_names_of_points_do_not_lie_on_each_other() -> None:
    points = [
        {"name": name, "certified": True, "loss": 0.02, "speedup": 1.2} for name in ("compiled", "static", "identity")
    ]
    drawn = frontier(points, [], 0.05, "cosine")
    places = [float(found) for found in re.findall(r'y="([\d.]+)"[^>]*class="halo"', drawn)]
    assert len(places) == 3
    assert min(abs(places[i] - places[j]) for i in range(3) for j in range(i)) >= 14


def test_stacks_share_one_scale() -> None:
    drawn = stacks([("long", [("A", 2.0), ("rest", 2.0)]), ("short", [("A", 1.0), ("rest", 2.0)])], "ms")
    widths = [float(found) for found in re.findall(r'<rect[^>]* width="([\d.]+)"', drawn)]
    assert widths[0] == pytest.approx(2 * widths[2], abs=0.02)
    assert widths[1] == widths[3]
    assert "4 ms" in drawn


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.025), (0.9, 1.3), (1.0, 2.7), (0.0, 1.0), (0.0, 1e-6)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 7
    assert low <= found[0]
    assert found[-1] <= high * 1.001
    assert all(len(f"{value:.10f}".rstrip("0").partition(".")[2].lstrip("0")) <= 3 for value in found)


def test_a_page_without_measurements_has_no_empty_pictures(tmp_path: Path) -> None:
    elements = parsed(page(details_json(shut(tmp_path), "out.onnx", 1.0)))
    assert not [attrs for _, attrs in elements.found if attrs.get("role") == "img"]
    assert "What it costsForetold from where weights are (auto): the file grows by" in elements.text
