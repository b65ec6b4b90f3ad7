"""A language model judged by perplexity, its gated feed-forward blocks bypassed in 8 bits, from compile to verify."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from skipc.passes.stamp import plan_of
from skipc.runtime.session import open_session
from tests.end_to_end.command import invoke
from tests.end_to_end.running import assert_shut_equal
from tests.end_to_end.test_variants import gained_or_said_why
from tests.graphs import gated_mlps

VOCABULARY, LENGTH, SAMPLES = 300, 64, 300
RISK = 0.05


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model, and passages of random tokens."""
    out = tmp_path_factory.mktemp("language")
    onnx.save(gated_mlps(layers=4, width=256, hidden=1024, vocabulary=VOCABULARY).model, out / "lm.onnx")
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (SAMPLES + 40, LENGTH))
    np.savez(out / "calib.npz", input_ids=ids[:SAMPLES])
    np.savez(out / "test.npz", input_ids=ids[SAMPLES:])
    return out


def log_perplexity(model: Path, ids: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> float:
    """Of what follows, by numpy alone; passages run one by one, since gates decide for a batch."""
    session = open_session(model)
    found = [session.run({"input_ids": passage[None]}, ["logits"])["logits"] for passage in ids]
    logits = np.concatenate(found).astype(np.float64)[:, :-1]
    chances = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return -float(np.take_along_axis(chances, ids[:, 1:, None], axis=-1).mean())


def test_a_language_model_keeps_to_its_perplexity(folder: Path) -> None:
    out = folder / "lm.skip.onnx"
    words = ["--loss", "perplexity", "--risk", RISK, "--bypass", "int8", "--granularity", "batch"]
    words += ["--max-growth", 0.3, "--output-format", "json"]
    ran = invoke("compile", folder / "lm.onnx", "-o", out, "--data", folder / "calib.npz", *words)
    gained_or_said_why(ran)
    if ran.code == 1:
        pytest.skip(f"nothing to look at: {ran.stderr}")
    plan = plan_of(onnx.load(out), where="")
    assert plan.certificate is not None
    assert plan.certificate.loss == "perplexity"
    assert {part.bypass.kind for block in plan.blocks for part in block.bypass.parts or (block,)} == {"int8"}
    with np.load(folder / "test.npz") as arrays:
        ids = arrays["input_ids"]
    rise = log_perplexity(out, ids) - log_perplexity(folder / "lm.onnx", ids)
    assert rise != 0
    assert rise <= RISK
    assert_shut_equal(folder / "lm.onnx", out, [{"input_ids": ids[:1]}])
    verified = invoke("verify", out, "--original", folder / "lm.onnx", "--data", folder / "test.npz", "-q")
    assert verified.code == 0, verified.stderr
    restored = invoke("restore", out, "-o", folder / "again.onnx", "-q")
    assert restored.code == 0, restored.stderr
    assert (folder / "again.onnx").read_bytes() == (folder / "lm.onnx").read_bytes()
