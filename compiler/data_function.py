"""Samples from a function of the user, given as ``module:function``."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from skipc.compiler.data_check import LABELS, Chunk, check_names
from skipc.compiler.data_types import InputSpec
from skipc.runtime.errors import InputError, SkipcError


def read_function(source: str, inputs: Sequence[InputSpec]) -> list[Chunk]:
    """What the function yields: dictionaries of arrays, each one sample or one batch.

    The current folder is importable while the function is imported and runs.
    """
    module, _, attribute = source.rpartition(":")
    with _current_folder_importable():
        function = _imported(module, attribute, source)
        items = enumerate(_items(function, source))
        return [_chunk(item, f"{source}, item {position}", inputs) for position, item in items]


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def _imported(module: str, attribute: str, source: str) -> Callable[[], Any]:
    importlib.invalidate_caches()
    try:
        loaded = importlib.import_module(module)
    except SkipcError:
        raise
    except Exception as error:
        hint = "the current folder is importable; for a file, check that the path exists"
        raise InputError("data-import", f"cannot import {module!r}: {_said(error)}", where=source, hint=hint) from error
    function = getattr(loaded, attribute, None)
    if callable(function):
        return function  # type: ignore[no-any-return]
    what = f"module {module!r} has no function {attribute!r}"
    raise InputError("data-import", what, where=source, hint=f"define {attribute}() at the top level of the module")


def _items(function: Callable[[], Any], source: str) -> Iterator[Any]:
    try:
        result = function()
        yield from [result] if isinstance(result, Mapping) else iter(result)
    except SkipcError:
        raise
    except Exception as error:
        raise InputError(
            "data-function",
            f"the function raised {_said(error)}",
            where=source,
            hint=f"{_place(error)}it takes no arguments and yields dictionaries of arrays",
        ) from error


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _place(error: Exception) -> str:
    """Where the user's code raised it; nothing where the call itself failed."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return "" if last.filename == __file__ else f"look at {last.filename}, line {last.lineno}; "


def _chunk(item: Any, where: str, inputs: Sequence[InputSpec]) -> Chunk:
    if not isinstance(item, Mapping):
        what = f"a {type(item).__name__} instead of a dictionary of arrays"
        raise InputError("data-item", what, where=where, hint="yield {'input_name': array}")
    check_names([str(name) for name in item], inputs, where)
    for name, value in item.items():
        if not isinstance(value, np.ndarray | np.generic) and not (name == LABELS and isinstance(value, int)):
            what = f"array {name!r} is a {type(value).__name__}, not a numpy array"
            raise InputError("data-item", what, where=where, hint=f"yield numpy.asarray({name}) or {name}.numpy()")
    # A copy: generators may hand out the same buffer again and again.
    return Chunk(where, {str(name): np.array(value) for name, value in item.items()}, may_be_single=True)
