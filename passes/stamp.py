"""Put the plan into a compiled model, and read or change what it says there."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from skipc.passes.base import copied
from skipc.runtime import names
from skipc.runtime.errors import InputError
from skipc.runtime.plan import Plan, plan_from_json


@dataclass(frozen=True)
class StampPlan:
    """Write the plan, without its arrays, into the model's metadata."""

    plan: Plan

    def apply(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return the stamped copy."""
        model = copied(model)
        model.metadata_props.add(key=names.PLAN_KEY, value=self.plan.to_json(arrays=False))
        return model


@dataclass(frozen=True)
class SetLevel:
    """Make another row of the thresholds the one in force."""

    level: int

    def apply(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return the copy at this level.

        Raises:
            InputError: the model carries no plan, or its plan has no such level.
        """
        levels = len(plan_of(model, where="").thresholds)
        if not 0 <= self.level < levels:
            hint = "level 0 never bypasses; each further one bypasses more"
            raise InputError("level-unknown", f"there is no level {self.level} below {levels}", hint=hint)
        model = copied(model)
        for entry in model.metadata_props:
            if entry.key == names.PLAN_KEY:
                entry.value = json.dumps({**json.loads(entry.value), "level": self.level}, sort_keys=True)
        for item in model.graph.initializer:
            if item.name == names.LEVEL:
                item.CopyFrom(numpy_helper.from_array(np.array(self.level, np.int64), names.LEVEL))
        return model


def plan_of(model: onnx.ModelProto, *, where: str) -> Plan:
    """Read the plan out of a compiled model.

    Raises:
        InputError: the model was not compiled by skipc, or by a version with another schema.
    """
    for item in model.metadata_props:
        if item.key == names.PLAN_KEY:
            return plan_from_json(item.value, where=where)
    hint = "compile it with `skipc compile`, or check the order of the arguments"
    raise InputError("not-compiled", "there is no skipc plan inside this model", where=where, hint=hint)


def is_compiled(model: onnx.ModelProto) -> bool:
    """Whether a model carries a plan."""
    return any(item.key == names.PLAN_KEY for item in model.metadata_props)
