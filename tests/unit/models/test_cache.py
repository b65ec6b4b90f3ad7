from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from models import cache
from models.errors import ConversionError, DigestError, UsageError
from models.fetching import Kitchen
from models.recipe import Committed, Recipe, Workshop
from models.sources import run_command


class Counter:
    """A recipe's build that counts its calls."""

    def __init__(self, text: str = "content") -> None:
        self.calls = 0
        self.text = text

    def __call__(self, workshop: Workshop) -> None:
        self.calls += 1
        (workshop.out / "a.txt").write_text(self.text, encoding="utf-8")


def recipe(build: Callable[[Workshop], None], version: int = 1, name: str = "thing") -> Recipe:
    return Recipe(name, version, "a thing", ("a.txt",), build)


def kitchen(root: Path, *entries: Recipe | Committed) -> Kitchen:
    return Kitchen({entry.name: entry for entry in entries}, root, run_command, lambda _: None)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"SKIPC_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/skipc"),
        ({"SKIPC_CACHE": "", "XDG_CACHE_HOME": ""}, "/home/me/.cache/skipc"),
    ],
)
def test_folder_follows_the_environment(environment: dict[str, str], expected: str) -> None:
    assert cache.folder(environment, Path("/home/me")) == Path(expected)


def test_second_fetch_builds_nothing(tmp_path: Path) -> None:
    build = Counter()
    here = kitchen(tmp_path, recipe(build))
    first, second = here.fetch("thing"), here.fetch("thing")
    assert build.calls == 1
    assert first == second
    assert second.path == tmp_path / "thing"
    assert second.files["a.txt"].read_text(encoding="utf-8") == "content"


@pytest.mark.parametrize("damage", ["changed", None])
def test_damaged_file_is_rebuilt(tmp_path: Path, damage: str | None) -> None:
    build = Counter()
    here = kitchen(tmp_path, recipe(build))
    path = here.fetch("thing").files["a.txt"]
    path.unlink() if damage is None else path.write_text(damage, encoding="utf-8")
    assert here.fetch("thing").files["a.txt"].read_text(encoding="utf-8") == "content"
    assert build.calls == 2


def test_broken_stamp_is_rebuilt(tmp_path: Path) -> None:
    build = Counter()
    here = kitchen(tmp_path, recipe(build))
    (here.fetch("thing").path / cache.STAMP).write_text("{", encoding="utf-8")
    here.fetch("thing")
    assert build.calls == 2


def test_new_version_is_rebuilt(tmp_path: Path) -> None:
    kitchen(tmp_path, recipe(Counter("old"))).fetch("thing")
    files = kitchen(tmp_path, recipe(Counter("new"), version=2)).fetch("thing").files
    assert files["a.txt"].read_text(encoding="utf-8") == "new"


def test_failed_build_leaves_the_cache_as_it_was(tmp_path: Path) -> None:
    def fail(workshop: Workshop) -> None:
        (workshop.out / "a.txt").write_text("half", encoding="utf-8")
        raise RuntimeError("stop")

    kitchen(tmp_path, recipe(Counter("good"))).fetch("thing")
    with pytest.raises(RuntimeError, match="stop"):
        kitchen(tmp_path, recipe(fail, version=2)).fetch("thing")
    assert [entry.name for entry in tmp_path.iterdir()] == ["thing"]
    assert (tmp_path / "thing" / "a.txt").read_text(encoding="utf-8") == "good"


def test_wrong_outputs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"instead of \['a.txt'\]"):
        kitchen(tmp_path, recipe(lambda _: None)).fetch("thing")
    assert list(tmp_path.iterdir()) == []


def test_recipe_uses_another(tmp_path: Path) -> None:
    def copy(workshop: Workshop) -> None:
        text = workshop.fetch("thing").files["a.txt"].read_text(encoding="utf-8")
        (workshop.out / "a.txt").write_text(text * 2, encoding="utf-8")

    build = Counter("x")
    here = kitchen(tmp_path, recipe(build), recipe(copy, name="double"))
    assert here.fetch("double").files["a.txt"].read_text(encoding="utf-8") == "xx"
    here.fetch("thing")
    assert build.calls == 1


def test_unknown_name_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        kitchen(tmp_path, recipe(Counter())).fetch("thin")
    assert caught.value.hint == "known are: thing"
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("listed", [None, '{"sha256": {"a.txt": "00"}}'])
def test_damaged_committed_files_are_refused(tmp_path: Path, listed: str | None) -> None:
    (tmp_path / "a.txt").write_text("changed", encoding="utf-8")
    if listed is not None:
        (tmp_path / "digests.json").write_text(listed, encoding="utf-8")
    with pytest.raises(DigestError, match="is missing or differs") as caught:
        kitchen(tmp_path, Committed("demo", "", tmp_path)).fetch("demo")
    assert "git checkout" in caught.value.hint
