"""The cache: one folder per recipe, stamped with the recipe's version and the outputs' digests."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from models import digests
from models.errors import ConversionError, DigestError
from models.recipe import Artifact, Committed, Recipe

STAMP = "stamp.json"
COMMITTED_DIGESTS = "digests.json"


def folder(environment: Mapping[str, str], home: Path) -> Path:
    """`$SKIPC_CACHE`, else `skipc` under `$XDG_CACHE_HOME`, else `.cache/skipc` in the home folder."""
    if chosen := environment.get("SKIPC_CACHE"):
        return Path(chosen).expanduser().absolute()
    if base := environment.get("XDG_CACHE_HOME"):
        return Path(base) / "skipc"
    return home / ".cache" / "skipc"


def find(recipe: Recipe, root: Path) -> Artifact | None:
    """The recipe's artifact, or None where it is missing, damaged or of another version."""
    place = root / recipe.name
    stamp = _read_stamp(place / STAMP)
    if stamp.get("version") != recipe.version:
        return None
    listed = stamp.get("sha256")
    if not isinstance(listed, dict) or set(listed) != set(recipe.outputs) or not digests.intact(place, listed):
        return None
    return _artifact(recipe.name, place, recipe.outputs)


@contextmanager
def building(recipe: Recipe, root: Path) -> Iterator[Path]:
    """A temporary folder that becomes the recipe's folder, whole, if the block ends without an error."""
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{recipe.name}-", dir=root) as name:
        made = Path(name) / "out"
        made.mkdir()
        yield made
        _stamp(recipe, made)
        place = root / recipe.name
        if place.exists():
            place.rename(Path(name) / "old")
        made.rename(place)


def committed(entry: Committed) -> Artifact:
    """The committed files, checked against the digests beside them."""
    listed = _read_stamp(entry.folder / COMMITTED_DIGESTS).get("sha256")
    if not isinstance(listed, dict) or not digests.intact(entry.folder, listed):
        raise DigestError(
            f"a file in {entry.folder} is missing or differs from {COMMITTED_DIGESTS} beside it",
            where=entry.name,
            hint=f"restore the folder: `git checkout -- {entry.folder.name}` in {entry.folder.parent}",
        )
    return _artifact(entry.name, entry.folder, tuple(listed))


def _artifact(name: str, place: Path, outputs: tuple[str, ...]) -> Artifact:
    return Artifact(name, place, {output: place / output for output in outputs})


def _stamp(recipe: Recipe, made: Path) -> None:
    written = {entry.name for entry in made.iterdir()}
    if written != set(recipe.outputs):
        raise ConversionError(
            f"wrote {sorted(written)} instead of {sorted(recipe.outputs)}",
            where=recipe.name,
            hint="this is a bug in the recipe: please report it",
        )
    listed = {output: digests.sha256(made / output) for output in recipe.outputs}
    stamp = {"recipe": recipe.name, "version": recipe.version, "sha256": listed}
    (made / STAMP).write_text(json.dumps(stamp, indent=2) + "\n", encoding="utf-8")


def _read_stamp(path: Path) -> dict[str, object]:
    try:
        stamp = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}
