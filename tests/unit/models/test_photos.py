from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.photos import SIDE, Found, Photo, Rules, distinct, find, preprocess, read, resource_images, square

pillow = pytest.importorskip("PIL.Image")


def noise(seed: int, height: int = 240, width: int = 320) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Smooth coloured noise, which passes for a photograph."""
    small = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    resampling = pillow.Resampling.BICUBIC
    return np.asarray(pillow.fromarray(small).resize((width, height), resampling), dtype=np.uint8)


def encoded(pixels: np.ndarray[Any, np.dtype[np.uint8]], kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    pillow.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def test_photograph_is_read() -> None:
    photo = read(Found("a.png", encoded(noise(0))), Rules())
    assert photo is not None
    assert photo.pixels.shape == (SIDE, SIDE, 3)


@pytest.mark.parametrize(
    "data",
    [
        b"no image",
        encoded(noise(0))[:200],
        encoded(noise(0, 90, 320)),
        encoded(np.full((240, 320, 3), 200, dtype=np.uint8)),
        encoded(np.dstack([noise(0), np.zeros((240, 320), dtype=np.uint8)])),
    ],
    ids=["text", "cut-off", "small", "uniform", "see-through"],
)
def test_anything_else_is_passed_over(data: bytes) -> None:
    assert read(Found("a.png", data), Rules()) is None


def test_square_is_the_centre() -> None:
    pixels = np.zeros((224, 448, 3), dtype=np.uint8)
    pixels[:, 112:336] = 255
    assert square(pillow.fromarray(pixels)).min() == 255


def test_resource_files_are_looked_into() -> None:
    first, second = encoded(noise(1)), encoded(noise(2), "WEBP")
    data = b"qres" + b"".join(len(blob).to_bytes(4, "big") + blob for blob in (first, second)) + b"RIFF"
    assert sorted(resource_images(data)) == sorted([first, second])


def test_find_goes_by_path(tmp_path: Path) -> None:
    blob = encoded(noise(1))
    (tmp_path / "b.rcc").write_bytes(len(blob).to_bytes(4, "big") + blob)
    (tmp_path / "a.JPG").write_bytes(b"x")
    (tmp_path / "c.txt").write_bytes(b"x")
    assert [found.place for found in find(tmp_path)] == ["a.JPG", "b.rcc#0"]


def test_near_copies_are_left_out() -> None:
    def photo(place: str, pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> Photo:
        return Photo(place, "", square(pillow.fromarray(pixels)))

    photos = [photo("a", noise(1)), photo("a brighter", noise(1) // 2 + 60), photo("b", noise(2))]
    assert [kept.place for kept in distinct(photos)] == ["a", "b"]


def test_preprocess_centres_and_moves_channels() -> None:
    pixels = np.zeros((2, SIDE, SIDE, 3), dtype=np.uint8)
    pixels[..., 1] = 255
    image = preprocess(pixels)
    assert image.shape == (2, 3, SIDE, SIDE)
    assert image.dtype == np.float32
    assert image[:, 1].min() == 1.0
    assert image[:, 0].max() == -127 / 128
