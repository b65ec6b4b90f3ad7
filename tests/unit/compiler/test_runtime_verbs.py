"""The verbs that look at a compiled file in use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skipc.compiler.explain import picture
from skipc.runtime import DecisionLog, Session
from tests.deployment import compiled, feeds, original, plain, plan
from tests.end_to_end.command import Ran, invoke

SAMPLES = np.concatenate([feeds(seed)["x"] for seed in range(20)])


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A compiled file and data."""
    (tmp_path / "m.onnx").write_bytes(compiled())
    np.savez(tmp_path / "d.npz", x=SAMPLES)
    return tmp_path / "m.onnx", tmp_path / "d.npz"


def as_json(*words: object) -> Any:
    ran = invoke(*words, "--output-format", "json")
    assert ran.code == 0, ran.stderr
    return ran.json


def test_run_writes_outputs_and_log(files: tuple[Path, Path], tmp_path: Path) -> None:
    model, data = files
    found = as_json("run", model, "--data", data, "--batch-size", 8, "--log", tmp_path / "d.log")
    assert (found["samples"], found["level"], found["provider"]) == (20, 1, "cpu")
    with np.load(tmp_path / "m.outputs.npz") as outputs:
        expected = [plain(compiled(), {"x": SAMPLES[start : start + 8]}) for start in (0, 8, 16)]
        np.testing.assert_array_equal(outputs["y"], np.concatenate(expected))
    shares = {item["name"]: item["run_share"] for item in found["blocks"]}
    assert list(shares.values())[1:] == [0.0, 1.0]
    assert as_json("explain", tmp_path / "d.log")["requests"] == 3


def test_run_takes_an_original_too(tmp_path: Path, files: tuple[Path, Path]) -> None:
    (tmp_path / "o.onnx").write_bytes(original())
    found = as_json("run", tmp_path / "o.onnx", "--data", files[1], "-o", tmp_path / "out.npz")
    assert (found["level"], found["blocks"]) == (0, [])


def test_run_at_another_level(files: tuple[Path, Path]) -> None:
    found = as_json("run", files[0], "--data", files[1], "--level", 0)
    assert [item["run_share"] for item in found["blocks"]] == [1.0, 1.0, 1.0]


def test_a_level_that_is_not_there(files: tuple[Path, Path]) -> None:
    ran = invoke("run", files[0], "--data", files[1], "--level", 7, "--output-format", "json")
    assert (ran.code, ran.json["error"]["code"]) == (2, "level-unknown")


def logged(files: tuple[Path, Path], **options: Any) -> Path:
    path = files[0].with_name("d.log")
    with DecisionLog(path, **options) as log:
        session = Session(files[0], observers=[log])
        for seed in range(20):
            session.run(None, feeds(seed))
    return path


def test_a_log_is_summed_up(files: tuple[Path, Path]) -> None:
    path = logged(files)
    found = as_json("explain", path)
    assert (found["requests"], found["dropped"], found["levels"]) == (20, 0, {"1": 20})
    names = [item.region.name for item in plan().blocks]
    assert [gate["name"] for gate in found["gates"]] == names
    assert [gate["bypassed"] for gate in found["gates"]][1:] == [1.0, 0.0]
    first = found["gates"][0]
    bypassed = sum(count for reason, count in first["reasons"].items() if reason.startswith("bypassed"))
    assert bypassed == round(20 * first["bypassed"]) > 0
    text = invoke("explain", path).stdout
    assert "20 requests" in text
    assert all(name in text for name in names)


def test_an_empty_log(tmp_path: Path) -> None:
    (tmp_path / "d.log").touch()
    assert as_json("explain", tmp_path / "d.log")["requests"] == 0
    assert "0 requests" in invoke("explain", tmp_path / "d.log").stdout


def test_the_story_of_one_input(files: tuple[Path, Path]) -> None:
    found = as_json("explain", files[0], "--data", files[1], "--sample", 3)
    decisions = Session(files[0]).answer({"x": SAMPLES[3:4]}).decisions
    assert decisions is not None
    assert [gate["reason"] for gate in found["gates"]] == [item.reason for item in decisions.of(0)]
    assert found["difference"] > 0
    text = invoke("explain", files[0], "--data", files[1], "--sample", 3).stdout
    assert all(item.reason in text for item in decisions.of(0))


