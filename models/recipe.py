"""What a recipe is, and what it is given to work with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from models.sources import Archive
from models.unpack import unpack


@dataclass(frozen=True)
class Artifact:
    """What a recipe made: a folder and its files by name, their digests just checked."""

    name: str
    path: Path
    files: Mapping[str, Path]


@dataclass(frozen=True)
class Workshop:
    """A recipe's surroundings.

    Attributes:
        out: the folder that the outputs are written to.
        scratch: a folder that is removed afterwards.
        obtain: the path of a pinned archive, its digest checked.
        fetch: another recipe's artifact.
        say: tells the user about progress.
    """

    out: Path
    scratch: Path
    obtain: Callable[[Archive], Path]
    fetch: Callable[[str], Artifact]
    say: Callable[[str], None]

    def unpacked(self, archive: Archive) -> Path:
        """A folder with the archive's contents."""
        self.say(f"getting {archive}")
        return unpack(self.obtain(archive), self.scratch / archive.name)


@dataclass(frozen=True)
class Recipe:
    """How to make a set of files. A change of `build` or of the archives needs another `version`."""

    name: str
    version: int
    summary: str
    outputs: tuple[str, ...]
    build: Callable[[Workshop], None]


@dataclass(frozen=True)
class Committed:
    """Files that come with the repository; `digests.json` in the folder lists them."""

    name: str
    summary: str
    folder: Path


Entry = Recipe | Committed
