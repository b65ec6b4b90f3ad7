"""What else could be done with the model, measured on the same data: blocks bypassed or removed for good, or int8."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from skipc.compiler.build import build_static
from skipc.compiler.candidates import ABLATION_UNITS
from skipc.compiler.certify import Claim, certify
from skipc.compiler.impact import ablate, instrument, ungated
from skipc.compiler.options import Option
from skipc.compiler.running import Judged, run_plain
from skipc.compiler.static import Static, best_static
from skipc.compiler.survey import Surveyed
from skipc.runtime.plan import Bypass
from skipc.runtime.session import open_session

QUANTIZER_S = 300
"""Seconds that the quantizer may take; beyond them the report does without it."""

QUANTIZE = """
import sys
from onnxruntime.quantization import QuantType, quantize_dynamic
weights = getattr(QuantType, sys.argv[3])
quantize_dynamic(sys.argv[1], sys.argv[2], weight_type=weights, extra_options={"EnableSubgraph": True})
"""
"""In a process of its own: it logs to the root logger, and an odd graph must not end a compilation."""


@dataclass(frozen=True)
class Opponent:
    """Another way to a faster model.

    Attributes:
        name: ``static``, ``identity``, ``int8`` or ``int8 of the compiled``.
        model: None where it could not be made.
        certified: whether it passed the same test on *calibrate*.
        loss: mean on *test*, of several data sets the worst; None where it does not run.
        note: what it is, or why it is not.
    """

    name: str
    model: onnx.ModelProto | None
    certified: bool
    loss: float | None
    note: str


def static_opponent(surveyed: Surveyed, static: Static | None, test: Sequence[Judged], claim: Claim) -> Opponent:
    """The same bypasses without gates."""
    if static is None:
        return Opponent("static", None, False, None, "no block can be bypassed for every input at this risk")
    model = static.model(surveyed)
    names = ", ".join(block.region.name for block in static.blocks)
    return Opponent("static", model, True, _worst(model, test, claim), f"always on their bypass: {names}")


def identity_opponent(
    surveyed: Surveyed,
    options: Sequence[Option],
    fit: Judged,
    calibrate: Sequence[Judged],
    test: Sequence[Judged],
    claim: Claim,
) -> Opponent:
    """Whole blocks taken out with nothing in their place, as block pruning does, in the order that *fit* suggests.

    Args:
        surveyed: the original.
        options: regions without overlaps; what they save on their bypass orders those that do equal damage.
        fit: its first units order the blocks.
        calibrate: data sets on which as many as possible are taken out.
        test: data sets on which what is left is judged.
        claim: the same as for the gated model.
    """
    blocks = [ungated(option.region, Bypass("identity")) for option in options]
    session = instrument(surveyed.model, blocks, surveyed.executor)
    losses = ablate(session, fit.first(claim.loss.enough(ABLATION_UNITS)), claim.loss)[0].mean(axis=1)
    removed = [
        Option(option.region, block.bypass, float(loss), option.saved_ms)
        for option, block, loss in zip(options, blocks, losses, strict=True)
    ]
    found = best_static(session, blocks, removed, fit, calibrate, claim)
    kept = found.blocks if found else (blocks[int(losses.argmin())],)
    model = build_static(surveyed.model, kept)
    names = ", ".join(block.region.name for block in kept)
    note = f"taken out: {names}" if found else f"not even the least of all, {names}, can be taken out at this risk"
    return Opponent("identity", model, found is not None, _worst(model, test, claim), note)


def int8_opponents(
    original: onnx.ModelProto,
    compiled: onnx.ModelProto,
    calibrate: Sequence[Judged],
    test: Sequence[Judged],
    claim: Claim,
) -> tuple[Opponent, Opponent]:
    """ONNX Runtime's dynamic quantization of the original, and of the compiled model."""
    names = ("int8", "int8 of the compiled")
    operators = {node.op_type for node in original.graph.node}
    if any("Quantize" in name or "Integer" in name for name in operators):
        first, second = (Opponent(name, None, False, None, "the original is quantized already") for name in names)
        return first, second
    # ONNX Runtime's ConvInteger takes unsigned weights only.
    weights = "QUInt8" if "Conv" in operators else "QInt8"
    first, second = (
        _int8_opponent(name, model, weights, calibrate, test, claim)
        for name, model in zip(names, (original, compiled), strict=True)
    )
    return first, second


def _int8_opponent(
    name: str,
    model: onnx.ModelProto,
    weight_type: str,
    calibrate: Sequence[Judged],
    test: Sequence[Judged],
    claim: Claim,
) -> Opponent:
    quantized, reason = _quantized(model, weight_type)
    if quantized is None:
        return Opponent(name, None, False, None, f"onnxruntime.quantization does not take the model: {reason}")
    try:
        session = open_session(quantized.SerializeToString())
        passed = certify([lambda: [run_plain(session, part, claim.loss) for part in calibrate]], claim)
        loss = _worst(quantized, test, claim)
    except Exception as error:  # ONNX Runtime raises classes of its own that have no common base
        return Opponent(name, None, False, None, f"the quantized model does not run: {_last_line(str(error))}")
    return Opponent(name, quantized, bool(passed), loss, "dynamic quantization by onnxruntime.quantization")


def _quantized(model: onnx.ModelProto, weight_type: str) -> tuple[onnx.ModelProto | None, str]:
    """The quantized model, branches included, or None and why there is none."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / name) for name in ("float.onnx", "int8.onnx")]
        onnx.save(model, paths[0])
        command = [sys.executable, "-c", QUANTIZE, *paths, weight_type]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=QUANTIZER_S)
        except subprocess.TimeoutExpired:
            return None, f"it takes more than {QUANTIZER_S} s"
        if done.returncode:
            return None, _last_line(done.stderr)
        return onnx.load(paths[1]), ""


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2][:200] or "it gives no reason"


def _worst(model: onnx.ModelProto, test: Sequence[Judged], claim: Claim) -> float:
    session = open_session(model.SerializeToString())
    return max(float(run_plain(session, part, claim.loss).mean()) for part in test)
