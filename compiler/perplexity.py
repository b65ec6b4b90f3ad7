"""The loss of a language model: how much less it makes of the tokens that really follow.

The perplexity of a text is exp(-mean log p(next token)). The loss of a sequence is the rise of its log-perplexity over
the original's, so that over sequences of equal length the ratio of perplexities is at most exp(mean loss), where no
single sequence loses more than one nat a token. Logits are large (25 MB for 128 tokens of a vocabulary of 49,152), so
all that is kept of the original's are the tokens that count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from skipc.runtime.errors import InputError
from skipc.runtime.plan import Array

LIKELIEST = 64
"""Tokens whose probabilities are kept for each place; all others count as one."""

PLACES = 16
"""Distributions that are worked on at a time, so that they stay in the processor's cache."""

TINY = 1e-9

Losses = NDArray[np.float64]
Measure = Callable[[Array, Array], Array]
"""(what was kept of places, log-probabilities that the changed model gives the same tokens there) → [places]."""


def next_token(output: Array, feeds: Mapping[str, Array], valid: NDArray[np.bool_] | None) -> Array:
    """What is kept of the original's logits, float32 [batch, places, 2 + 2 * LIKELIEST]; NaN where no token follows.

    For each place: the token that follows and its log-probability, then the likeliest tokens and theirs.

    Args:
        output: logits, [batch, places, vocabulary].
        feeds: of the run, with the tokens among them.
        valid: [batch, places], false for padding.

    Raises:
        InputError: no input holds the tokens.
    """
    tokens = _tokens(output, feeds)
    real = np.ones(tokens.shape, bool) if valid is None else valid
    count = min(LIKELIEST, output.shape[-1])
    kept = np.full((*tokens.shape, 2 + 2 * count), np.nan, np.float32)
    for row, places in _places(real):
        logits = output[row, places].astype(np.float32)
        total = _log_sum(logits)
        following = tokens[row, places.start + 1 : places.stop + 1]
        likeliest = np.argpartition(logits, -count, axis=-1)[:, -count:]
        ids = np.concatenate([following[:, None], likeliest], axis=1)
        chances = np.take_along_axis(logits, ids, axis=-1) - total[:, None]
        kept[row, places] = np.concatenate([ids[:, :1], chances[:, :1], ids[:, 1:], chances[:, 1:]], axis=1)
    known = real[:, :-1] & real[:, 1:]
    kept[:, :-1][~known] = np.nan
    return kept


def perplexity(kept: Array, candidate: Array, _labels: NDArray[np.int64] | None) -> Losses:
    """Rise of the log-perplexity, in nats a token, [batch]; below zero where the changed model does better."""
    return _mean_over_places(kept, candidate, _rise)


def divergence(kept: Array, candidate: Array, _labels: NDArray[np.int64] | None) -> Losses:
    """Kullback-Leibler divergence from the original, the unlikely tokens taken as one, in nats a token, [batch].

    What `perplexity` is for text that the original itself would write; it varies far less from text to text.
    """
    return _mean_over_places(kept, candidate, _divergence)


def is_language(output: Array) -> bool:
    """Whether an output may be next-token logits."""
    return output.ndim == 3 and output.shape[-1] > 1


def _tokens(output: Array, feeds: Mapping[str, Array]) -> NDArray[np.int64]:
    """The input that holds the tokens: whole numbers below the vocabulary's extent, one for each place."""
    fitting = [
        name
        for name, array in feeds.items()
        if array.shape == output.shape[:2] and array.dtype.kind in "iu" and not _is_about_tokens(name)
    ]
    fitting.sort(key=lambda name: name != "input_ids")
    if not fitting or feeds[fitting[0]].max(initial=0) >= output.shape[-1]:
        what = f"no input holds the tokens that the logits {list(output.shape)} foretell"
        hint = "it needs whole numbers [batch, sequence] below the extent of the last axis; or use --loss kl"
        raise InputError("loss-unfit", what, where="--loss perplexity", hint=hint)
    return feeds[fitting[0]].astype(np.int64)


def _is_about_tokens(name: str) -> bool:
    return any(word in name.lower() for word in ("mask", "type", "position"))


def _places(real: NDArray[np.bool_]) -> Iterator[tuple[int, slice]]:
    """Stretches of places, row by row, without the last, which nothing follows."""
    for row in range(len(real)):
        for start in range(0, real.shape[1] - 1, PLACES):
            yield row, slice(start, min(start + PLACES, real.shape[1] - 1))


def _mean_over_places(kept: Array, candidate: Array, measure: Measure) -> Losses:
    """Mean over the places that a token follows, [batch]; 0 where there are none."""
    known = np.isfinite(kept[..., 0])
    sums = np.zeros(len(kept))
    for row, places in _places(known):
        there = known[row, places]
        before = kept[row, places][there]
        ids = before[:, _id_columns(before)].astype(np.int64)
        logits = candidate[row, places][there].astype(np.float32)
        after = np.take_along_axis(logits, ids, axis=-1) - _log_sum(logits)[:, None]
        sums[row] += float(measure(before, after).sum(dtype=np.float64))
    return np.asarray(sums / np.maximum(known.sum(axis=1), 1), dtype=np.float64)


def _id_columns(before: Array) -> list[int]:
    """Where the ids are: of the token that follows, and of the likeliest."""
    return [0, *range(2, 1 + before.shape[1] // 2)]


def _rise(before: Array, after: Array) -> Array:
    return before[:, 1] - after[:, 0]


def _divergence(before: Array, after: Array) -> Array:
    one, two = before[:, 2 + after.shape[1] - 1 :], after[:, 1:]
    chances = np.exp(one)
    rest = [np.maximum(1.0 - np.exp(part).sum(axis=1), TINY) for part in (one, two)]
    return np.asarray((chances * (one - two)).sum(axis=1) + rest[0] * np.log(rest[0] / rest[1]))


def _log_sum(logits: Array) -> NDArray[np.float32]:
    """Logarithm of the sum of exponentials along the last axis."""
    most = logits.max(axis=-1, keepdims=True)
    return np.asarray(np.log(np.exp(logits - most).sum(axis=-1)) + most[:, 0])
