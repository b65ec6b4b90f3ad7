"""Another level, or another certificate, for a file that is compiled already."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from skipc.passes.stamp import plan_of
from tests.end_to_end.command import contents, invoke, run
from tests.end_to_end.conftest import Compiled
from tests.end_to_end.running import outputs, signature

pytestmark = pytest.mark.slow


@pytest.fixture
def copy(demo: Compiled, tmp_path: Path) -> Path:
    """The compiled demo with its plan, to be changed."""
    shutil.copy(demo.plan, tmp_path / "demo.skip.plan.json")
    return Path(shutil.copy(demo.model, tmp_path / "demo.skip.onnx"))


@pytest.fixture
def labelled(demo: Compiled, tmp_path: Path) -> Path:
    """The first 600 test pictures, with their labels."""
    with np.load(demo.test) as arrays:
        np.savez(tmp_path / "fresh.npz", **{name: arrays[name][:600] for name in arrays.files})
    return tmp_path / "fresh.npz"


def test_level_zero_is_the_original(demo: Compiled, copy: Path) -> None:
    ran = run("retune", copy, "--level", 0, "--output-format", "json")
    assert ran.code == 0, ran.stderr
    assert (ran.json["schema"], ran.json["level"], ran.json["levels_removed"]) == (1, 0, 0)
    assert ran.json["certificate"] == demo.ran.json["certificate"]
    with np.load(demo.test) as arrays:
        feeds = {"image": arrays["image"][:1]}
    expected, found = (outputs(onnx.load(path), feeds)["logits"] for path in (demo.original, copy))
    assert found.tobytes() == expected.tobytes()
    assert set(contents(copy.parent)) == {"demo.skip.onnx", "demo.skip.plan.json"}


def test_there_and_back_gives_the_same_bytes(demo: Compiled, copy: Path) -> None:
    for level in (0, demo.ran.json["level"]):
        assert invoke("retune", copy, "--level", level).code == 0
    assert copy.read_bytes() == demo.model.read_bytes()
    assert copy.with_suffix(".plan.json").read_bytes() == demo.plan.read_bytes()


def test_the_plan_beside_it_builds_the_retuned_file(demo: Compiled, copy: Path, tmp_path: Path) -> None:
    out = tmp_path / "gentle.onnx"
    ran = invoke("retune", copy, "--level", 1, "-o", out, "--output-format", "json")
    assert ran.code == 0, ran.stderr
    assert (ran.json["output"], ran.json["plan"]) == (str(out), str(out.with_suffix(".plan.json")))
    assert copy.read_bytes() == demo.model.read_bytes()
    again = invoke("compile", demo.original, "--plan", ran.json["plan"], "-o", tmp_path / "again.onnx")
    assert again.code == 0, again.stderr
    assert (tmp_path / "again.onnx").read_bytes() == out.read_bytes()


def test_certified_anew_on_data_never_seen(demo: Compiled, copy: Path) -> None:
    words = ("--original", demo.original, "--data", demo.test, "--risk", 0.02, "--confidence", 0.9)
    ran = run("retune", copy, *words, "--output-format", "json")
    assert ran.code == 0, ran.stderr
    certificate = ran.json["certificate"]
    assert (certificate["limit"], certificate["confidence"], certificate["samples"]) == (0.02, 0.9, 2000)
    assert certificate["bound"] <= 0.02
    assert (ran.json["level"], ran.json["levels"]) == (certificate["certified"], certificate["certified"] + 1)
    model = onnx.load(copy)
    onnx.checker.check_model(model, full_check=True)
    assert signature(model) == signature(onnx.load(demo.original))
    assert any(name.startswith("retune/") for name in plan_of(model, where="").data_digests)
    verified = invoke("verify", copy, "--original", demo.original, "--data", demo.test, "--output-format", "json")
    assert (verified.code, verified.json["limit"]) == (0, 0.02)
    assert verified.json["mean"] == pytest.approx(certificate["mean"], abs=1e-4)


def test_every_class_can_be_certified(demo: Compiled, copy: Path, labelled: Path) -> None:
    """About 60 pictures a class: 45 without any loss would do for a risk of 0.05 with confidence 0.9."""
    words = ("--original", demo.original, "--data", f"fresh={labelled}", "--group-by", "labels")
    before = contents(copy.parent)
    few = invoke("retune", copy, *words, "--risk", 0.01, "--output-format", "json")
    assert (few.code, few.json["error"]["code"]) == (1, "too-few-samples")
    assert few.json["error"]["where"] == ", ".join(f"fresh:{label}" for label in range(10))
    assert contents(copy.parent) == before
    ran = invoke("retune", copy, *words, "--risk", 0.2, "--confidence", 0.9, "--output-format", "json")
    assert ran.code == 0, ran.stderr
    digests = plan_of(onnx.load(copy), where="").data_digests
    assert sorted(name for name in digests if name.startswith("retune/")) == [f"retune/fresh:{i}" for i in range(10)]


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (("--level", 99), 2, "level-unknown"),
        ((), 2, "usage"),
        (("--level", 1, "--risk", 0.1), 2, "usage"),
        (("--original", "ORIGINAL"), 2, "usage"),
        (("--original", "ORIGINAL", "--data", "CALIBRATION"), 2, "data-not-new"),
        (("--original", "ORIGINAL", "--data", "TEST", "--risk", 1e-9), 1, "too-few-samples"),
        (("--original", "COPY", "--data", "TEST"), 2, "output-is-input"),
        (("--original", "ORIGINAL", "--data", "TEST", "--data", "TEST"), 2, "data-name-twice"),
        (("--level", 1, "-o", "no/such/folder.onnx"), 2, "output-unwritable"),
    ],
)
def test_what_cannot_be_is_said_and_changes_nothing(
    demo: Compiled, copy: Path, words: tuple[object, ...], code: int, error: str
) -> None:
    calibration = demo.original.with_name("demo.calib.npz")
    paths = {"ORIGINAL": demo.original, "CALIBRATION": calibration, "TEST": demo.test, "COPY": copy}
    before = contents(copy.parent)
    ran = invoke("retune", copy, *(paths.get(str(word), word) for word in words), "--output-format", "json")
    assert (ran.code, ran.json["error"]["code"]) == (code, error)
    assert contents(copy.parent) == before


def test_an_original_has_no_level(demo: Compiled) -> None:
    ran = invoke("retune", demo.original, "--level", 0, "--output-format", "json")
    assert (ran.code, ran.json["error"]["code"]) == (2, "not-compiled")
