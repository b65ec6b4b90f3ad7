"""Archives to folders: wheels and zip files with the standard library, Debian packages with dpkg-deb."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

from models.errors import DownloadError
from models.sources import Run, run_command


def unpack(archive: Path, folder: Path, run: Run = run_command) -> Path:
    """Unpack into `folder`, which is made, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    if archive.suffix == ".deb":
        _unpack_debian(archive, folder, run)
    else:
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(folder)
    return folder


def _unpack_debian(archive: Path, folder: Path, run: Run) -> None:
    if shutil.which("dpkg-deb") is None:
        raise DownloadError(
            "dpkg-deb, which unpacks Debian packages, is not on this system",
            where=str(archive),
            hint="install the package dpkg, or run the recipe on Debian or Ubuntu and copy the cache folder over",
        )
    done = run(["dpkg-deb", "-x", str(archive), str(folder)], folder)
    if done.returncode != 0:
        raise DownloadError(
            f"dpkg-deb ended with {done.returncode}: {done.stderr.strip()}",
            where=str(archive),
            hint="remove the file, so that it is downloaded again, and make sure that the disk is not full",
        )
