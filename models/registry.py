"""The list of recipes, in the order in which `--all` fetches them."""

from __future__ import annotations

from models.recipe import Entry
from models.recipes.fashion_mnist import FASHION_MNIST
from models.recipes.minilm import MINILM


def entries() -> tuple[Entry, ...]:
    """Every recipe; importing this needs nothing but numpy."""
    return (FASHION_MNIST, MINILM)
