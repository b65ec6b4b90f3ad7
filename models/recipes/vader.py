"""Four sets of sentences with mean sentiment scores of twenty people (Hutto and Gilbert, ICWSM 2014)."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import ConversionError
from models.recipe import Recipe, Workshop
from models.sources import PypiArchive
from models.text import tokenize

ARCHIVE = PypiArchive(
    "vaderSentiment",
    "0.5",
    "vaderSentiment-0.5.zip",
    "5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a",
)
INSIDE = "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz"
SETS = {
    "films": "movieReviewSnippets",
    "amazon": "amazonReviewSnippets",
    "nyt": "nytEditorialSnippets",
    "tweets": "tweets",
}
MAX_LENGTH = 128
CALIBRATION = slice(0, 2000)
SMALL_CALIBRATION = slice(0, 1500)
TEST = slice(2000, 4500)
SEED = 0


def build_sets(workshop: Workshop) -> None:
    """Write one tab-separated file per set: the mean score, from -4 to 4, and the sentence."""
    with tarfile.open(workshop.unpacked(ARCHIVE) / INSIDE) as packed:
        for name, original in SETS.items():
            member = packed.extractfile(f"hutto_ICWSM_2014/{original}_GroundTruth.txt")
            if member is None:
                raise ConversionError("is no file", where=original, hint="remove the archive from the cache")
            rows = parse(member.read().decode("utf-8"), original)
            text = "".join(f"{score}\t{sentence}\n" for score, sentence in rows)
            (workshop.out / f"{name}.tsv").write_text(text, encoding="utf-8", newline="\n")


def parse(text: str, where: str) -> Iterator[tuple[str, str]]:
    """The score and the sentence of each tab-separated line, after its identifier; runs of blanks become one."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        fields = line.split("\t", 2)
        if len(fields) != 3:
            raise ConversionError(f"line {number} has {len(fields)} fields, not 3", where=where, hint="report it")
        yield fields[1], " ".join(fields[2].split())


def read(path: Path) -> tuple[list[str], NDArray[np.float64]]:
    """The sentences of a set and their scores."""
    rows = [line.split("\t", 1) for line in path.read_text(encoding="utf-8").split("\n") if line]
    return [sentence for _, sentence in rows], np.array([float(score) for score, _ in rows])


def build_for_minilm(workshop: Workshop) -> None:
    """Write each set as MiniLM's inputs and `labels` (1 where the score is positive), and seeded splits of `films`."""
    sets = workshop.fetch("vader").files
    tokenizer = workshop.fetch("minilm").files["tokenizer.json"]
    for name in SETS:
        sentences, scores = read(sets[f"{name}.tsv"])
        arrays = tokenize(sentences, tokenizer, MAX_LENGTH) | {"labels": (scores > 0).astype(np.int64)}
        workshop.say(f"{name}: {len(sentences)} sentences of at most {arrays['input_ids'].shape[1]} tokens")
        _write(workshop.out / f"{name}.npz", arrays)
        if name == "films":
            _write_splits(workshop.out, arrays)


def _write_splits(folder: Path, films: dict[str, NDArray[np.int64]]) -> None:
    order = np.random.default_rng(SEED).permutation(len(films["labels"]))
    shuffled = {key: value[order] for key, value in films.items()}
    for suffix, rows in (("calib", CALIBRATION), ("1500.calib", SMALL_CALIBRATION), ("test", TEST)):
        _write(folder / f"films.{suffix}.npz", {key: value[rows] for key, value in shuffled.items()})


def _write(path: Path, arrays: Mapping[str, Any]) -> None:
    np.savez_compressed(path, **arrays)


VADER = Recipe(
    "vader",
    1,
    "sentences with sentiment scores: film reviews, Amazon reviews, NYT editorials, tweets",
    tuple(f"{name}.tsv" for name in SETS),
    build_sets,
)
VADER_MINILM = Recipe(
    "vader-minilm",
    1,
    "the same as MiniLM's inputs, with a calibration and a test sample of the film reviews",
    (*(f"{name}.npz" for name in SETS), "films.calib.npz", "films.1500.calib.npz", "films.test.npz"),
    build_for_minilm,
)
