"""The examples of docs/runtime.md run, in order, in one process."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.deployment import compiled, feeds, original
from tests.unit.runtime.test_monitor import referenced

pytest.importorskip("prometheus_client")

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "runtime.md"

CLIENT = """
from collections.abc import Mapping

from skipc.runtime import Answer, Decisions, DecisionLog, Monitor, Session


def bypassed(session: Session, feeds: Mapping[str, "object"]) -> list[str]:
    answer: Answer = session.answer(feeds)  # type: ignore[arg-type]
    decisions: Decisions | None = answer.decisions
    return [gate.name for gate in decisions.of(0) if gate.bypassed == 1.0] if decisions else []


def watched(path: str) -> Session:
    session = Session(path, observers=[DecisionLog("d.log"), Monitor(fall_back=True)])
    level: str = session.level  # a mistake that a type checker must find
    return session
"""


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.skip.onnx").write_bytes(compiled(referenced()))
    (tmp_path / "model.onnx").write_bytes(original())
    monkeypatch.chdir(tmp_path)
    known: dict[str, Any] = {"batch": feeds(0), "batches": [feeds(seed) for seed in range(30)]}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 6
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), known)
    printed = capsys.readouterr().out
    assert "cpu 1" in printed
    assert "30 0" in printed
    assert "skipc_score_psi" in printed
    assert known["unreached"] == ()


@pytest.mark.slow
def test_a_client_is_checked_against_our_types(tmp_path: Path) -> None:
    """Strictly, and with one mistake in it, so that the check is known to look."""
    (tmp_path / "client.py").write_text(CLIENT)
    words = ["-m", "mypy", "--strict", "--no-incremental", "--config-file=", str(tmp_path / "client.py")]
    environment = {"MYPYPATH": str(ROOT / "typings"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, *words, "--explicit-package-bases", "--ignore-missing-imports", "--follow-untyped-imports"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=environment,
    )
    errors = [line for line in done.stdout.splitlines() if "client.py" in line and ": error:" in line]
    assert len(errors) == 1, done.stdout
    assert "[assignment]" in errors[0]
