"""Where the gates' thresholds and floors come from: an input of the instrumented model, a table in the shipped one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx
from onnx import helper

from skipc.passes.base import opset_of
from skipc.passes.builder import Builder, Fragment
from skipc.runtime import names


class Window(Protocol):
    """Where the gates' thresholds and floors come from."""

    def add_to(self, model: onnx.ModelProto, count: int) -> Fragment:
        """Add inputs or initializers to the model; return the nodes that write `limits_name` of each gate."""
        ...


def limits_name(gate: int) -> str:
    """Name of the limits of a gate, float32 [2]: its threshold and its negated floor."""
    return f"skipc/window/limits_{gate}"


@dataclass(frozen=True)
class InputWindow:
    """Thresholds and negated floors are a graph input: the instrumented model."""

    def add_to(self, model: onnx.ModelProto, count: int) -> Fragment:
        """See `Window.add_to`."""
        model.graph.input.append(helper.make_tensor_value_info(names.WINDOW, onnx.TensorProto.FLOAT, [2, count]))
        builder = Builder("skipc/window", opset_of(model))
        _pick(builder, names.WINDOW, count)
        return builder.fragment()


@dataclass(frozen=True)
class LevelWindow:
    """Thresholds and floors are tables in the file, and a level picks the row: the shipped model.

    Attributes:
        thresholds: [levels][gates].
        floors: [gates].
        level: the row in force.
        as_input: also list the level among the graph's inputs, where a caller may override it.
    """

    thresholds: tuple[tuple[float, ...], ...]
    floors: tuple[float, ...]
    level: int
    as_input: bool = False

    def add_to(self, model: onnx.ModelProto, count: int) -> Fragment:
        """See `Window.add_to`."""
        if len(self.floors) != count or any(len(row) != count for row in self.thresholds):
            raise ValueError(f"the table of thresholds does not fit {count} gates")
        if self.as_input:
            model.graph.input.append(helper.make_tensor_value_info(names.LEVEL, onnx.TensorProto.INT64, []))
        builder = Builder("skipc/window", opset_of(model))
        level = builder.constant(self.level, np.int64, name=names.LEVEL)
        table = builder.constant(self.thresholds, name=names.THRESHOLDS)
        floors = builder.constant([self.floors], name=names.FLOORS)
        index = builder.op("Reshape", [self._row(builder, level), builder.constant([1, 1], np.int64)])
        # ONNX Runtime's dynamic quantization rounds what a Gather reads, and makes NaN of infinities.
        row = builder.op("GatherND", [table, index])
        _pick(builder, builder.op("Concat", [row, builder.op("Neg", [floors])], axis=0), count)
        return builder.fragment()

    def _row(self, builder: Builder, level: str) -> str:
        """The row of the table; a caller's negative level means 0, where an index would count from the boldest row."""
        if not self.as_input:
            return level
        negative = builder.op("Less", [level, builder.constant(0, np.int64)])
        return builder.op("Where", [negative, builder.constant(0, np.int64), level])


def _pick(builder: Builder, window: str, count: int) -> None:
    for gate in range(count):
        index = builder.constant(gate, np.int64)
        builder.op("Gather", [window, index], axis=1, output=limits_name(gate))
