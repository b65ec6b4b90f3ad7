"""Each gate policy from the command line: compiled, certified, looked at, verified on fresh data, and restored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from skipc.passes.policy import POLICIES
from skipc.passes.stamp import plan_of
from skipc.runtime.plan import Plan
from tests.end_to_end.command import run
from tests.end_to_end.test_variants import gained_or_said_why
from tests.graphs import Array, Net

pytestmark = pytest.mark.slow

WIDTH, HIDDEN, BLOCKS = 32, 8192, 4
RISK = 0.05


def network() -> onnx.ModelProto:
    """Blocks that add something where a feature is positive: the first, or for the second half of them the second one.

    They leave these two features alone, so that a gate may read them anywhere.
    """
    net = Net(17)
    value = "x"
    for number in range(BLOCKS):
        up = np.zeros((WIDTH, HIDDEN), np.float32)
        up[2 * number // BLOCKS] = net.random.uniform(0.5, 1.5, HIDDEN)
        down = (net.random.standard_normal((HIDDEN, WIDTH)) / np.sqrt(HIDDEN)).astype(np.float32)
        down[:, :2] = 0.0
        hidden = net.node("Relu", net.node("MatMul", value, net.constant(up)))
        value = net.node("Add", value, net.node("MatMul", hidden, net.constant(down)))
    net.node("Identity", value, output="y")
    shape = ("batch", WIDTH)
    return net.network([net.tensor("x", *shape)], [net.tensor("y", *shape)]).model


def inputs(samples: int, seed: int) -> Array:
    """Normal values, of which the first two are one or minus one."""
    random = np.random.default_rng(seed)
    values = random.standard_normal((samples, WIDTH)).astype(np.float32)
    values[:, :2] = random.choice([-1.0, 1.0], (samples, 2))
    return values


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policies")
    onnx.save(network(), folder / "m.onnx")
    np.savez(folder / "m.calib.npz", x=inputs(1000, 0))
    np.savez(folder / "fresh.npz", x=inputs(500, 1))
    return folder


def compiled(files: Path, policy: str) -> tuple[Path, Plan, str]:
    """The file, its plan, and what was said."""
    out = files / f"{policy}.skip.onnx"
    words = (
        "--gate-policy",
        policy,
        "--bypass",
        "identity",
        "--no-portrait",
        "--risk",
        RISK,
        "--output-format",
        "json",
    )
    ran = run("compile", files / "m.onnx", "-o", out, *words)
    gained_or_said_why(ran)
    if ran.code == 1:
        pytest.skip(f"nothing to look at: {ran.stderr}")
    return out, plan_of(onnx.load(out), where=""), ran.stderr


@pytest.mark.parametrize("policy", ["ahead", "early", "merged"])
def test_a_policy_from_compilation_to_restoration(files: Path, policy: str) -> None:
    out, plan, _ = compiled(files, policy)
    first = plan.blocks[0].region.entry
    read = [block.gate.reading.value if block.gate.reading else block.region.entry for block in plan.blocks]
    if policy == "ahead":
        entries = [block.region.entry for block in plan.blocks]
        assert any(value != entry for value, entry in zip(read, entries, strict=True))
    if policy == "early":
        assert len(plan.blocks) > 1
        assert set(read) == {first}
    if policy == "merged":
        assert any(block.bypass.kind == "chain" for block in plan.blocks)
    checked = run("verify", out, "--original", files / "m.onnx", "--data", files / "fresh.npz")
    assert checked.code == 0, checked.stderr
    back = files / f"{policy}.back.onnx"
    assert run("restore", out, "-o", back).code == 0
    assert back.read_bytes() == (files / "m.onnx").read_bytes()


def test_all_policies_are_measured_where_that_is_asked_for(files: Path) -> None:
    _, plan, said = compiled(files, "auto")
    (note,) = [line for line in said.splitlines() if line.startswith("gate policy")]
    best, _, speeds = note.removeprefix("gate policy ").partition(":")
    pairs = [words.split() for words in speeds.removesuffix(" on *fit*").split(",")]
    measured = {policy: float(speed.rstrip("x")) for policy, speed in pairs}
    assert set(measured) == set(POLICIES)
    assert measured[best] == max(measured.values())
    chained = any(block.bypass.kind == "chain" for block in plan.blocks)
    read_earlier = any(block.gate.reading for block in plan.blocks)
    assert not chained or best == "merged"
    assert not read_earlier or best in {"ahead", "early"}
