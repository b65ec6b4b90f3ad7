"""Fashion-MNIST (Xiao et al. 2017, arXiv 1708.07747) from Debian's dataset package."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.errors import ConversionError
from models.recipe import Recipe, Workshop
from models.sources import DebianPackage

PACKAGE = DebianPackage(
    "dataset-fashion-mnist",
    "0.0~git20200523.55506a9-1",
    "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
)
FOLDER = "usr/share/datasets/fashion-mnist"
SPLITS = {"train": "train", "test": "t10k"}
_UNSIGNED_BYTE = 0x08


def parse_idx(data: bytes, where: str) -> NDArray[np.uint8]:
    """The array of an idx file: two zeros, element type, rank, big-endian sizes, then the elements."""
    rank = data[3] if len(data) >= 4 else 0
    if data[:3] != bytes([0, 0, _UNSIGNED_BYTE]) or rank == 0:
        raise _malformed("does not start as an idx file of unsigned bytes", where)
    sizes = np.frombuffer(data, ">u4", min(rank, (len(data) - 4) // 4), 4)
    elements = np.frombuffer(data, np.uint8, offset=min(len(data), 4 + 4 * rank))
    if len(sizes) != rank or elements.size != np.prod(sizes, dtype=np.int64):
        raise _malformed(f"is cut off: {elements.size} elements for sizes {sizes.tolist()}", where)
    return elements.reshape(sizes)


def build(workshop: Workshop) -> None:
    """Write `train.npz` and `test.npz`: `image` uint8 [N, 1, 28, 28] and `labels` int64 [N]."""
    folder = workshop.unpacked(PACKAGE) / FOLDER
    for split, prefix in SPLITS.items():
        image = _read(folder / f"{prefix}-images-idx3-ubyte.gz")[:, None]
        labels = _read(folder / f"{prefix}-labels-idx1-ubyte.gz").astype(np.int64)
        np.savez_compressed(workshop.out / f"{split}.npz", image=image, labels=labels)


def _read(path: Path) -> NDArray[np.uint8]:
    return parse_idx(gzip.decompress(path.read_bytes()), path.name)


def _malformed(what: str, where: str) -> ConversionError:
    return ConversionError(what, where=where, hint="remove the archive from the cache, so that it is downloaded again")


FASHION_MNIST = Recipe(
    "fashion-mnist",
    1,
    "70,000 small pictures of clothes in ten classes, as numpy arrays",
    ("train.npz", "test.npz"),
    build,
)
