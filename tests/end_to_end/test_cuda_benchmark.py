"""The benchmark of gates on a GPU runs whole on the CPU provider, and never calls a result what it is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from benchmarks.cuda.__main__ import main
from benchmarks.cuda.contenders import require_provider
from benchmarks.cuda.measuring import break_even
from benchmarks.cuda.subject import EVERYTHING, NOTHING, QUARTERS, wished
from benchmarks.failure import BenchmarkError

pytestmark = pytest.mark.slow

OPPONENTS = {"original", "original, float16", "static bypasses"}


def measured(out: Path, *words: str) -> tuple[int, Any]:
    code = main(["--quick", "--provider", "cpu", "--seconds", "0.05", "--threads", "1", "-o", str(out), *words])
    return code, json.loads(out.read_text(encoding="utf-8"))


def test_it_runs_whole_and_decisions_are_as_wished(tmp_path: Path) -> None:
    code, found = measured(tmp_path / "out.json", "--networks", "bert-base", "resnet-50")
    assert code == 0, found["errors"]
    assert (found["provider"], found["device"], found["left"]) == ("cpu", None, [])
    assert len(found["cases"]) == 8
    case = found["cases"]["bert-base, float32, batch 4"]
    assert set(case["plain_ms"]) == OPPONENTS
    by_batch, by_sample = case["gated"]["early, by batch"], case["gated"]["early, by sample"]
    for gated in (by_batch, by_sample):
        assert set(gated["speedup"]) == set(gated["break_even_share"]) == OPPONENTS
    assert "early, by sample" not in found["cases"]["bert-base, float32, batch 1"]["gated"]
    for files in found["equality"].values():
        assert len(files) == 8
        for item in files.values():
            assert item["decisions"] > 0
            assert item["differing_decisions"] == item["decisions_not_as_wished"] == 0
            assert item["largest_relative_difference"] <= item["tolerance"]


def test_a_run_cut_short_goes_on_where_it_ended(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    words = ("--networks", "chain", "--dtypes", "float32", "--policies", "block", "--batches", "1")
    code, found = measured(out, *words, "--budget", "0")
    assert code == 0
    assert (found["cases"], found["left"]) == ({}, ["chain, float32, batch 1"])
    _, found = measured(out, *words, "--resume")
    first = found["cases"]["chain, float32, batch 1"]
    _, found = measured(out, *words, "4", "--resume")
    assert found["cases"]["chain, float32, batch 1"] == first
    assert len(found["cases"]) == 2


def test_results_of_another_provider_are_not_added_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    out.write_text(json.dumps({"schema": 1, "name": "cuda", "quick": True, "provider": "cuda"}), encoding="utf-8")
    assert main(["--quick", "--provider", "cpu", "--resume", "-o", str(out)]) == 1
    assert "results of another provider" in capsys.readouterr().err


def test_merged_gates_are_fewer(tmp_path: Path) -> None:
    words = ("--networks", "chain", "--dtypes", "float32", "--policies", "merged", "--batches", "4")
    code, found = measured(tmp_path / "out.json", *words)
    assert code == 0, found["errors"]
    assert found["equality"]["chain, float32"]["merged, by sample"]["decisions"] == 6 * 2
    assert found["cases"]["chain, float32, batch 4"]["gates"] == 8


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="ONNX Runtime has CUDA here")
def test_without_cuda_nothing_is_written(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert main(["--quick", "--provider", "cuda", "-o", str(out)]) == 1
    assert not out.exists()


def test_another_provider_is_refused() -> None:
    require_provider(["CUDAExecutionProvider", "CPUExecutionProvider"], "cuda")
    with pytest.raises(BenchmarkError, match="the session runs on CPUExecutionProvider"):
        require_provider(["CPUExecutionProvider"], "cuda")


def test_a_quarter_is_a_quarter_of_every_gate_and_of_every_sample() -> None:
    wishes = wished(8)
    assert not wishes[NOTHING].any()
    assert wishes[EVERYTHING].all()
    np.testing.assert_array_equal(wishes[list(QUARTERS)].mean(axis=0), np.full(8, 0.25))
    np.testing.assert_array_equal(wishes[list(QUARTERS)].mean(axis=1), np.full(4, 0.25))


def test_break_even_points() -> None:
    # 10 ms with nothing bypassed and 8 ms with a quarter: each hundredth of the blocks' time is worth 0.08 ms.
    assert break_even(10.5, 10.0, 8.0) == 0.0
    assert break_even(9.0, 10.0, 8.0) == 0.125
    assert break_even(2.0, 10.0, 8.0) == 1.0
    assert break_even(1.9, 10.0, 8.0) is None
    assert break_even(9.0, 10.0, 10.5) is None
