"""Variants of a compiled model, made in memory: at another level, forcible, or with its decisions shown."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from skipc.runtime import names
from skipc.runtime.errors import InputError
from skipc.runtime.plan import Array

if TYPE_CHECKING:
    import onnx

Level = int | Literal["bypass"]

BYPASS: Literal["bypass"] = "bypass"
"""In place of a level: every block is bypassed for every input whose score is a number."""


@dataclass(frozen=True)
class Variant:
    """What to change in a compiled model.

    Attributes:
        level: the row of thresholds in force, `BYPASS`, or None for the one that the file says.
        decisions: whether `skipc.decisions` and `skipc.scores` are outputs.
        forcible: whether `skipc.thresholds` and `skipc.floors` are optional inputs. ONNX Runtime then cannot settle at
            load which blocks are always bypassed: some 7 µs for each of them, 1.5 % of MiniLM's latency with six.
    """

    level: Level | None = None
    decisions: bool = False
    forcible: bool = False

    def of(self, data: bytes, *, where: str) -> bytes:
        """The bytes of the changed model.

        Raises:
            InputError: ``decisions-missing``: the file does not say how its decisions are shown.
        """
        import onnx

        model = onnx.ModelProto.FromString(data)
        tables = [item for item in model.graph.initializer if item.name in (names.THRESHOLDS, names.FLOORS)]
        for item in model.graph.initializer:
            array = self._replacement(item.name, tuple(item.dims))
            if array is not None:
                item.CopyFrom(onnx.numpy_helper.from_array(array, item.name))
        if self.decisions and all(item.name != names.DECISIONS for item in model.graph.output):
            model.MergeFromString(_part(model, where))
        if self.forcible:
            types = [onnx.helper.make_tensor_value_info(item.name, item.data_type, item.dims) for item in tables]
            model.graph.input.extend(types)
        changed: bytes = model.SerializeToString()
        return changed

    def _replacement(self, name: str, shape: tuple[int, ...]) -> Array | None:
        """What an initializer becomes; None for those that stay."""
        if self.level == BYPASS:
            limits = {names.THRESHOLDS: np.inf, names.FLOORS: -np.inf}
            return np.full(shape, limits[name], np.float32) if name in limits else None
        return np.array(self.level, np.int64) if self.level is not None and name == names.LEVEL else None


def _part(model: onnx.ModelProto, where: str) -> bytes:
    for item in model.metadata_props:
        if item.key == names.DECISIONS_KEY:
            return base64.b64decode(item.value)
    hint = "compile it again with this version of skipc, or with --decisions"
    raise InputError("decisions-missing", "the file does not say how its decisions are shown", where=where, hint=hint)
