"""What was found, as JSON, text and a page: all three say the same and need nothing else."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from skipc.compiler.bench import Bench
from skipc.compiler.candidates import Candidates, Impact
from skipc.compiler.console import QUIET, Console
from skipc.compiler.gradient import Gradients
from skipc.compiler.latency import Speedup
from skipc.compiler.pipeline import Compiled, compile_without_data
from skipc.compiler.promises import Measured
from skipc.compiler.report import (
    bench_json,
    certificate_json,
    compile_text,
    details_json,
    table,
    verification_json,
)
from skipc.compiler.report_measures import measures_json, rounded, shift_json
from skipc.compiler.report_page import page
from skipc.compiler.settings import Settings
from skipc.compiler.shift import NOTE, LeftOut, Tried
from skipc.compiler.source import load_model
from skipc.compiler.verify import Equality, Verification
from skipc.passes.policy import joined
from skipc.runtime.plan import ORIGINAL, Bypass, Certificate
from tests.compiled import plan_for
from tests.gated import block, surveyed
from tests.graphs import mlp, transformer

CERTIFICATE = Certificate(
    loss="cosine",
    output="y",
    limit=0.05,
    confidence=0.9,
    mean=0.0123456,
    bound=0.04,
    p_value=0.001,
    test="betting",
    samples=480,
    tested=3,
    certified=2,
)
NASTY = "</script><script>alert('&')</script>"


def shut(folder: Path, name: str = "model.onnx") -> Compiled:
    path = folder / name
    onnx.save(mlp().model, path)
    return compile_without_data(load_model(path), Settings(), Console(QUIET))


def certified(folder: Path) -> Compiled:
    """As after a compilation with data, with figures that can be told apart."""
    from dataclasses import replace

    compiled = shut(folder)
    found = Verification(Equality(True, 1e-7, 1e-8), "cosine", 0.02, 0.05, 0.03, 0.9, 240)
    run_share = tuple(float(share) for share in np.linspace(0.25, 0.75, len(compiled.plan.blocks)))
    measured = Measured(
        verification={"films": found},
        bench=Bench(Speedup(1.25, 1.2, 1.3), 10.0, 8.0),
        static_bench=Bench(Speedup(1.15, 1.1, 1.2), 10.0, 8.7),
        run_share=run_share,
        time_share_skipped=0.21,
    )
    return replace(compiled, plan=replace(compiled.plan, certificate=CERTIFICATE), measured=measured)


@pytest.fixture
def details(tmp_path: Path) -> dict[str, Any]:
    return details_json(certified(tmp_path), "out.onnx", 12.3456)


class Elements(HTMLParser):
    """Every element with its attributes, the raw text of scripts, and all text that a reader sees."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = "" if tag == self._inside else self._inside

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts.append(data)
        elif self._inside != "style":
            self.text += data


def parsed(content: bytes) -> Elements:
    elements = Elements()
    elements.feed(content.decode("utf-8"))
    elements.close()
    return elements


def test_the_page_needs_nothing_else(details: dict[str, Any]) -> None:
    content = page(details)
    elements = parsed(content)
    assert {"src", "href", "srcset", "data", "action"}.isdisjoint(name for _, attrs in elements.found for name in attrs)
    assert {"link", "img", "iframe", "object", "embed", "base"}.isdisjoint(tag for tag, _ in elements.found)
    assert re.search(rb"https?://|url\((?!#)|@import", content) is None


def test_the_page_carries_the_details(details: dict[str, Any]) -> None:
    elements = parsed(page(details))
    scripts = [attrs for tag, attrs in elements.found if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "skipc-report"}]
    assert json.loads("".join(elements.scripts)) == details


def test_the_page_shows_promise_speed_and_blocks(details: dict[str, Any]) -> None:
    text = parsed(page(details)).text
    assert "the mean cosine of y stays at or below 0.05, with confidence 0.9" in text
    assert "tested on 480 samples" in text
    assert "their mean was 0.01235" in text
    for figure in ("1.25", "1.15", *(row["name"] for row in details["blocks"])):
        assert figure in text


def test_names_cannot_break_out_of_the_page(details: dict[str, Any]) -> None:
    nasty = {
        **details,
        "output": NASTY,
        "data_digests": {NASTY: "0"},
        "rejected": [{"node": NASTY, "rule": NASTY, "reason": NASTY}],
    }
    elements = parsed(page(nasty))
    assert [tag for tag, _ in elements.found].count("script") == 1
    assert json.loads("".join(elements.scripts)) == nasty
    assert NASTY in elements.text


def test_a_page_without_a_certificate_says_so(tmp_path: Path) -> None:
    text = parsed(page(details_json(shut(tmp_path), "out.onnx", 1.0))).text
    assert "Nothing is certified: every gate is shut." in text


def test_the_details_are_json_and_complete(details: dict[str, Any]) -> None:
    assert json.loads(json.dumps(details, allow_nan=False)) == details
    assert details["certificate"] == certificate_json(CERTIFICATE)
    assert (details["speedup"], details["seconds"]) == ({"median": 1.25, "low": 1.2, "high": 1.3}, 12.35)
    assert details["static_speedup"]["median"] == 1.15
    assert [block["run_share"] for block in details["blocks"]] == [0.25, 0.5, 0.75]


