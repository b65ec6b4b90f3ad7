"""What a bypass costs: losses in [0, 1] that compare a changed model's output with the original's, sample by sample."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipc.compiler.perplexity import divergence, is_language, next_token, perplexity
from skipc.runtime.errors import InputError
from skipc.runtime.losses import TINY, bounded, cosine, is_broken, relative_l2, top1
from skipc.runtime.plan import Array

Losses = NDArray[np.float64]
Compare = Callable[[Array, Array, NDArray[np.int64] | None], Array]
"""(original's output, changed output, labels) → losses, with the trailing feature axis reduced."""

Keep = Callable[[Array, Mapping[str, Array], NDArray[np.bool_] | None], Array]
"""(original's output, feeds, validity of tokens) → what stands for the original's output when losses are taken."""

STEADY_SHARE = 20
"""A steady loss tells a mean from so many times fewer units: its units are means over about a hundred places."""

NAMES = ("auto", "top1", "accuracy", "cosine", "relative-l2", "kl", "perplexity")


@dataclass(frozen=True)
class Loss:
    """A loss.

    Attributes:
        name: as given by the user, or what ``auto`` chose.
        compare: see `Compare`.
        binary: whether every sample's loss is 0 or 1, which allows the exact binomial test.
        needs_labels: whether it cannot do without labels.
        proxy: a smooth stand-in that gates learn from, where the loss itself is a step or noisy.
        keep: reduces the original's output to what the loss needs of it, where outputs are too large to be kept.
        steady: whether one sample's loss is a mean over so many places that a few dozen samples tell the mean.
    """

    name: str
    compare: Compare
    binary: bool = False
    needs_labels: bool = False
    proxy: Compare | None = None
    keep: Keep | None = None
    steady: bool = False

    def enough(self, units: int) -> int:
        """How many units tell a mean as well as so many units of a loss with one place each."""
        return -(-units // STEADY_SHARE) if self.steady else units

    def kept(self, output: Array, feeds: Mapping[str, Array], valid: NDArray[np.bool_] | None) -> Array:
        """What to keep of the original's output as the reference of a batch."""
        return self.keep(output, feeds, valid) if self.keep else output

    @property
    def is_known(self) -> bool:
        """Whether it is one of skipc's own, which its name stands for; a user's function may change behind its name."""
        return self.name in NAMES

    def of(
        self, reference: Array, candidate: Array, labels: NDArray[np.int64] | None, valid: NDArray[np.bool_] | None
    ) -> Losses:
        """Losses of a batch, float64 [batch].

        Args:
            reference: what was kept of the original's output, [batch, ...].
            candidate: the changed model's output.
            labels: [batch], where the data has any.
            valid: [batch, sequence], false for padding; used where the output has a sequence axis.
        """
        return _per_sample(self.compare(reference, candidate, labels), valid)

    def smooth(
        self, reference: Array, candidate: Array, labels: NDArray[np.int64] | None, valid: NDArray[np.bool_] | None
    ) -> Losses:
        """Like `of`, by the proxy where there is one."""
        return _per_sample((self.proxy or self.compare)(reference, candidate, labels), valid)


def _per_sample(losses: Array, valid: NDArray[np.bool_] | None) -> Losses:
    """Mean over all axes but the first, without padding; a loss that is no number counts as 1."""
    wide = bounded(losses)
    if wide.ndim == 1:
        return wide
    flat = wide.reshape(wide.shape[0], wide.shape[1], -1).mean(axis=2)
    weights = valid if valid is not None and valid.shape == flat.shape else np.ones_like(flat, dtype=bool)
    return np.asarray((flat * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), 1), dtype=np.float64)


def margin_erosion(reference: Array, candidate: Array, _labels: NDArray[np.int64] | None) -> Array:
    """How much of the original's margin is gone, to the fourth power: 1 where the class of highest score differs.

    The margin is the distance from the highest score to the next. The power lets large losses of margin count, which
    foretell flips, and small ones hardly; on real classifiers its mean stays near the share of flips.
    """
    best = reference.argmax(axis=-1)[..., None]
    before, after = (_margin(output, best) for output in (reference, candidate))
    left = np.clip(after / np.maximum(before, TINY), 0.0, 1.0)
    return np.asarray((1.0 - left) ** 4)


def _margin(output: Array, best: Array) -> Losses:
    """Score of one class less the highest of all others, over the last axis."""
    wide = output.astype(np.float64)
    own = np.take_along_axis(wide, best, axis=-1)[..., 0]
    rest = wide.copy()
    np.put_along_axis(rest, best, -np.inf, axis=-1)
    return np.asarray(own - rest.max(axis=-1))


def accuracy(reference: Array, candidate: Array, labels: NDArray[np.int64] | None) -> Array:
    """1 where the original is right and the changed model is wrong."""
    if labels is None:
        raise InputError("labels-missing", "the loss accuracy needs labels", hint="add an array named labels")
    wrong = (candidate.argmax(axis=-1) != labels) | is_broken(candidate)
    return np.asarray((reference.argmax(axis=-1) == labels) & wrong)


def kl(reference: Array, candidate: Array, _labels: NDArray[np.int64] | None) -> Array:
    """Kullback-Leibler divergence from the original's distribution along the last axis, in nats, capped at 1."""
    are_probabilities = is_distribution(reference)
    one, two = (log_probabilities(output, are_probabilities) for output in (reference, candidate))
    return np.asarray((np.exp(one) * (one - two)).sum(axis=-1))


def log_probabilities(output: Array, are_probabilities: bool) -> Losses:
    """Logarithms of the distributions along the last axis, from probabilities or from logits."""
    wide = output.astype(np.float64)
    if are_probabilities:
        return np.log(np.maximum(wide, TINY))
    shifted = wide - wide.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def is_distribution(output: Array) -> bool:
    """Whether rows are probabilities; 1e-3 allows for float16 softmax."""
    return bool((output >= 0).all() and np.allclose(output.sum(axis=-1, dtype=np.float64), 1.0, atol=1e-3))


def resolve_loss(name: str, reference: Array, labels: NDArray[np.int64] | None) -> Loss:
    """The loss that a name stands for, given an output of the original.

    Args:
        name: one of `NAMES`, or ``module:function`` taking (original's output, changed output, labels or None) and
            returning losses in [0, 1], one a sample.
        reference: an output of the original, [batch, ...].
        labels: of the data, or None.

    Raises:
        InputError: the name is unknown, or the loss does not fit the output or the data.
    """
    if ":" in name:
        return Loss(name, _imported(name))
    name = _chosen(reference, labels) if name == "auto" else name
    flat = reference.ndim == 2
    known = {
        "top1": Loss("top1", top1, binary=flat, proxy=margin_erosion),
        "accuracy": Loss("accuracy", accuracy, binary=flat, needs_labels=True, proxy=margin_erosion),
        "cosine": Loss("cosine", cosine),
        "relative-l2": Loss("relative-l2", relative_l2),
        "kl": Loss("kl", kl),
        "perplexity": Loss("perplexity", perplexity, proxy=divergence, keep=next_token, steady=True),
    }
    if name not in known:
        raise InputError(
            "loss-unknown", f"there is no loss {name!r}", hint=f"one of {', '.join(NAMES)}, module:function"
        )
    if known[name].needs_labels and labels is None:
        hint = "add an integer array named labels to the data, or use --loss top1"
        raise InputError("labels-missing", f"the loss {name} needs labels", where="--data", hint=hint)
    _require_fit(name, reference)
    return known[name]


def _require_fit(name: str, reference: Array) -> None:
    """Refuse an output that a loss cannot judge: one feature has one class and one direction, so it never differs."""
    scalar = reference.ndim == 0
    narrow = reference.ndim < 2 or reference.shape[-1] < 2
    per_token = name == "accuracy" and reference.ndim > 2
    no_language = name == "perplexity" and not is_language(reference)
    if scalar or per_token or no_language or (narrow and name != "relative-l2"):
        what = f"the loss {name} cannot judge an output of shape {list(reference.shape)}"
        hint = "use --loss relative-l2, or module:function"
        raise InputError("loss-unfit", what, where="--loss", hint=hint)


def _chosen(reference: Array, labels: NDArray[np.int64] | None) -> str:
    """Directions where rows have unit norm, classes where there are labels or probabilities, else distance."""
    if reference.ndim < 2 or reference.shape[-1] < 2:
        return "relative-l2"
    classes = reference.shape[-1]
    norms = np.linalg.norm(reference.astype(np.float64), axis=-1)
    if np.allclose(norms, 1.0, atol=1e-3) and not is_distribution(reference):
        return "cosine"
    labelled = labels is not None and int(labels.max(initial=0)) < classes
    return "top1" if labelled or is_distribution(reference) else "relative-l2"


def _imported(name: str) -> Compare:
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:
        hint = "give module:function, importable from the current folder"
        raise InputError("loss-unknown", f"cannot import it: {error}", where=f"--loss {name}", hint=hint) from error

    def compare(reference: Array, candidate: Array, labels: NDArray[np.int64] | None) -> Array:
        try:
            losses = np.asarray(found(reference, candidate, labels), dtype=np.float64)
        except Exception as error:
            what = f"the function raised {type(error).__name__}: {error}"
            hint = "it is called with two outputs and labels or None, and returns losses"
            raise InputError("loss-invalid", what, where=f"--loss {name}", hint=hint) from error
        if losses.shape[:1] != reference.shape[:1] or not ((losses >= 0) & (losses <= 1)).all():
            what = f"it must return {len(reference)} losses between 0 and 1"
            raise InputError("loss-invalid", what, where=f"--loss {name}", hint="scale and clip the loss")
        return losses

    return compare
