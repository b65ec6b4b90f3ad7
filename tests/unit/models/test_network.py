from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import models

pytestmark = [pytest.mark.network, pytest.mark.slow]


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPC_CACHE", str(tmp_path))


@pytest.mark.parametrize(("name", "count"), [("vader", 4), ("ppocr", 2)])
def test_recipe_works_against_the_registry(name: str, count: int) -> None:
    assert len(models.fetch(name).files) == count


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="the recipe needs apt-get")
def test_fashion_mnist_is_whole() -> None:
    with np.load(models.fetch("fashion-mnist").files["train.npz"]) as arrays:
        assert arrays["image"].shape == (60_000, 1, 28, 28)


def test_labelled_photographs() -> None:
    pytest.importorskip("PIL.Image")
    with np.load(models.fetch("imagenet20").files["imagenet20.npz"]) as arrays:
        assert arrays["image"].shape == (20, 3, 224, 224)
        assert np.abs(arrays["image"]).max() <= 1.0
        assert arrays["labels"].min() >= 0
