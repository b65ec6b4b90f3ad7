"""Finds photographs in unpacked packages and tells them from drawings, screenshots and near-copies."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.conversion import require

SIDE = 224
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
MAGICS = (b"RIFF", b"\xff\xd8\xff", b"\x89PNG\r\n")
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Found:
    """The bytes of an image file and where they lay: a path, with `#N` for the Nth image inside a resource file."""

    place: str
    data: bytes


@dataclass(frozen=True)
class Photo:
    """A photograph, cropped to its central square and resized: uint8 [224, 224, 3]."""

    place: str
    sha256: str
    pixels: Pixels


@dataclass(frozen=True)
class Rules:
    """What counts as a photograph.

    Attributes:
        least_side: in pixels, before resizing.
        least_colours: of the 32,768 colours of five bits per channel.
        most_uniform: largest share of the picture that a single such colour may take.
        most_flat: largest share of pixels that equal their right-hand neighbour, as they do in drawings.
    """

    least_side: int = 100
    least_colours: int = 300
    most_uniform: float = 0.5
    most_flat: float = 0.6


def find(folder: Path) -> Iterator[Found]:
    """Every image file under a folder, in the order of the paths; Qt resource files are looked into."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        place = path.relative_to(folder).as_posix()
        if path.suffix.lower() in SUFFIXES:
            yield Found(place, path.read_bytes())
        elif path.suffix == ".rcc":
            blobs = resource_images(path.read_bytes())
            yield from (Found(f"{place}#{index}", blob) for index, blob in enumerate(blobs))


def resource_images(data: bytes) -> Iterator[bytes]:
    """The uncompressed images of a Qt resource file: each is preceded by its length, four bytes, big-endian."""
    for magic in MAGICS:
        start = data.find(magic, 4)
        while start >= 0:
            length = int.from_bytes(data[start - 4 : start], "big")
            if len(magic) < length <= len(data) - start:
                yield data[start : start + length]
            start = data.find(magic, start + 1)


def read(found: Found, rules: Rules) -> Photo | None:
    """The photograph, or None for anything else: too small, see-through, drawn, or not an image at all."""
    image = _decode(found.data)
    if image is None or min(image.size) < rules.least_side or _see_through(image):
        return None
    pixels = square(image)
    if not _photographic(pixels, rules):
        return None
    return Photo(found.place, hashlib.sha256(found.data).hexdigest(), pixels)


def square(image: Any) -> Pixels:
    """A Pillow image's central square at 224 x 224, uint8 [224, 224, 3]."""
    resampling = require("PIL.Image", "photos").Resampling.BICUBIC
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side)
    return np.asarray(image.convert("RGB").resize((SIDE, SIDE), resampling, box), dtype=np.uint8)


def distinct(photos: Iterable[Photo], most_alike: float = 0.9) -> list[Photo]:
    """The photographs less near-copies: those whose 16 x 16 thumbnails correlate above `most_alike`."""
    kept: list[Photo] = []
    signatures: list[NDArray[np.float64]] = []
    for photo in photos:
        signature = _signature(photo.pixels)
        if not signatures or float(np.max(np.stack(signatures) @ signature)) <= most_alike:
            kept.append(photo)
            signatures.append(signature)
    return kept


def preprocess(pixels: Pixels) -> NDArray[np.float32]:
    """uint8 [..., 224, 224, 3] to what EfficientNet-Lite takes, float32 [..., 3, 224, 224]."""
    return np.ascontiguousarray(np.moveaxis((pixels.astype(np.float32) - 127.0) / 128.0, -1, -3))


def _decode(data: bytes) -> Any | None:
    pillow = require("PIL.Image", "photos")
    try:
        image = pillow.open(io.BytesIO(data))
        image.load()
    except (OSError, ValueError, SyntaxError):
        return None
    return image


def _see_through(image: Any) -> bool:
    if image.mode not in {"RGBA", "LA", "P", "PA"}:
        return False
    alpha = np.asarray(image.convert("RGBA"))[..., 3]
    return float((alpha < 255).mean()) > 0.01


def _photographic(pixels: Pixels, rules: Rules) -> bool:
    five_bits = (pixels >> 3).astype(np.int32)
    colours = np.bincount((five_bits[..., 0] << 10 | five_bits[..., 1] << 5 | five_bits[..., 2]).ravel())
    flat = float((np.diff(pixels.astype(np.int32).sum(-1), axis=1) == 0).mean())
    return bool(
        np.count_nonzero(colours) >= rules.least_colours
        and colours.max() <= rules.most_uniform * SIDE * SIDE
        and flat <= rules.most_flat
    )


def _signature(pixels: Pixels) -> NDArray[np.float64]:
    thumbnail = pixels.reshape(16, SIDE // 16, 16, SIDE // 16, 3).mean((1, 3)).ravel()
    centred = thumbnail - thumbnail.mean()
    norm = float(np.linalg.norm(centred))
    return np.asarray(centred / norm if norm > 0 else centred, dtype=np.float64)
