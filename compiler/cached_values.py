"""Measurements as arrays and back: what an entry of the cache holds, without pickles."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from skipc.runtime.plan import Array

TREE = "tree"
"""The array that holds everything but arrays, as JSON in UTF-8."""

HOME = "skipc."
"""Only dataclasses of skipc are made from what a file says."""


def encoded(value: object) -> dict[str, Array]:
    """Arrays by name: those in the value by number, and the tree that they hang in.

    Raises:
        TypeError: the value holds something other than numbers, strings, arrays, tuples, dicts, dataclasses of skipc.
    """
    arrays: dict[str, Array] = {}
    tree = json.dumps(_encoded(value, arrays))
    return {**arrays, TREE: np.frombuffer(tree.encode(), np.uint8)}


def decoded(arrays: Mapping[str, Array]) -> Any:
    """The value of what `encoded` gave.

    Raises:
        ValueError: it names a class that is none of skipc's; other errors where it is damaged.
    """
    return _decoded(json.loads(arrays[TREE].tobytes()), arrays)


def _encoded(value: Any, arrays: dict[str, Array]) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.ndarray):
        name = str(len(arrays))
        arrays[name] = value
        return {"array": name}
    if isinstance(value, (tuple, list)):
        return {type(value).__name__: [_encoded(item, arrays) for item in value]}
    if isinstance(value, Mapping):
        return {"dict": [[_encoded(key, arrays), _encoded(item, arrays)] for key, item in value.items()]}
    if is_dataclass(value) and type(value).__module__.startswith(HOME):
        kind = f"{type(value).__module__}:{type(value).__qualname__}"
        own = {field.name: _encoded(getattr(value, field.name), arrays) for field in fields(value)}
        return {"class": kind, "fields": own}
    raise TypeError(f"a {type(value).__name__} cannot be kept")


def _decoded(tree: Any, arrays: Mapping[str, Array]) -> Any:
    if not isinstance(tree, dict):
        return tree
    if "array" in tree:
        return arrays[tree["array"]]
    if "class" in tree:
        return _class(tree["class"])(**{name: _decoded(item, arrays) for name, item in tree["fields"].items()})
    if "dict" in tree:
        return {_decoded(key, arrays): _decoded(item, arrays) for key, item in tree["dict"]}
    ((kind, items),) = tree.items()
    values = [_decoded(item, arrays) for item in items]
    return tuple(values) if kind == "tuple" else values


def _class(name: str) -> Any:
    module, _, qualname = name.partition(":")
    if not module.startswith(HOME):
        raise ValueError(f"{name} is none of skipc's")
    found = getattr(importlib.import_module(module), qualname)
    if not is_dataclass(found):
        raise ValueError(f"{name} is no dataclass")
    return found
