"""From a plan to a model: the written-out list of passes, and nothing that depends on clock or chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version

import onnx

from skipc.passes.annotate import AnnotateGates
from skipc.passes.base import GraphPass, run_passes
from skipc.passes.expose import ExposeDecisions
from skipc.passes.inject import InjectGates, ReplaceRegions
from skipc.passes.normalize import Normalize
from skipc.passes.padding import LeaveOutPadding
from skipc.passes.restore import RecordOriginal
from skipc.passes.shapes import FixTargets
from skipc.passes.stamp import StampPlan
from skipc.passes.window import LevelWindow
from skipc.runtime.errors import InputError
from skipc.runtime.plan import Block, Padding, Plan, Target


def normalized(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model as all stages see it."""
    return run_passes(model, [Normalize()])


def fixed(model: onnx.ModelProto, targets: Sequence[Target]) -> onnx.ModelProto:
    """A normalised model with these target shapes, as what is compiled."""
    return run_passes(model, [FixTargets(tuple(targets))]) if targets else model


def build(model: onnx.ModelProto, plan: Plan, *, decisions: bool = False, level_input: bool = False) -> onnx.ModelProto:
    """Freeze a plan into a normalised model.

    Args:
        model: normalised original.
        plan: with the arrays of its bypasses and gates.
        decisions: append decisions and scores to the outputs.
        level_input: make the level an optional input.
    """
    floors = tuple(block.gate.floor for block in plan.blocks)
    window = LevelWindow(plan.thresholds, floors, plan.level, as_input=level_input)
    shown: list[GraphPass] = [ExposeDecisions(plan.blocks)] if decisions else []
    steps: list[GraphPass] = [FixTargets(plan.targets), InjectGates(plan.blocks, window), *_leaving_out(plan.padding)]
    return run_passes(model, [*steps, *shown, AnnotateGates(plan), StampPlan(plan), RecordOriginal(model)])


def _leaving_out(padding: Padding | None) -> list[GraphPass]:
    return [LeaveOutPadding(padding)] if padding else []


def placing(plan: Plan, weights: str) -> Plan:
    """The same plan with its weights in another place, or as it is for ``auto``."""
    if weights == "auto":
        return plan
    blocks = (replace(block, region=replace(block.region, weights=weights)) for block in plan.blocks)
    return replace(plan, blocks=tuple(blocks))


def build_static(model: onnx.ModelProto, blocks: Sequence[Block], padding: Padding | None = None) -> onnx.ModelProto:
    """A model whose target shapes are fixed, with these blocks bypassed for good, and without padding where it is told.

    Without blocks it is what the compiled file computes where nothing is bypassed.
    """
    return run_passes(model, [ReplaceRegions(tuple(blocks)), *_leaving_out(padding)])


def serialized(model: onnx.ModelProto) -> bytes:
    """The bytes of a model; the same model gives the same bytes."""
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def require_same_model(plan: Plan, digest: str, *, where: str) -> None:
    """Refuse a plan that was made for another model.

    Raises:
        InputError: the digests differ.
    """
    if plan.model_digest != digest:
        what = f"the plan was made for a model with digest {plan.model_digest[:12]}, this one has {digest[:12]}"
        raise InputError("plan-of-another-model", what, where=where, hint="compile without --plan, or give that model")


def versions() -> dict[str, str]:
    """Versions of the packages whose behaviour a plan depends on."""
    found = {}
    for name in ("skipc", "onnx", "onnx-graphsurgeon", "onnxruntime", "onnxruntime-gpu", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
