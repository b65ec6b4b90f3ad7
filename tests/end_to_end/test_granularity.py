"""A compiled file whose gates decide for samples gives each its answer in any company; real networks, real data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import models
from skipc.passes.expose import ExposeDecisions
from skipc.passes.stamp import plan_of
from skipc.runtime import names
from skipc.runtime.session import Session, open_session
from tests.end_to_end.command import invoke
from tests.end_to_end.running import assert_shut_equal
from tests.end_to_end.test_variants import gained_or_said_why

BATCHES = (1, 3, 8, 33)
CLOSE = 1e-4
"""Of logits near 10: products over other numbers of rows are summed in another order."""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo, compiled for batches of eight with a gate for samples before some of its last blocks."""
    files = models.fetch("demo").files
    out = tmp_path_factory.mktemp("samples") / "demo.skip.onnx"
    with np.load(files["demo.calib.npz"]) as arrays:
        np.savez(out.parent / "some.npz", **{name: array[:1500] for name, array in arrays.items()})
    words = ["--granularity", "sample", "--batch-size", 8, "--risk", 0.03, "--bypass", "identity"]
    words += ["--output-format", "json"]
    ran = invoke("compile", files["demo.onnx"], "-o", out, "--data", out.parent / "some.npz", *words, "-q")
    gained_or_said_why(ran)
    if ran.code == 1:
        pytest.skip(f"nothing to look at: {ran.stderr}")
    return out


@pytest.fixture(scope="module")
def images() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    with np.load(models.fetch("demo").files["demo.test.npz"]) as arrays:
        return np.asarray(arrays["image"][: max(BATCHES)])


def deciding(path: Path) -> Session:
    """The compiled file with its decisions among the outputs."""
    model = onnx.load(path)
    return open_session(ExposeDecisions(plan_of(model, where="").blocks).apply(model).SerializeToString())


@pytest.mark.slow
def test_samples_are_the_units_of_the_certificate(compiled: Path) -> None:
    plan = plan_of(onnx.load(compiled), where="")
    assert plan.certificate is not None
    assert (plan.certificate.samples, plan.certificate.test) == (600, "binomial")
    assert {block.gate.granularity for block in plan.blocks} <= {"sample", "batch"}
    assert not plan.by_batch
    assert all(block.granularity_reason for block in plan.blocks)


@pytest.mark.slow
def test_a_sample_gets_the_same_answer_in_any_batch(
    compiled: Path, images: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
) -> None:
    session = deciding(compiled)
    alone = [session.run({"image": images[row : row + 1]}) for row in range(len(images))]
    for size in BATCHES:
        together = session.run({"image": images[:size]})
        for row in range(size):
            np.testing.assert_array_equal(together[names.DECISIONS][row], alone[row][names.DECISIONS][0])
            np.testing.assert_allclose(together["logits"][row], alone[row]["logits"][0], rtol=CLOSE, atol=CLOSE)


@pytest.mark.slow
def test_with_every_gate_shut_batches_equal_the_originals(
    compiled: Path, images: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
) -> None:
    assert_shut_equal(models.fetch("demo").files["demo.onnx"], compiled, [{"image": images[:n]} for n in (1, 8)])
