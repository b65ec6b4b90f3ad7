"""The list of recipes, in the order in which `--all` fetches them."""

from __future__ import annotations

from models.recipe import Entry
from models.recipes.demo import DEMO
from models.recipes.efficientnet_lite0 import EFFICIENTNET_LITE0
from models.recipes.fashion_mnist import FASHION_MNIST
from models.recipes.fortunes import FORTUNES_MINILM
from models.recipes.minilm import MINILM
from models.recipes.passages import SMOLLM2_TEXT
from models.recipes.photos import IMAGENET20, PHOTOS
from models.recipes.ppocr import PPOCR
from models.recipes.smollm2 import SMOLLM2, SMOLLM2_CACHED
from models.recipes.vader import VADER, VADER_MINILM
from models.recipes.whisper import WHISPER


def entries() -> tuple[Entry, ...]:
    """Every recipe; importing this needs nothing but numpy."""
    text = (MINILM, VADER, VADER_MINILM, FORTUNES_MINILM, SMOLLM2, SMOLLM2_CACHED, SMOLLM2_TEXT)
    return (DEMO, FASHION_MNIST, *text, EFFICIENTNET_LITE0, PHOTOS, IMAGENET20, PPOCR, WHISPER)