def test_the_summary_names_what_was_gained(details: dict[str, Any]) -> None:
    lines = compile_text(details).splitlines()
    assert lines[0] == "wrote out.onnx: 3 gates over 3 regions"
    assert lines[1].startswith("1.25x faster (1.20 to 1.30), 21% of the time bypassed")
    assert lines[1].endswith("the same bypasses without gates: 1.15x")
    assert lines[2].startswith("certified: mean cosine at most 0.05 with confidence 0.9 (480 samples")
    assert lines[3] == "on the test split of films: mean 0.02, 240 samples"
    assert lines[4].startswith("the file grows by ")
    assert [line.split()[2] for line in lines[6:]] == ["25%", "50%", "75%"]


def with_measures(details: dict[str, Any], gradients: Gradients) -> dict[str, Any]:
    values = [(1.0, 0.25, 0.5), (2.0, 0.75, 0.75), (3.0, 0.5, 0.125)]
    impacts = tuple(
        Impact(f"block.{i}", 0.5, influence, gradient, ablation, "linear", 1.0, 0.1)
        for i, (influence, gradient, ablation) in enumerate(values)
    )
    found = Candidates((), frozenset(), impacts, gradients, 10.0)
    return {**details, "impacts": [vars(item) for item in impacts], "impact_measures": measures_json(found)}


def test_the_measures_of_impact_stand_side_by_side(details: dict[str, Any]) -> None:
    found = with_measures(details, Gradients({}, "reverse mode", 64, 0.00025))
    last = compile_text(found).splitlines()[-2:]
    assert last[0].endswith("activation/gradient 0.50, activation/ablation -0.50, gradient/ablation 0.50")
    assert last[1] == "gradient by reverse mode on 64 samples, 2.5e-04 off central differences"
    text = parsed(page(found)).text
    assert "regionactivationgradientablation" in text
    assert all(line in text for line in last)


def test_a_gradient_that_was_not_measured_gives_its_reason(details: dict[str, Any]) -> None:
    found = with_measures(details, Gradients({}, "none", 0, None, "too large"))
    assert compile_text(found).splitlines()[-1] == "gradient not measured: too large"


def test_clusters_left_out_are_shown_with_what_they_can_tell(details: dict[str, Any]) -> None:
    clusters = [
        LeftOut(units, Tried(0.04, gated, 2.0, 1.0), Tried(0.045, static, 2.5, 2.5))
        for units, gated, static in ((60, 0.0525, 0.0625), (40, 0.03125, 0.12361))
    ]
    found = {**details, "shift": shift_json(clusters)}
    assert found["shift"]["clusters"][1]["static_left_out_loss"] == 0.1236
    last = compile_text(found).splitlines()[-1]
    assert "worst of 2 clusters left out: mean loss 0.0525 with gates, 0.1236 without" in last
    text = parsed(page(found)).text
    assert NOTE in text
    assert "0.0625" in text
    assert NOTE not in parsed(page(details)).text


def test_the_summary_of_a_plan_claims_no_speed(details: dict[str, Any]) -> None:
    unmeasured = {**details, "speedup": None, "static_speedup": None, "verification": None, "time_share_skipped": None}
    text = compile_text(unmeasured)
    assert "faster" not in text
    assert "certified: mean cosine at most 0.05" in text


def test_the_summary_without_data_names_the_next_command(tmp_path: Path) -> None:
    text = compile_text(details_json(shut(tmp_path), "out.onnx", 1.0))
    assert "nothing is certified" in text
    assert "next: skipc compile" in text


def test_columns_are_aligned() -> None:
    lines = table(("name", "share"), [("a", "5%"), ("much longer", "100%"), ("", "x")])
    assert lines == [
        "name         share",
        "a               5%",
        "much longer   100%",
        "                 x",
    ]


def test_a_table_without_rows_is_its_header() -> None:
    assert table(("name", "share"), []) == ["name  share"]


@pytest.mark.parametrize(
    ("value", "expected"), [(0.123456, 0.1235), (123456.0, 123500.0), (0.0, 0.0), (1e-9, 1e-9), (-1.00004, -1.0)]
)
def test_numbers_keep_four_digits(value: float, expected: float) -> None:
    assert rounded(value) == expected


def test_a_broken_promise_is_not_ok() -> None:
    equality = Equality(True, 0.0, 0.0)
    kept, broken = (Verification(equality, "top1", mean, 0.01, 0.02, 0.95, 100) for mean in (0.01, 0.0101))
    assert (verification_json(kept)["ok"], verification_json(broken)["ok"]) == (True, False)
    differing = Verification(Equality(False, 0.0, 0.0), "top1", 0.0, 0.01, 0.02, 0.95, 100)
    assert verification_json(differing)["ok"] is False


def test_a_bench_of_a_file_without_a_plan_has_no_blocks() -> None:
    found = bench_json(Bench(Speedup(1.0, 0.9, 1.1), 2.0, 2.0), "cpu", None, (), 0.0)
    assert (found["blocks"], found["layer_share_skipped"], found["time_share_skipped"]) == ([], 0.0, 0.0)


def test_regions_that_share_a_gate_count_each() -> None:
    """Two of four are bypassed by one gate, one between them runs as it is, and one has a gate of its own."""
    found = surveyed(transformer())
    regions = found.survey.blocks
    assert len(regions) == 4
    run = [block(regions[0]), replace(block(regions[1]), bypass=Bypass(ORIGINAL)), block(regions[2])]
    plan = replace(plan_for([joined(run), block(regions[3])]), regions=len(regions))
    bench = Bench(Speedup(1.0, 0.9, 1.1), 2.0, 2.0)
    for shares, expected in (((0.25, 1.0), 2 * 0.75 / 4), ((0.0, 0.5), 2.5 / 4)):
        assert bench_json(bench, "cpu", plan, shares, 0.0)["layer_share_skipped"] == expected
