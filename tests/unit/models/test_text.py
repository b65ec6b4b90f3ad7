from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.errors import ConversionError
from models.recipes import fortunes
from models.recipes.vader import CALIBRATION, SMALL_CALIBRATION, TEST, parse, read
from models.text import tokenize

tokenizers = pytest.importorskip("tokenizers")


@pytest.fixture
def tokenizer_json(tmp_path: Path) -> Path:
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "good": 4, "film": 5}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    # all-MiniLM-L6-v2's own file asks for a fixed length, which must not win.
    tokenizer.enable_padding(length=128)
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def test_sentences_are_padded_to_the_longest(tokenizer_json: Path) -> None:
    arrays = tokenize(["good film", "film"], tokenizer_json)
    assert arrays["input_ids"].tolist() == [[2, 4, 5, 3], [2, 5, 3, 0]]
    assert arrays["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert arrays["token_type_ids"].tolist() == [[0] * 4] * 2
    assert all(array.dtype == np.int64 for array in arrays.values())


def test_long_sentences_are_cut(tokenizer_json: Path) -> None:
    assert tokenize(["good " * 9], tokenizer_json, max_length=4)["input_ids"].tolist() == [[2, 4, 4, 3]]


def test_parse_and_read(tmp_path: Path) -> None:
    rows = list(parse("1\t2.5\tA  good\tfilm\r\n1_2\t-0.5\tBad\r\n\n", "x"))
    assert rows == [("2.5", "A good film"), ("-0.5", "Bad")]
    path = tmp_path / "films.tsv"
    path.write_text("2.5\tA good film\n-0.5\tBad\n", encoding="utf-8")
    sentences, scores = read(path)
    assert sentences == ["A good film", "Bad"]
    assert scores.tolist() == [2.5, -0.5]


def test_parse_refuses_a_line_with_too_few_fields() -> None:
    with pytest.raises(ConversionError, match="line 2 has 2 fields"):
        list(parse("1\t0\tx\n2\t0\n", "x"))


def test_splits() -> None:
    rows = range(10_605)
    assert len(rows[CALIBRATION]) == 2000
    assert len(rows[TEST]) == 2500
    assert not set(rows[CALIBRATION]) & set(rows[TEST])
    assert set(rows[SMALL_CALIBRATION]) < set(rows[CALIBRATION])


def test_a_fortune_file_is_parted_into_quotations() -> None:
    text = "%\nWer zuletzt lacht,\n   lacht am besten.\n\t\t-- Sprichwort\n%\n%\n100% sicher.\n%\n"
    assert list(fortunes.parse(text)) == ["Wer zuletzt lacht, lacht am besten.", "100% sicher."]
