"""A compact convolutional network for photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.end_to_end.command import run
from tests.end_to_end.running import assert_shut_equal, complaints, ifs, signature

pytestmark = pytest.mark.slow

SKIP_BLOCKS = 9
EXPORTS = ("efficientnet_lite0.onnx", "efficientnet_lite0.dynamo.onnx")


@pytest.mark.parametrize("name", EXPORTS)
def test_every_skip_block_is_found_and_put_behind_a_gate(
    efficientnet_files: dict[str, Path], name: str, tmp_path: Path
) -> None:
    original, out = efficientnet_files[name], tmp_path / "out.onnx"
    ran = run("compile", original, "-o", out, "--output-format", "json")
    assert ran.code == 0, ran.stderr
    assert (ran.json["regions"], ran.json["gates"]) == (SKIP_BLOCKS, SKIP_BLOCKS)
    assert len(ifs(onnx.load(out))) == SKIP_BLOCKS
    assert signature(onnx.load(out)) == signature(onnx.load(original))
    random = np.random.default_rng(0)
    feeds = [{"image": random.standard_normal((rows, 3, 224, 224)).astype(np.float32)} for rows in (1, 2)]
    assert_shut_equal(original, out, feeds)
    assert complaints(out) == ""


@pytest.mark.parametrize("name", EXPORTS)
def test_inspect_lists_them(efficientnet_files: dict[str, Path], name: str) -> None:
    ran = run("inspect", efficientnet_files[name], "--output-format", "json")
    assert ran.code == 0, ran.stderr
    assert len(ran.json["regions"]) == SKIP_BLOCKS
    assert all(region["time_share"] >= 0 for region in ran.json["regions"])
