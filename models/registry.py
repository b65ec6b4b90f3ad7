"""The list of recipes, in the order in which `--all` fetches them."""

from __future__ import annotations

from models.recipe import Entry
from models.recipes.demo import DEMO
from models.recipes.efficientnet_lite0 import EFFICIENTNET_LITE0
from models.recipes.fashion_mnist import FASHION_MNIST
from models.recipes.minilm import MINILM
from models.recipes.photos import IMAGENET20, PHOTOS
from models.recipes.ppocr import PPOCR
from models.recipes.smollm2 import SMOLLM2
from models.recipes.vader import VADER, VADER_MINILM


def entries() -> tuple[Entry, ...]:
    """Every recipe; importing this needs nothing but numpy."""
    return (DEMO, FASHION_MNIST, MINILM, VADER, VADER_MINILM, EFFICIENTNET_LITE0, PHOTOS, IMAGENET20, SMOLLM2, PPOCR)
