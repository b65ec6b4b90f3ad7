"""The first thing that anybody does with skipc: compile the demo and look at what came out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import models
from skipc.runtime import names
from tests.end_to_end.command import contents, invoke, run
from tests.end_to_end.conftest import Compiled
from tests.end_to_end.running import assert_shut_equal, complaints, ifs, outputs, signature

pytestmark = pytest.mark.slow

RESIDUAL_BLOCKS = 13
"""Of the demo's fifteen those that keep the shape of their input."""

COMPILE_KEYS = {
    "schema",
    "ok",
    "output",
    "regions",
    "gates",
    "level",
    "certificate",
    "speedup",
    "static_speedup",
    "seconds",
}
BENCH_KEYS = {"schema", "speedup", "latency_ms", "time_share_skipped", "blocks", "provider"}
VERIFY_KEYS = {
    "schema",
    "ok",
    "loss",
    "mean",
    "limit",
    "bound",
    "confidence",
    "samples",
    "gates_shut_max_abs_difference",
}
REGION_KEYS = {
    "name",
    "kind",
    "entry",
    "exit",
    "nodes",
    "node_share",
    "parameters",
    "parameter_share",
    "time_share",
    "reason",
}


def images(path: Path, rows: slice) -> dict[str, NDArray[np.uint8]]:
    with np.load(path) as arrays:
        return {"image": arrays["image"][rows]}


def test_compiling_succeeds_and_says_what_it_made(demo: Compiled) -> None:
    assert demo.ran.code == 0, demo.ran.stderr
    found = demo.ran.json
    assert found.keys() >= COMPILE_KEYS
    assert (found["schema"], found["ok"], found["output"]) == (1, True, str(demo.model))
    assert found["regions"] == RESIDUAL_BLOCKS
    certificate = found["certificate"]
    assert (certificate["limit"], certificate["confidence"], certificate["loss"]) == (0.01, 0.95, "top1")
    # Two fifths of 4,000 pictures calibrate; certified is what was tested there and stays under the limit.
    assert certificate["samples"] == 1600
    assert certificate["bound"] <= certificate["limit"]
    assert "Traceback" not in demo.ran.stderr


def test_model_plan_and_report_are_there_and_nothing_else(demo: Compiled) -> None:
    given = {path.name for path in models.fetch("demo").files.values()}
    assert set(contents(demo.model.parent)) == given | {demo.model.name, demo.plan.name, demo.report.name}


def test_the_model_is_valid_and_has_gates(demo: Compiled) -> None:
    model = onnx.load(demo.model)
    onnx.checker.check_model(model, full_check=True)
    assert len(ifs(model)) >= 1
    assert len(ifs(model)) == demo.ran.json["gates"]


def test_onnx_runtime_does_not_complain(demo: Compiled) -> None:
    assert complaints(demo.model) == ""


def test_it_is_a_drop_in(demo: Compiled) -> None:
    assert signature(onnx.load(demo.model)) == signature(onnx.load(demo.original))


def test_shut_it_is_the_original(demo: Compiled) -> None:
    alone = [images(demo.test, slice(row, row + 1)) for row in range(32)]
    assert_shut_equal(demo.original, demo.model, [*alone, images(demo.test, slice(40, 47))])


def test_open_it_is_not_the_original(demo: Compiled) -> None:
    """A file that never skips would pass every other test here."""
    feeds = [images(demo.test, slice(row, row + 1)) for row in range(64)]
    pairs = [[outputs(onnx.load(path), item)["logits"] for path in (demo.original, demo.model)] for item in feeds]
    assert any(first.tobytes() != second.tobytes() for first, second in pairs)


def test_verify_finds_the_promise_kept(demo: Compiled) -> None:
    ran = run("verify", demo.model, "--original", demo.original, "--data", demo.test, "--output-format", "json")
    assert ran.code == 0, ran.stderr
    assert ran.json.keys() >= VERIFY_KEYS
    assert ran.json["ok"] is True
    assert ran.json["samples"] == 2000
    assert 0 < ran.json["mean"] <= ran.json["limit"] == 0.01


def test_verify_finds_a_broken_promise(demo: Compiled, tmp_path: Path) -> None:
    """With the threshold of every gate raised to infinity the file still loads, and skips whatever it can."""
    model = onnx.load(demo.model)
    for item in model.graph.initializer:
        if item.name == names.THRESHOLDS:
            array = onnx.numpy_helper.to_array(item)
            item.CopyFrom(onnx.numpy_helper.from_array(np.full_like(array, np.inf), names.THRESHOLDS))
    onnx.save(model, tmp_path / "open.onnx")
    ran = invoke(
        "verify", tmp_path / "open.onnx", "--original", demo.original, "--data", demo.test, "--output-format", "json"
    )
    assert (ran.code, ran.json["ok"]) == (1, False)


