from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from models import sources
from models.__main__ import main
from models.conversion import require
from models.errors import MissingExtraError
from models.registry import entries


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPC_CACHE", str(tmp_path))


def test_list_names_every_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [entry.name for entry in entries()]


def test_names_are_unique() -> None:
    names = [entry.name for entry in entries()]
    assert len(set(names)) == len(names)


def test_fetch_prints_the_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "demo"]) == 0
    assert capsys.readouterr().out.rstrip().endswith("models/demo")


def test_fetch_prints_the_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "--files", "demo"]) == 0
    assert all(Path(line).is_file() for line in capsys.readouterr().out.splitlines())


def test_unknown_name_is_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "nothing", "demo"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: nothing: there is no recipe of this name\nhint: known are: demo")
    assert len(captured.out.splitlines()) == 1


@pytest.mark.parametrize("arguments", [[], ["fetch"], ["fetch", "--all", "demo"]])
def test_bad_usage(arguments: Sequence[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_no_network_is_told_without_a_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unplugged(command: Sequence[str], _: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "ERROR: no connection")

    monkeypatch.setattr(sources, "run_command", unplugged)
    assert main(["fetch", "vader"]) == 1
    captured = capsys.readouterr()
    assert "error: vaderSentiment==0.5 (PyPI): cannot be downloaded; pip ended with 1: ERROR: no" in captured.err
    assert "hint: make sure that pip reaches its registry" in captured.err
    assert captured.out == ""


def test_missing_extra_names_the_package() -> None:
    with pytest.raises(MissingExtraError, match="no_such_package is not installed") as caught:
        require("no_such_package.part", "minilm")
    assert "pip install skipc[models]" in caught.value.hint


def test_recipes_are_known_without_their_heavy_packages() -> None:
    program = (
        "import sys, models.registry; models.registry.entries();"
        "sys.exit(bool({'torch', 'transformers', 'PIL', 'tokenizers', 'onnxruntime'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", program], cwd=root, check=False).returncode == 0
