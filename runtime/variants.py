"""Variants of a compiled model, made in memory: at another level, forcible, or with more of its values as outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from skipc.runtime import names
from skipc.runtime.plan import Array

Level = int | Literal["bypass"]

BYPASS: Literal["bypass"] = "bypass"
"""In place of a level: every block is bypassed for every input whose score is a number."""


@dataclass(frozen=True)
class Variant:
    """What to change in a compiled model.

    Attributes:
        level: the row of thresholds in force, `BYPASS`, or None for the one that the file says.
        values: names of values inside that are outputs too.
        forcible: whether `skipc.thresholds` and `skipc.floors` are optional inputs. ONNX Runtime then cannot settle at
            load which blocks are always bypassed: some 7 µs for each of them, 1.5 % of MiniLM's latency with six.
    """

    level: Level | None = None
    values: tuple[str, ...] = ()
    forcible: bool = False

    def of(self, data: bytes) -> bytes:
        """The bytes of the changed model; the types of more outputs are left to be inferred."""
        import onnx

        model = onnx.ModelProto.FromString(data)
        tables = [item for item in model.graph.initializer if item.name in (names.THRESHOLDS, names.FLOORS)]
        for item in model.graph.initializer:
            array = self._replacement(item.name, tuple(item.dims))
            if array is not None:
                item.CopyFrom(onnx.numpy_helper.from_array(array, item.name))
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self.values)
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
