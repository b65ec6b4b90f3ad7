"""Quotations in German, Spanish and Russian, out of Debian's fortune files: text that an English network never met."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from models.errors import ConversionError
from models.recipe import Recipe, Workshop
from models.recipes.vader import MAX_LENGTH
from models.sources import DebianPackage
from models.text import tokenize


@dataclass(frozen=True)
class Quotations:
    """Where a language's quotations lie: files in a folder of a package."""

    package: DebianPackage
    folder: str
    files: tuple[str, ...]


LANGUAGES = {
    "german": Quotations(
        DebianPackage("fortunes-de", "0.35-1", "03fe7a7912935bd3d4e02e38d79ef32a289097f8718d4488c409595abce067a0"),
        "de",
        ("zitate",),
    ),
    "spanish": Quotations(
        DebianPackage("fortunes-es", "1.36", "54636edc1a4384093b68d1666c7e702ce42d1fcc8b5ab402d9646c328dcca899"),
        "es",
        ("filosofia.fortunes", "sabiduria.fortunes", "vida.fortunes"),
    ),
    "russian": Quotations(
        DebianPackage("fortunes-ru", "1.52-3.1", "2dc76af9c0e02e2926d36f88dcb685bb171fab8677e553a6def41efe8a551cc6"),
        "ru",
        ("knowledge", "life", "friendship"),
    ),
}
PLACE = "usr/share/games/fortunes"
COUNT = 1000
SEED = 0


def build_for_minilm(workshop: Workshop) -> None:
    """Write `german.npz` and so on: MiniLM's inputs for 1,000 quotations each, drawn at random."""
    tokenizer = workshop.fetch("minilm").files["tokenizer.json"]
    for name, source in LANGUAGES.items():
        folder = workshop.unpacked(source.package) / PLACE / source.folder
        texts = (text for file in source.files for text in parse((folder / file).read_text(encoding="utf-8")))
        found = list(dict.fromkeys(texts))
        if len(found) < COUNT:
            what = f"holds {len(found)} quotations, expected at least {COUNT}"
            raise ConversionError(what, where=str(source.package), hint="report it as a bug")
        chosen = np.random.default_rng(SEED).permutation(len(found))[:COUNT]
        arrays = tokenize([found[row] for row in chosen], tokenizer, MAX_LENGTH)
        np.savez_compressed(workshop.out / f"{name}.npz", allow_pickle=False, **arrays)
        workshop.say(f"{name}: {COUNT} of {len(found)} quotations, at most {arrays['input_ids'].shape[1]} tokens")


def parse(text: str) -> Iterator[str]:
    """The quotations of a fortune file, without their authors and remarks; runs of blanks become one.

    A line with a percent sign parts one from the next; authors stand on the last lines, after two dashes.
    """
    for entry in f"\n{text}".split("\n%"):
        said = entry.split("-- ", 1)[0]
        words = " ".join(said.split())
        if words:
            yield words


FORTUNES_MINILM = Recipe(
    "fortunes-minilm",
    1,
    "quotations in German, Spanish and Russian as MiniLM's inputs",
    tuple(f"{name}.npz" for name in LANGUAGES),
    build_for_minilm,
)
