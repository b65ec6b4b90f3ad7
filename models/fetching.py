"""From a name to an artifact: out of the cache if it is intact, built by its recipe otherwise."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from models import cache, sources
from models.errors import UsageError
from models.recipe import Artifact, Committed, Entry, Recipe, Workshop


@dataclass(frozen=True)
class Kitchen:
    """The known recipes, the folder that they fill, and how registries and the user are spoken to."""

    entries: Mapping[str, Entry]
    root: Path
    run: sources.Run
    say: Callable[[str], None]

    def fetch(self, name: str) -> Artifact:
        """The named artifact.

        Raises:
            UsageError: there is no such recipe.
            ModelsError: it cannot be built here; the message says why and what to do.
        """
        entry = self._entry(name)
        if isinstance(entry, Committed):
            return cache.committed(entry)
        return cache.find(entry, self.root) or self._build(entry)

    def _entry(self, name: str) -> Entry:
        if name in self.entries:
            return self.entries[name]
        raise UsageError("there is no recipe of this name", where=name, hint=f"known are: {', '.join(self.entries)}")

    def _build(self, recipe: Recipe) -> Artifact:
        self.say(f"{recipe.name}: building in {self.root / recipe.name}")
        with cache.building(recipe, self.root) as out, tempfile.TemporaryDirectory() as scratch:
            recipe.build(Workshop(out, Path(scratch), self._obtain, self.fetch, self._saying(recipe)))
        built = cache.find(recipe, self.root)
        if built is None:
            raise RuntimeError(f"{recipe.name} changed while it was moved into place")
        return built

    def _obtain(self, archive: sources.Archive) -> Path:
        return sources.obtain(archive, self.root / "archives", self.run)

    def _saying(self, recipe: Recipe) -> Callable[[str], None]:
        return lambda words: self.say(f"{recipe.name}: {words}")


def kitchen(say: Callable[[str], None]) -> Kitchen:
    """The kitchen of this machine: all recipes, the user's cache, the real registries."""
    from models.registry import entries

    root = cache.folder(os.environ, Path.home())
    return Kitchen({entry.name: entry for entry in entries()}, root, sources.run_command, say)


def fetch(name: str, say: Callable[[str], None] = lambda _: None) -> Artifact:
    """The named artifact from this machine's cache, built first if need be; see `Kitchen.fetch`."""
    return kitchen(say).fetch(name)
