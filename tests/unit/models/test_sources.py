from __future__ import annotations

import hashlib
import subprocess
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from models import sources
from models.errors import DigestError, DownloadError
from models.sources import Archive, DebianPackage, PypiArchive
from models.unpack import unpack

CONTENT = b"archive"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
WHEEL = PypiArchive("thing", "1.2", "thing-1.2-py3-none-any.whl", DIGEST)
SOURCE = PypiArchive("thing", "1.2", "thing-1.2.zip", DIGEST)
PACKAGE = DebianPackage("thing", "1:2-3", DIGEST)


@dataclass
class Registry:
    """Stands for pip and apt-get: `answers` are exit code and standard error of one call each."""

    filename: str
    answers: list[tuple[int, str]] = field(default_factory=lambda: [(0, "")])
    content: bytes = CONTENT
    commands: list[Sequence[str]] = field(default_factory=list)

    def __call__(self, command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
        code, words = self.answers[len(self.commands)]
        self.commands.append(command)
        if code == 0 and "download" in command:
            (folder / self.filename).write_bytes(self.content)
        return subprocess.CompletedProcess(command, code, "", words)


@pytest.fixture(autouse=True)
def _apt_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")


@pytest.mark.parametrize(
    ("archive", "kind"), [(WHEEL, "--only-binary"), (SOURCE, "--no-binary")], ids=["wheel", "source"]
)
def test_pip_gets_the_pinned_archive(tmp_path: Path, archive: PypiArchive, kind: str) -> None:
    registry = Registry(archive.filename)
    assert sources.obtain(archive, tmp_path / "archives", registry) == tmp_path / "archives" / archive.filename
    (command,) = registry.commands
    assert {kind, "--no-deps", "--require-hashes"} < set(command)
    assert [entry.name for entry in (tmp_path / "archives").iterdir()] == [archive.filename]


def test_apt_gets_the_pinned_version(tmp_path: Path) -> None:
    registry = Registry("thing_1%3a2-3_all.deb")
    assert sources.obtain(PACKAGE, tmp_path, registry).name == "thing_1_2-3_all.deb"
    assert registry.commands[0][-1] == "thing=1:2-3"


def test_apt_updates_its_lists_once(tmp_path: Path) -> None:
    registry = Registry("thing.deb", [(100, "E: Unable to locate package thing"), (0, ""), (0, "")])
    sources.obtain(PACKAGE, tmp_path, registry)
    assert [command[1] for command in registry.commands] == ["download", "update", "download"]


def test_archive_at_hand_is_not_downloaded(tmp_path: Path) -> None:
    (tmp_path / WHEEL.filename).write_bytes(CONTENT)
    registry = Registry(WHEEL.filename)
    sources.obtain(WHEEL, tmp_path, registry)
    assert registry.commands == []


def test_damaged_archive_is_downloaded_again(tmp_path: Path) -> None:
    (tmp_path / WHEEL.filename).write_bytes(b"half")
    assert sources.obtain(WHEEL, tmp_path, Registry(WHEEL.filename)).read_bytes() == CONTENT


@pytest.mark.parametrize("archive", [WHEEL, PACKAGE], ids=["pip", "apt"])
def test_other_content_is_refused(tmp_path: Path, archive: Archive) -> None:
    with pytest.raises(DigestError, match=f"expected {DIGEST}") as caught:
        sources.obtain(archive, tmp_path, Registry(archive.filename, content=b"other"))
    assert caught.value.where == str(archive)
    assert list(tmp_path.iterdir()) == []


def test_no_network_says_what_where_and_what_next(tmp_path: Path) -> None:
    words = "WARNING: Retrying\nERROR: No matching distribution found for thing==1.2\n"
    with pytest.raises(DownloadError) as caught:
        sources.obtain(WHEEL, tmp_path, Registry(WHEEL.filename, [(1, words)]))
    error = caught.value
    assert error.what == "cannot be downloaded; pip ended with 1: ERROR: No matching distribution found for thing==1.2"
    assert error.where == "thing==1.2 (PyPI)"
    assert str(tmp_path / WHEEL.filename) in error.hint
    assert DIGEST in error.hint


def test_other_version_in_debian_is_told(tmp_path: Path) -> None:
    words = "E: Version '1:2-3' for 'thing' was not found"
    with pytest.raises(DownloadError, match="Version '1:2-3' for 'thing' was not found"):
        sources.obtain(PACKAGE, tmp_path, Registry("thing.deb", [(100, words)]))


def test_system_without_apt_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(DownloadError, match="apt-get, which downloads Debian packages, is not on this system"):
        sources.obtain(PACKAGE, tmp_path, Registry("thing.deb"))


def test_success_without_a_file_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="0 archives came"):
        sources.obtain(WHEEL, tmp_path, Registry("thing.txt"))


def test_command_runs_in_its_folder(tmp_path: Path) -> None:
    assert sources.run_command(["pwd"], tmp_path).stdout.strip() == str(tmp_path)


def test_unpack_wheel(tmp_path: Path) -> None:
    archive = tmp_path / "thing.whl"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("thing/data.txt", "x")
    assert (unpack(archive, tmp_path / "to") / "thing" / "data.txt").read_text(encoding="utf-8") == "x"


def test_unpack_debian_package_without_dpkg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(DownloadError, match="dpkg-deb"):
        unpack(tmp_path / "thing.deb", tmp_path / "to")


def test_unpack_broken_debian_package(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="dpkg-deb ended with 2: not an archive"):
        unpack(tmp_path / "thing.deb", tmp_path / "to", Registry("", [(2, "not an archive\n")]))
