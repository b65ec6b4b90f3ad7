"""Classes as data sets of their own."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from skipc.compiler.certify import Claim, require_enough
from skipc.compiler.data import Dataset
from skipc.compiler.groups import grouped
from skipc.compiler.loss import Loss
from skipc.runtime.errors import InputError, PromiseError
from skipc.runtime.losses import top1


def dataset(labels: NDArray[np.int64] | None, name: str = "data") -> Dataset:
    count = 6 if labels is None else len(labels)
    return Dataset(name, "digest", tuple({"x": np.full((1, 2), i)} for i in range(count)), labels)


def numbers(data: Dataset) -> list[int]:
    return [int(sample["x"][0, 0]) for sample in data.samples]


def test_every_class_is_a_data_set() -> None:
    found = grouped([dataset(np.array([2, 0, 2, -1, 0, 2]))], "labels")
    assert {item.name: numbers(item) for item in found} == {"data:-1": [3], "data:0": [1, 4], "data:2": [0, 2, 5]}
    assert all(item.labels is not None and len(set(item.labels.tolist())) == 1 for item in found)
    assert len({item.digest for item in found}) == 3
    assert all(item.digest.startswith("digest-") for item in found)


def test_classes_of_several_data_sets_stay_apart() -> None:
    found = grouped([dataset(np.array([0, 1]), "a"), dataset(np.array([1]), "b")], "labels")
    assert [item.name for item in found] == ["a:0", "a:1", "b:1"]


def test_without_grouping_nothing_changes() -> None:
    given = [dataset(None), dataset(np.array([0, 1]), "b")]
    assert grouped(given, "none") == tuple(given)


@pytest.mark.parametrize("by", ["none", "labels"])
def test_names_are_given_once(by: str) -> None:
    with pytest.raises(InputError, match="called b") as caught:
        grouped([dataset(np.array([0]), name) for name in ("a", "b", "c", "b")], by)
    assert caught.value.code == "data-name-twice"


def test_classes_need_labels() -> None:
    with pytest.raises(InputError) as caught:
        grouped([dataset(np.array([0])), dataset(None, "bare")], "labels")
    assert (caught.value.code, caught.value.where) == ("labels-missing", "bare")


def test_a_fixed_batch_goes_by_its_one_class_or_is_refused() -> None:
    pure = dataset(np.array([[1, 1], [0, 0], [1, 1]]))
    assert {item.name: numbers(item) for item in grouped([pure], "labels")} == {"data:0": [1], "data:1": [0, 2]}
    with pytest.raises(InputError) as caught:
        grouped([dataset(np.array([[1, 1], [0, 1]]))], "labels")
    assert caught.value.code == "labels-mixed"


CLAIM = Claim(Loss("top1", top1, binary=True), "y", 0.01, 0.95, True)


def test_all_classes_with_too_few_samples_are_named_at_once() -> None:
    with pytest.raises(PromiseError) as caught:
        require_enough(CLAIM, {"data:0": 298, "data:1": 299, "data:2": 10}, 0.4, 1)
    error = caught.value
    assert (error.code, error.exit_code, error.where) == ("too-few-samples", 1, "data:0, data:2")
    assert "at least 299 calibration samples" in error.what
    assert "each of 3 data sets is certified alone, and there are 298 in data:0, 10 in data:2" in error.what
    # Two fifths of 748 samples calibrate.
    assert "at least 748 samples of each" in error.hint


def test_enough_is_enough() -> None:
    require_enough(CLAIM, {"data:0": 299, "data:1": 300}, 0.4, 1)
    with pytest.raises(PromiseError, match=r"there are 298$"):
        require_enough(CLAIM, {"data": 298}, 1.0, 1)
