"""Who compiles for a runtime in which an `If` saves nothing is told so."""

from __future__ import annotations

import io
from pathlib import Path

import click
import onnx
import pytest

from skipc.compiler.cli import cli
from skipc.compiler.console import Console
from skipc.compiler.settings import Settings
from skipc.compiler.verbs import compile_verb
from skipc.runtime.targets import TARGETS, WARNINGS
from tests.graphs import mlp


def compiled(folder: Path, target: str | None) -> tuple[list[str], str]:
    """The warnings in the result, and what was said."""
    onnx.save(mlp().model, folder / "m.onnx")
    stream = io.StringIO()
    options = {**Settings().__dict__, "cache": None, "no_cache": True}
    console = Console(stream=stream)
    found, _ = compile_verb(console, model=folder / "m.onnx", out=None, data=(), plan=None, target=target, **options)
    return found["warnings"], stream.getvalue()


@pytest.mark.parametrize("target", ["qnn", "directml", "coreml", "nnapi", "webnn"])
def test_a_runtime_that_saves_nothing_is_warned_of(target: str, tmp_path: Path) -> None:
    warnings, said = compiled(tmp_path, target)
    assert warnings == [WARNINGS[target]]
    assert f"warning: {WARNINGS[target]}" in said
    assert (tmp_path / "m.skip.onnx").exists()


@pytest.mark.parametrize("target", ["cpu", "cuda", "openvino", "web", None])
def test_others_are_not(target: str | None, tmp_path: Path) -> None:
    warnings, said = compiled(tmp_path, target)
    assert warnings == []
    assert "warning" not in said


def test_every_target_is_on_offer() -> None:
    option = next(item for item in cli.commands["compile"].params if item.name == "target")
    assert isinstance(option.type, click.Choice)
    assert tuple(option.type.choices) == TARGETS
