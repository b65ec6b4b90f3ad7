"""What other tools make of a compiled file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch

from benchmarks.zoo import formats
from benchmarks.zoo.checks import difference, first_line, gated_model
from benchmarks.zoo.specimens import exporting
from skipc.compiler.build import serialized
from skipc.compiler.probe import probe_feeds
from skipc.compiler.source import Source
from skipc.compiler.survey import survey_model
from skipc.compiler.tolerance import FLOAT16, FLOAT32, QUANTIZED
from skipc.passes.stamp import SetLevel, is_compiled
from skipc.runtime.session import open_session

FAMILIES = ("ResNet, basic", "EfficientNet", "BERT, post-norm", "Llama")

TOOLS: tuple[tuple[str, formats.Convert, float], ...] = (
    ("onnxslim", formats.slimmed, FLOAT32),
    ("onnxsim", formats.simplified, FLOAT32),
    ("float16 (ONNX Runtime)", formats.float16, FLOAT16),
    ("dynamic int8 (ONNX Runtime)", formats.dynamic_int8, QUANTIZED),
    ("dynamic int8, `Gather` left alone", formats.dynamic_int8_of_products, QUANTIZED),
)
"""Name, tool, and how far what it writes may be off by its number format."""


@dataclass(frozen=True)
class After:
    """One tool on one compiled file.

    Attributes:
        gates: `If` nodes before.
        left: `If` nodes after.
        shut: difference with every gate shut, relative to the output's largest value.
        opened: difference with every block bypassed.
        plan: whether plan and certificate are still in the file.
        tolerance: what the differences may be.
        problem: why it does not run; empty if it does.
    """

    family: str
    tool: str
    gates: int = 0
    left: int = 0
    shut: float = 0.0
    opened: float = 0.0
    plan: bool = False
    tolerance: float = 0.0
    problem: str = ""

    @property
    def survives(self) -> bool:
        """Whether every gate is there and does what it did, as far as the number format allows."""
        whole = not self.problem and self.plan and self.left == self.gates
        return whole and max(self.shut, self.opened) <= self.tolerance


def afterwards() -> Sequence[After]:
    """All tools on all families."""
    return [_after(family, *tool) for family in FAMILIES for tool in TOOLS]


def _after(family: str, tool: str, convert: formats.Convert, tolerance: float) -> After:
    torch.manual_seed(0)
    model = exporting(family, dynamo=False, opset=17)()
    surveyed = survey_model(Source(Path("model.onnx"), model, "", 0), None)
    gated = gated_model(surveyed)
    feeds = probe_feeds(surveyed.original, surveyed.inputs, None)[0]
    off, left, plan = [], 0, True
    try:
        for level in (0, 1):
            before = SetLevel(level).apply(gated)
            found = convert(before)
            left, plan = _ifs(found), plan and is_compiled(found)
            runs = [open_session(serialized(item)).run(feeds) for item in (found, before)]
            off.append(difference(runs[0], runs[1]))
    except Exception as error:
        return After(family, tool, problem=first_line(error))
    return After(family, tool, _ifs(gated), left, off[0], off[1], plan, tolerance)


def _ifs(model: onnx.ModelProto) -> int:
    return sum(node.op_type == "If" for node in model.graph.node)
