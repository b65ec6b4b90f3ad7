"""Put the plan into a compiled model, and read or change what it says there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from skipc.passes.base import copied
from skipc.runtime import names
from skipc.runtime.errors import InputError
from skipc.runtime.plan import Array, Certificate, Plan, plan_from_json


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
        _restamp(model, {"level": self.level})
        _replace_initializer(model, names.LEVEL, np.array(self.level, np.int64))
        return model


@dataclass(frozen=True)
class Recertify:
    """Keep the gentler levels, put the boldest of them in force, and say under which certificate.

    Attributes:
        levels: kept, level 0 among them.
        certificate: of the last of them.
        data_digests: SHA-256 of each data set by name: what the file was made from, and what it was certified on.
    """

    levels: int
    certificate: Certificate
    data_digests: Mapping[str, str]

    def apply(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return the copy with the new certificate.

        Raises:
            InputError: the model carries no plan, or its plan has fewer levels.
        """
        model = SetLevel(self.levels - 1).apply(model)
        thresholds = json.loads(_plan_text(model))["thresholds"][: self.levels]
        changes = {"certificate": vars(self.certificate), "data_digests": dict(self.data_digests)}
        _restamp(model, {**changes, "thresholds": thresholds})
        for item in model.graph.initializer:
            if item.name == names.THRESHOLDS:
                table = numpy_helper.to_array(item)[: self.levels]
                _replace_initializer(model, names.THRESHOLDS, table)
        return model


def _plan_text(model: onnx.ModelProto) -> str:
    return next(str(item.value) for item in model.metadata_props if item.key == names.PLAN_KEY)


def _restamp(model: onnx.ModelProto, changes: Mapping[str, Any]) -> None:
    """Change fields of the plan's JSON; what it says of arrays, which are elsewhere, stays as it is."""
    for entry in model.metadata_props:
        if entry.key == names.PLAN_KEY:
            entry.value = json.dumps({**json.loads(entry.value), **changes}, sort_keys=True, allow_nan=False)


def _replace_initializer(model: onnx.ModelProto, name: str, array: Array) -> None:
    for item in model.graph.initializer:
        if item.name == name:
            item.CopyFrom(numpy_helper.from_array(array.copy(order="C"), name))


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
