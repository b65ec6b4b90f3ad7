"""Sentences to the padded arrays that a BERT-like network takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.conversion import require


def tokenize(sentences: Sequence[str], tokenizer_json: Path, max_length: int = 128) -> dict[str, NDArray[np.int64]]:
    """`input_ids`, `attention_mask` and `token_type_ids`, int64 [N, longest], padded on the right.

    `longest` is the token count of the longest sentence after cutting at `max_length`.
    """
    tokenizer = require("tokenizers", str(tokenizer_json)).Tokenizer.from_file(str(tokenizer_json))
    tokenizer.enable_truncation(max_length=max_length)
    tokenizer.enable_padding(length=None)
    encodings = tokenizer.encode_batch(list(sentences))
    return {
        "input_ids": np.array([encoding.ids for encoding in encodings], dtype=np.int64),
        "attention_mask": np.array([encoding.attention_mask for encoding in encodings], dtype=np.int64),
        "token_type_ids": np.array([encoding.type_ids for encoding in encodings], dtype=np.int64),
    }
