"""A real transformer, exported by torch itself, on real sentences; a fraction of the data that one would take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from skipc.compiler.build import build, fixed, normalized
from skipc.compiler.data import batches, input_specs, load_dataset
from skipc.compiler.gate_fit import names_of
from skipc.compiler.independence import dependent
from skipc.compiler.source import load_model
from skipc.compiler.survey import survey_model
from skipc.passes.cut import parts_of
from skipc.passes.flow import Flow
from skipc.passes.policy import with_policy
from skipc.runtime.plan import Block, Gate, plan_from_json
from skipc.runtime.session import open_session
from tests.end_to_end.command import Ran, contents, run
from tests.end_to_end.running import assert_shut_equal, complaints, ifs, signature

pytestmark = pytest.mark.slow

SENTENCES = 300
FRESH = 300
LAYERS = 6
Files = dict[str, Path]


def part(source: Path, rows: slice, target: Path) -> Path:
    with np.load(source) as arrays:
        np.savez(target, **{name: arrays[name][rows] for name in arrays.files})
    return target


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("minilm")


@pytest.fixture(scope="module")
def compiled(folder: Path, minilm_files: Files, films: Files) -> Ran:
    """Three of eighteen regions, and one kind of bypass: time grows with both. The clock has no say about padding."""
    data = part(films["films.calib.npz"], slice(0, SENTENCES), folder / "films.npz")
    excluded = [word for name in ("attention.*", "layer.*", "feed-forward.[045]") for word in ("--exclude", name)]
    words = ("--data", data, "--loss", "cosine", "--risk", 0.1, "--bypass", "narrow", "--padding", "skip", *excluded)
    return run("compile", minilm_files["minilm.onnx"], "-o", folder / "out.onnx", *words, "--output-format", "json")


def test_compiling_succeeds_with_a_certificate(compiled: Ran, folder: Path) -> None:
    assert compiled.code == 0, compiled.stderr
    certificate = compiled.json["certificate"]
    # Two fifths of the sentences calibrate.
    assert (certificate["loss"], certificate["limit"], certificate["samples"]) == ("cosine", 0.1, SENTENCES * 2 // 5)
    assert certificate["bound"] <= 0.1
    assert set(contents(folder)) == {"films.npz", "out.onnx", "out.plan.json", "out.report.html"}


def test_the_model_is_a_valid_drop_in(compiled: Ran, folder: Path, minilm_files: Files) -> None:
    model = onnx.load(folder / "out.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert len(ifs(model)) == compiled.json["gates"] >= 1
    assert signature(model) == signature(onnx.load(minilm_files["minilm.onnx"]))
    assert complaints(folder / "out.onnx") == ""


def test_padding_is_left_out(compiled: Ran, folder: Path, minilm_files: Files, films: Files) -> None:
    assert compiled.code == 0
    plan = plan_from_json((folder / "out.plan.json").read_text(), where="out.plan.json")
    assert plan.padding is not None
    kept = build(normalized(onnx.load(minilm_files["minilm.onnx"])), replace(plan, padding=None))
    sessions = [open_session(data) for data in (kept.SerializeToString(), (folder / "out.onnx").read_bytes())]
    with np.load(films["films.calib.npz"]) as arrays:
        feeds = {name: arrays[name][FRESH : FRESH + 16].astype(np.int64) for name in sessions[0].inputs}
    assert not feeds["attention_mask"].all()
    with_it, without = (session.run(feeds)["sentence_embedding"] for session in sessions)
    np.testing.assert_allclose(without, with_it, rtol=0, atol=1e-5)
    assert run("inspect", folder / "out.onnx", "--output-format", "json").json["padding"] == "attention_mask"
    mask, *values = run("diff", folder / "out.onnx", "--output-format", "json").json["padding_left_out"]
    assert (mask, len(values)) == ("attention_mask", 1 + LAYERS), "the embeddings, and what attention gives"


def test_one_gate_may_decide_across_attention(compiled: Ran, folder: Path, minilm_files: Files, films: Files) -> None:
    """Attention between blocks that share a gate gives what it does outside of any branch, padding left out."""
    assert compiled.code == 0
    plan = plan_from_json((folder / "out.plan.json").read_text(), where="out.plan.json")
    original = normalized(onnx.load(minilm_files["minilm.onnx"]))
    model = fixed(original, plan.targets)
    sentences = load_dataset(str(films["films.calib.npz"]), input_specs(original)).subset(range(FRESH, FRESH + 16))
    surveyed = survey_model(load_model(minilm_files["minilm.onnx"]), sentences)
    plain = [block for item in plan.blocks for block in parts_of(item) or (item,)]
    by_sample = [replace(block, gate=mean_gate(block)) for block in plain]
    names = {block.region.name for block in plain}
    bridged = with_policy(by_sample, "merged", Flow.of(model.graph), names, surveyed.survey.blocks)
    assert [[part.is_bypassed for part in item.bypass.parts] for item in bridged] == [[True, False, True, False, True]]
    assert names_of(bridged[0]) == tuple(block.region.name for block in plain)
    items = batches(sentences, 8, surveyed.inputs)
    assert dependent(surveyed.model, bridged, items) == {}
    for limit in (-np.inf, np.inf):
        models = [
            build(original, replace(plan, blocks=tuple(blocks), thresholds=((limit,) * len(blocks),), level=0))
            for blocks in (by_sample, bridged)
        ]
        apart, together = (open_session(model.SerializeToString()) for model in models)
        for item in items:
            expected, found = (session.run(item.feeds)["sentence_embedding"] for session in (apart, together))
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def mean_gate(block: Block) -> Gate:
    """A gate by sample that knows nothing: its score is the same for every input."""
    return Gate("mean", np.zeros(block.region.channels, np.float32), 0.0, -np.inf, "sample", "attention_mask")


def test_shut_it_is_the_original(compiled: Ran, folder: Path, minilm_files: Files, films: Files) -> None:
    assert compiled.code == 0
    with np.load(films["films.test.npz"]) as arrays:
        names = ("input_ids", "attention_mask", "token_type_ids")
        feeds = [{name: arrays[name][rows] for name in names} for rows in (slice(0, 1), slice(1, 2), slice(2, 7))]
    assert_shut_equal(minilm_files["minilm.onnx"], folder / "out.onnx", feeds)


def test_the_promise_holds_on_fresh_sentences(
    compiled: Ran, folder: Path, minilm_files: Files, films: Files, tmp_path: Path
) -> None:
    assert compiled.code == 0
    fresh = part(films["films.test.npz"], slice(0, FRESH), tmp_path / "fresh.npz")
    words = ("--original", minilm_files["minilm.onnx"], "--data", fresh, "--output-format", "json")
    ran = run("verify", folder / "out.onnx", *words)
    assert ran.code == 0, ran.stderr
    assert (ran.json["ok"], ran.json["samples"]) == (True, FRESH)
    assert 0 < ran.json["mean"] <= 0.1


@pytest.mark.parametrize("name", ["minilm.onnx", "minilm.dynamo.onnx"])
def test_both_exports_show_all_sublayers_and_layers(minilm_files: Files, name: str) -> None:
    ran = run("inspect", minilm_files[name], "--output-format", "json")
    assert ran.code == 0, ran.stderr
    kinds = [region["kind"] for region in ran.json["regions"]]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "attention": LAYERS,
        "feed-forward": LAYERS,
        "layer": LAYERS,
    }
