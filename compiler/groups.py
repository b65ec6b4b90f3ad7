"""Certify groups of a data set one by one, so that none of them bears the damage of the average."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from skipc.compiler.data import Dataset
from skipc.runtime.errors import InputError


def grouped(data: Sequence[Dataset], by: str) -> tuple[Dataset, ...]:
    """The data sets, or their classes as data sets of their own, called ``NAME:LABEL``.

    Every class is tested at the full confidence: the claim is that all of them keep to the limit, so a false one needs
    one particular class, one that does not, to pass its own test (intersection-union test, Berger 1982).

    Args:
        data: loaded.
        by: ``none`` or ``labels``.

    Raises:
        InputError: ``data-name-twice``; ``labels-missing`` or ``labels-mixed``: there are no classes to go by.
    """
    _require_names(data)
    if by == "none":
        return tuple(data)
    return tuple(group for dataset in data for group in _classes(dataset))


def _require_names(data: Sequence[Dataset]) -> None:
    names = [dataset.name for dataset in data]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        hint = "name them: --data NAME=PATH"
        raise InputError("data-name-twice", f"two data sets are called {twice}", where="--data", hint=hint)


def _classes(dataset: Dataset) -> list[Dataset]:
    labels = dataset.labels
    if labels is None:
        hint = "add an integer array named labels to the data"
        raise InputError("labels-missing", "--group-by labels needs labels", where=dataset.name, hint=hint)
    if labels.ndim > 1 and (labels != labels[:, :1]).any():
        what = "the model's batch is fixed, and samples hold rows of several classes"
        hint = "put rows of one class into each batch, or export the model with an open batch axis"
        raise InputError("labels-mixed", what, where=dataset.name, hint=hint)
    first = labels.reshape(len(labels), -1)[:, 0]
    return [_class(dataset, int(label), np.flatnonzero(first == label)) for label in np.unique(first)]


def _class(dataset: Dataset, label: int, positions: np.ndarray) -> Dataset:
    found = dataset.subset(positions)
    return Dataset(f"{dataset.name}:{label}", found.digest, found.samples, found.labels)
