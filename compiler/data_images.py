"""Images from a folder, cropped and scaled as the model wants them (extra ``skipc[images]``)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipc.compiler.data_check import Chunk
from skipc.compiler.data_types import InputSpec
from skipc.runtime.errors import InputError

PREPROCESS = "preprocess.json"
DEFAULT_SIZE = 224


@dataclass(frozen=True)
class Layout:
    """How the model lays an image out."""

    channels: int
    height: int
    width: int
    channels_first: bool


@dataclass(frozen=True)
class Preprocess:
    """`(pixel / scale - mean) / std`, mean and std one number or one per channel."""

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    scale: float = 255.0


def read_images(folder: Path, files: Sequence[Path], inputs: Sequence[InputSpec]) -> Iterator[Chunk]:
    """All images as one array: resized to cover the model's height and width, the centre kept.

    Float inputs are scaled to 0..1, or by the folder's ``preprocess.json``; uint8 inputs hold the pixels as they are.
    """
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or not _takes_pixels(inputs[0]):
        wanted = ", ".join(f"{spec.name} {spec.dtype}{spec.shape_text()}" for spec in inputs)
        what = f"images fit a model with one float or uint8 input of rank 4; this one has {wanted}"
        raise InputError("data-image-inputs", what, where=str(folder), hint="give .npz files or module:function")
    spec = inputs[0]
    layout = _layout(spec, folder)
    preprocess = _preprocess(folder / PREPROCESS, layout) if spec.dtype.kind == "f" else None
    shape = (layout.height, layout.width, layout.channels)
    shape = (shape[2], *shape[:2]) if layout.channels_first else shape
    array = np.empty((len(files), *shape), dtype=spec.dtype)
    for target, file in zip(array, files, strict=True):
        pixels = _scaled(_pixels(file, layout), preprocess)
        target[...] = pixels.transpose(2, 0, 1) if layout.channels_first else pixels
    yield Chunk(str(folder), {spec.name: array})


def _takes_pixels(spec: InputSpec) -> bool:
    return spec.dtype.kind == "f" or spec.dtype == np.uint8


def _layout(spec: InputSpec, folder: Path) -> Layout:
    _, first, second, last = spec.shape
    if first in (1, 3):
        return Layout(int(first), _size(second), _size(last), channels_first=True)
    if last in (1, 3):
        return Layout(int(last), _size(first), _size(second), channels_first=False)
    raise InputError(
        "data-image-inputs",
        f"input {spec.name!r} has shape {spec.shape_text()}: neither axis 1 nor axis 3 is 1 or 3 channels",
        where=str(folder),
        hint="give .npz files or module:function",
    )


def _size(dim: int | str | None) -> int:
    return dim if isinstance(dim, int) else DEFAULT_SIZE


def _pixels(file: Path, layout: Layout) -> NDArray[Any]:
    """The image as uint8 ``[height, width, channels]``."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        what = "images need the package Pillow"
        raise InputError("data-missing-extra", what, where=str(file), hint='pip install "skipc[images]"') from error
    try:
        with Image.open(file) as opened:
            upright = ImageOps.exif_transpose(opened).convert("L" if layout.channels == 1 else "RGB")
            fitted = ImageOps.fit(upright, (layout.width, layout.height), Image.Resampling.BILINEAR)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        hint = "repair it or take it out of the folder"
        raise InputError("data-bad-image", f"cannot be read: {error}", where=str(file), hint=hint) from error
    return np.asarray(fitted).reshape(layout.height, layout.width, layout.channels)


def _scaled(pixels: NDArray[Any], preprocess: Preprocess | None) -> NDArray[Any]:
    if preprocess is None:
        return pixels
    mean, std = np.array(preprocess.mean, np.float32), np.array(preprocess.std, np.float32)
    return (pixels / np.float32(preprocess.scale) - mean) / std


def _preprocess(path: Path, layout: Layout) -> Preprocess:
    if not path.is_file():
        return Preprocess()
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _bad_preprocess(path, f"cannot be read: {error}") from error
    if not isinstance(read, dict) or not read.keys() <= {"mean", "std", "scale"}:
        raise _bad_preprocess(path, "must be an object with no keys but mean, std and scale")
    found = Preprocess(
        mean=_numbers(read.get("mean", 0.0)),
        std=_numbers(read.get("std", 1.0)),
        scale=_number(read.get("scale", 255.0)),
    )
    for key, values in (("mean", found.mean), ("std", found.std)):
        if len(values) not in (1, layout.channels):
            raise _bad_preprocess(path, f"{key} must be {layout.channels} finite numbers or one, not {read[key]}")
    if 0.0 in found.std or not np.isfinite(found.scale) or found.scale == 0.0:
        raise _bad_preprocess(path, "std and scale divide the pixels: they must be finite numbers and not zero")
    return found


def _number(value: object) -> float:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if plain else float("nan")  # type: ignore[arg-type]


def _numbers(value: object) -> tuple[float, ...]:
    """The numbers in a JSON value; none of them where one is not a finite number."""
    items = tuple(_number(item) for item in (value if isinstance(value, list) else [value]))
    return items if np.isfinite(items).all() else ()


def _bad_preprocess(path: Path, what: str) -> InputError:
    hint = 'write {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "scale": 255}'
    return InputError("data-bad-preprocess", what, where=str(path), hint=hint)
