"""SHA-256 of files, and the check against a pinned one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from models.errors import DigestError


def sha256(path: Path) -> str:
    """The hexadecimal digest of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check(path: Path, expected: str, where: str) -> None:
    """Raise DigestError unless the file has the expected digest."""
    found = sha256(path)
    if found == expected:
        return
    raise DigestError(
        f"{path.name} has SHA-256 {found}, expected {expected}",
        where=where,
        hint="the registry served another file than the recipe was written for: do not use it; "
        "try again on another network, or report the new digest",
    )


def intact(folder: Path, digests: Mapping[str, str]) -> bool:
    """Whether every named file is there with its digest."""
    return all((folder / name).is_file() and sha256(folder / name) == digest for name, digest in digests.items())
