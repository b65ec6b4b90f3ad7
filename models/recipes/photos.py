"""Photographs for vision networks: about 480 out of four Debian packages, and 20 labelled ones from foolbox."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from models.conversion import require
from models.errors import ConversionError
from models.photos import Photo, Rules, distinct, find, preprocess, read, square
from models.recipe import Recipe, Workshop
from models.sources import DebianPackage, PypiArchive

MIXED = Rules(least_side=128, least_colours=400, most_uniform=0.15, most_flat=0.35)
"""For documentation, where most pictures are no photographs."""
PACKAGES = (
    (
        DebianPackage("gcompris-qt-data", "3.1-2", "e9cf06ab2105529068df73085784e835d2ff03f870d2a8091f09125d40abac9f"),
        Rules(),
    ),
    (
        DebianPackage(
            "mate-backgrounds", "1.26.0-1", "7bf4c2209f34b4f61ba6d24c8b58c28b361e82e4b943aae6d42c030169af9e04"
        ),
        Rules(),
    ),
    (
        DebianPackage(
            "opencv-doc", "4.6.0+dfsg-12", "4b12681df35878207ac7097dc66184b2ae552e4bf4ddd2af04a0f03ed0b8682a"
        ),
        MIXED,
    ),
)
FOOLBOX = PypiArchive(
    "foolbox",
    "3.3.4",
    "foolbox-3.3.4-py3-none-any.whl",
    "11049d515d38e765e206a73ace9cc648b81a0d6d1da9ad9057e149ee117989cb",
)
LEAST_COUNT = 400
SEED = 0


def build_photos(workshop: Workshop) -> None:
    """Write `photos.npz`, `image` float32 [N, 3, 224, 224] in seeded random order, and where each came from."""
    require("PIL.Image", PHOTOS.name)
    found: list[Photo] = []
    for package, rules in PACKAGES:
        photos = (read(entry, rules) for entry in find(workshop.unpacked(package)))
        found += [photo for photo in photos if photo is not None]
    kept = distinct(found)
    workshop.say(f"{len(kept)} distinct photographs, {len(found) - len(kept)} near-copies left out")
    if len(kept) < LEAST_COUNT:
        raise ConversionError(
            f"found {len(kept)} photographs, expected at least {LEAST_COUNT}",
            where=PHOTOS.name,
            hint="make sure that Pillow reads WebP: `pip install skipc[models]`",
        )
    photos_in_order = [kept[index] for index in np.random.default_rng(SEED).permutation(len(kept))]
    image = preprocess(np.stack([photo.pixels for photo in photos_in_order]))
    np.savez_compressed(workshop.out / "photos.npz", image=image)
    _write_sources(workshop.out / "photos.sources.tsv", photos_in_order)


def build_imagenet20(workshop: Workshop) -> None:
    """Write `imagenet20.npz`: `image` float32 [20, 3, 224, 224] and ImageNet `labels` int64 [20]."""
    pillow = require("PIL.Image", IMAGENET20.name)
    folder = workshop.unpacked(FOOLBOX) / "foolbox" / "data"
    paths = sorted(folder.glob("imagenet_*.jpg"))
    labels = [_label(path) for path in paths]
    pixels = np.stack([square(pillow.open(path)) for path in paths])
    np.savez_compressed(
        workshop.out / "imagenet20.npz", image=preprocess(pixels), labels=np.array(labels, dtype=np.int64)
    )


def _label(path: Path) -> int:
    """The class in a name such as `imagenet_07_283.jpg`."""
    match = re.fullmatch(r"imagenet_\d+_(\d+)", path.stem)
    if match is None:
        raise ConversionError(f"{path.name} names no class", where=IMAGENET20.name, hint="report it as a bug")
    return int(match[1])


def _write_sources(path: Path, photos: Sequence[Photo]) -> None:
    lines = [f"{index}\t{photo.place}\t{photo.sha256}" for index, photo in enumerate(photos)]
    path.write_text("\n".join(["index\tplace\tsha256", *lines]) + "\n", encoding="utf-8")


PHOTOS = Recipe(
    "photos",
    1,
    "about 480 photographs, preprocessed for EfficientNet-Lite0",
    ("photos.npz", "photos.sources.tsv"),
    build_photos,
)
IMAGENET20 = Recipe(
    "imagenet20", 1, "20 photographs with ImageNet labels, preprocessed likewise", ("imagenet20.npz",), build_imagenet20
)
