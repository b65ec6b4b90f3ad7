"""What is compiled once and looked at by many tests."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

import models
from models.errors import DownloadError
from tests.end_to_end.command import Ran, run


@dataclass(frozen=True)
class Compiled:
    """An original, the file made of it, and what the command said."""

    original: Path
    model: Path
    test: Path
    ran: Ran

    @property
    def plan(self) -> Path:
        return self.model.with_suffix(".plan.json")

    @property
    def report(self) -> Path:
        return self.model.with_suffix(".report.html")


def fetched(name: str) -> dict[str, Path]:
    """A recipe's files, built if the cache lacks them; without a registry the test is skipped, not failed."""
    try:
        return dict(models.fetch(name).files)
    except DownloadError as error:
        pytest.skip(f"{name} is not in the cache and cannot be downloaded: {error}")


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """The demo, compiled with its sidecar data into its own folder, as `make demo` does."""
    folder = tmp_path_factory.mktemp("demo")
    for path in models.fetch("demo").files.values():
        shutil.copy(path, folder)
    original = folder / "demo.onnx"
    ran = run("compile", original, "--output-format", "json")
    # Here, so that a failure gives its own reason once, rather than missing files everywhere.
    assert ran.code == 0, ran.stderr
    return Compiled(original, folder / "demo.skip.onnx", folder / "demo.test.npz", ran)


@pytest.fixture
def bare(demo: Compiled, tmp_path: Path) -> Path:
    """The demo without its data beside it, in an empty folder."""
    return Path(shutil.copy(demo.original, tmp_path / "bare.onnx"))


@pytest.fixture(scope="session")
def minilm_files() -> dict[str, Path]:
    return fetched("minilm")


@pytest.fixture(scope="session")
def films() -> dict[str, Path]:
    return fetched("vader-minilm")


@pytest.fixture(scope="session")
def efficientnet_files() -> dict[str, Path]:
    return fetched("efficientnet-lite0")