def test_bench_times_both(demo: Compiled) -> None:
    """No time is asserted: other work on the machine decides it."""
    ran = run("bench", demo.original, demo.model, "--data", demo.test, "--output-format", "json")
    assert ran.code == 0, ran.stderr
    found = ran.json
    assert found.keys() >= BENCH_KEYS
    assert 0 < found["speedup"]["low"] <= found["speedup"]["median"] <= found["speedup"]["high"]
    assert found["latency_ms"].keys() == {"original", "compiled"}
    assert found["provider"] == "cpu"
    assert {f"skipc/{block['name']}" for block in found["blocks"]} == set(ifs(onnx.load(demo.model)))
    assert all(0 <= block["run_share"] <= 1 for block in found["blocks"])
    assert 0 < found["time_share_skipped"] < 1


def test_bench_with_larger_batches(demo: Compiled) -> None:
    words = ("bench", demo.original, demo.model, "--data", demo.test, "--batch-size", 8, "--threads", 2)
    ran = invoke(*words, "--output-format", "json")
    assert ran.code == 0, ran.stderr
    assert ran.json["latency_ms"]["original"] > 0


def test_inspect_lists_the_regions_of_the_original(demo: Compiled) -> None:
    ran = run("inspect", demo.original, "--output-format", "json")
    assert ran.code == 0, ran.stderr
    regions = ran.json["regions"]
    assert len(regions) == RESIDUAL_BLOCKS
    assert all(region.keys() == REGION_KEYS for region in regions)
    assert len({region["name"] for region in regions}) == RESIDUAL_BLOCKS


def test_inspect_reads_plan_and_certificate_of_the_compiled_file(demo: Compiled) -> None:
    ran = invoke("inspect", demo.model, "--output-format", "json")
    assert ran.code == 0, ran.stderr
    assert ran.json["certificate"] == demo.ran.json["certificate"]
    assert ran.json["level"] == demo.ran.json["level"]
    assert len(ran.json["regions"]) == demo.ran.json["gates"]
    assert "certified: mean top1 of logits at most 0.01" in invoke("inspect", demo.model).stdout


def test_the_report_is_about_this_file(demo: Compiled) -> None:
    page = demo.report.read_text(encoding="utf-8")
    data = json.loads(page.partition('id="skipc-report">')[2].partition("</script>")[0])
    assert data["certificate"] == demo.ran.json["certificate"]


def test_the_same_plan_gives_the_same_bytes(demo: Compiled, tmp_path: Path) -> None:
    for name in ("first.onnx", "second.onnx"):
        ran = run("compile", demo.original, "--plan", demo.plan, "-o", tmp_path / name, "--output-format", "json")
        assert ran.code == 0, ran.stderr
        assert ran.json["certificate"] == demo.ran.json["certificate"]
        assert (tmp_path / name).read_bytes() == demo.model.read_bytes()


def test_a_plan_makes_a_summary_for_people_too(demo: Compiled, tmp_path: Path) -> None:
    ran = invoke("compile", demo.original, "--plan", demo.plan, "-o", tmp_path / "again.onnx")
    assert ran.code == 0, ran.stderr
    assert "built from the plan" in ran.stdout


def test_decisions_are_appended(demo: Compiled, tmp_path: Path) -> None:
    out = tmp_path / "open.onnx"
    ran = invoke("compile", demo.original, "--plan", demo.plan, "-o", out, "--decisions")
    assert ran.code == 0, ran.stderr
    model, original = onnx.load(out), onnx.load(demo.original)
    assert [item.name for item in model.graph.output] == ["logits", names.DECISIONS, names.SCORES]
    assert signature(original) == signature(model)[:2]
    found = outputs(model, images(demo.test, slice(0, 1)))
    assert found[names.DECISIONS].shape == found[names.SCORES].shape == (1, demo.ran.json["gates"])
    assert set(np.unique(found[names.DECISIONS])) <= {0.0, 1.0}
    plain = outputs(onnx.load(demo.model), images(demo.test, slice(0, 1)))
    assert found["logits"].tobytes() == plain["logits"].tobytes()
    assert complaints(out) == ""


def test_the_level_can_be_an_input(demo: Compiled, tmp_path: Path) -> None:
    out = tmp_path / "level.onnx"
    ran = invoke("compile", demo.original, "--plan", demo.plan, "-o", out, "--level-input")
    assert ran.code == 0, ran.stderr
    model = onnx.load(out)
    onnx.checker.check_model(model, full_check=True)
    assert [item.name for item in model.graph.input] == ["image", names.LEVEL]
    feeds = images(demo.test, slice(0, 1))
    shut = outputs(model, {**feeds, names.LEVEL: np.array(0, np.int64)})["logits"]
    assert shut.tobytes() == outputs(onnx.load(demo.original), feeds)["logits"].tobytes()
    usual = outputs(model, feeds)["logits"]
    assert usual.tobytes() == outputs(onnx.load(demo.model), feeds)["logits"].tobytes()