@pytest.mark.parametrize(
    ("words", "code"),
    [(("--sample", "20"), "sample-unknown"), (("--level", "9"), "level-unknown")],
)
def test_what_cannot_be_explained(files: tuple[Path, Path], words: tuple[str, ...], code: str) -> None:
    ran = invoke("explain", files[0], "--data", files[1], *words, "--output-format", "json")
    assert (ran.code, ran.json["error"]["code"]) == (2, code)


def test_a_model_is_explained_by_an_input(files: tuple[Path, Path]) -> None:
    ran = invoke("explain", files[0], "--output-format", "json")
    assert (ran.code, ran.json["error"]["code"]) == (2, "data-missing")


def test_an_original_has_no_story(files: tuple[Path, Path]) -> None:
    files[0].write_bytes(original())
    ran = invoke("explain", files[0], "--data", files[1], "--output-format", "json")
    assert (ran.code, ran.json["error"]["code"]) == (2, "not-compiled")


@pytest.mark.parametrize(
    ("score", "place"), [(-2.0, "bypass ----------------|----------------"), (-9.0, "bypass o---"), (5.0, "-o full")]
)
def test_the_picture(score: float, place: str) -> None:
    drawn = picture(score, -2.0)
    assert (place.replace("|", "o") if score == -2.0 else place) in drawn


def replayed(files: tuple[Path, Path], path: Path, *words: object) -> Ran:
    return invoke("verify", files[0], "--log", path, *words, "--output-format", "json")


def test_a_log_is_replayed(files: tuple[Path, Path]) -> None:
    """On the same machine even the outputs come out the same, bit for bit."""
    ran = replayed(files, logged(files, keep_inputs=True))
    assert ran.code == 0, ran.stderr
    assert (ran.json["ok"], ran.json["requests"], ran.json["changed"], ran.json["outputs_changed"]) == (True, 20, [], 0)
    assert replayed(files, files[0].with_name("d.log"), "--limit", 5).json["requests"] == 5


def test_another_decision_is_found(files: tuple[Path, Path]) -> None:
    path = logged(files, keep_inputs=True)
    found = [json.loads(line) for line in path.read_text().splitlines()]
    found[4]["gates"][0]["bypassed"][0] = 1.0 - found[4]["gates"][0]["bypassed"][0]
    path.write_text("".join(json.dumps(item) + "\n" for item in found))
    ran = replayed(files, path)
    assert (ran.code, ran.json["changed"]) == (1, [found[4]["request"]])
    assert "decisions differ for 1 requests" in invoke("verify", files[0], "--log", path).stdout


def test_another_score_is_found(files: tuple[Path, Path]) -> None:
    path = logged(files, keep_inputs=True)
    found = [json.loads(line) for line in path.read_text().splitlines()]
    found[4]["gates"][0]["score"][0] *= 1.001
    path.write_text("".join(json.dumps(item) + "\n" for item in found))
    ran = replayed(files, path)
    assert (ran.code, ran.json["ok"], ran.json["changed"]) == (1, False, [])


def test_a_log_without_inputs_cannot_be_replayed(files: tuple[Path, Path]) -> None:
    ran = replayed(files, logged(files))
    assert (ran.code, ran.json["error"]["code"]) == (2, "log-without-inputs")


def test_a_log_of_another_file_is_refused(files: tuple[Path, Path]) -> None:
    path = logged(files, keep_inputs=True)
    files[0].write_bytes(compiled(plan(level=2)))
    ran = replayed(files, path)
    assert (ran.code, ran.json["error"]["code"]) == (2, "log-of-another-file")


def test_a_page_from_file_or_plan(files: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "m.plan.json").write_text(plan().to_json(arrays=True))
    pages = []
    for subject, out in ((files[0], tmp_path / "m.report.html"), (tmp_path / "m.plan.json", tmp_path / "m.plan.html")):
        assert as_json("report", subject)["output"] == str(out)
        pages.append(out.read_text())
    for page in pages:
        assert "the mean relative-l2 of y stays at or below 0.05" in page
        assert all(item.region.name in page for item in plan().blocks)


def test_a_page_of_nothing(tmp_path: Path) -> None:
    ran = invoke("report", tmp_path / "x.plan.json", "--output-format", "json")
    assert (ran.code, ran.json["error"]["code"]) == (2, "plan-unreadable")
