"""Check what a compiled file promises: gates shut it equals the original, and live its loss keeps to the limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from skipc.compiler.calibrate import upper_bound
from skipc.compiler.data import Dataset, input_specs
from skipc.compiler.loss import Loss, Losses
from skipc.compiler.running import judge, loss_for, run_plain
from skipc.compiler.tolerance import FLOAT32, shut_tolerance
from skipc.passes.external import refers
from skipc.passes.freeze import quantizes_dynamically
from skipc.passes.stamp import SetLevel
from skipc.passes.stand_in import runnable
from skipc.runtime.errors import InputError
from skipc.runtime.plan import Array, Plan
from skipc.runtime.session import is_equal, max_abs_difference, open_session

EQUALITY_BATCHES = 8


@dataclass(frozen=True)
class Equality:
    """How a compiled model with every gate shut compares with the original.

    Attributes:
        bit_for_bit: with ONNX Runtime's optimisations off.
        max_abs_difference: with them on, over all outputs.
        relative: the same, over the largest absolute value of the output.
        tolerance: what `relative` may be.
    """

    bit_for_bit: bool
    max_abs_difference: float
    relative: float
    tolerance: float = FLOAT32

    @property
    def ok(self) -> bool:
        """Whether both hold."""
        return self.bit_for_bit and self.relative <= self.tolerance


@dataclass(frozen=True)
class Verification:
    """What verifying found.

    Attributes:
        equality: with every gate shut.
        loss: name of the loss.
        mean: mean loss.
        limit: that it was promised to stay under; None where nothing was certified.
        bound: upper confidence bound on the mean loss on this data.
        confidence: of that bound.
        samples: number of units.
    """

    equality: Equality
    loss: str
    mean: float
    limit: float | None
    bound: float
    confidence: float
    samples: int

    @property
    def ok(self) -> bool:
        """Whether every promise holds."""
        return self.equality.ok and (self.limit is None or self.mean <= self.limit)


def gates_shut_equality(
    original: onnx.ModelProto, compiled: onnx.ModelProto, feeds: Sequence[Mapping[str, Array]]
) -> Equality:
    """Run both models on a few feeds, with and without ONNX Runtime's optimisations.

    A model too large for memory is run with random weights in place of its own, and without optimisations.
    """
    shut = SetLevel(0).apply(compiled)
    same, largest, relative = True, 0.0, 0.0
    for optimize in (False,) if refers(original) else (False, True):
        models = [runnable(model, random=True) for model in (original, shut)]
        pair = [open_session(model.SerializeToString(), optimize=optimize) for model in models]
        for item in feeds[:EQUALITY_BATCHES]:
            expected, found = pair[0].run(item), pair[1].run(item, pair[0].outputs)
            if not optimize:
                same = same and all(is_equal(expected[name], found[name]) for name in expected)
                continue
            for name, array in expected.items():
                difference = max_abs_difference(array, found[name])
                largest = max(largest, difference)
                relative = max(relative, difference / max(_scale(array), 1e-30) if difference else 0.0)
    return Equality(same, largest, relative, shut_tolerance(original))


def _scale(array: Array) -> float:
    return float(np.abs(array.astype(np.float64)).max(initial=0.0))


def verify_compiled(
    original: onnx.ModelProto, compiled: onnx.ModelProto, plan: Plan, data: Dataset, *, provider: str = "cpu"
) -> Verification:
    """Verify a compiled model on data.

    Raises:
        InputError: the two models do not belong together.
    """
    inputs = input_specs(original)
    require_same_signature(original, compiled)
    session = open_session(original.SerializeToString(), provider=provider)
    output = plan.certificate.output if plan.certificate else session.outputs[0]
    by_batch = plan.by_batch or quantizes_dynamically(original)
    loss = loss_for(plan.loss, session, data, inputs, output)
    judged = judge(session, data, inputs, plan.batch_size, output, loss=loss, by_batch=by_batch)
    losses = run_plain(open_session(compiled.SerializeToString(), provider=provider), judged, loss)
    equality = gates_shut_equality(original, compiled, [item.feeds for item in judged.items])
    return verification(equality, loss, losses, plan, per_sample=len(losses) == sum(map(len, judged.references)))


def verification(equality: Equality, loss: Loss, losses: Losses, plan: Plan, *, per_sample: bool) -> Verification:
    """Put together what was measured; shuffled, since the test of the mean rests on an order that knows no losses."""
    shuffled = np.random.default_rng(plan.seed).permutation(losses)
    confidence = plan.certificate.confidence if plan.certificate else 0.95
    bound = upper_bound(shuffled, confidence, loss.binary and per_sample)
    limit = plan.certificate.limit if plan.certificate else None
    return Verification(equality, loss.name, float(losses.mean()), limit, bound, confidence, len(losses))


def require_same_signature(original: onnx.ModelProto, compiled: onnx.ModelProto) -> None:
    """Refuse two models that do not take the same inputs, or do not begin with the same outputs.

    Raises:
        InputError: ``not-its-original``.
    """
    theirs, ours = ({(spec.name, spec.dtype) for spec in input_specs(model)} for model in (original, compiled))
    hint = "give the model that was compiled as the original"
    if theirs != ours:
        takes = [", ".join(sorted(name for name, _ in found)) for found in (ours, theirs)]
        what = f"the compiled model takes {takes[0]}, the original {takes[1]}, or of another type"
        raise InputError("not-its-original", what, hint=hint)
    outputs = [item.name for item in original.graph.output]
    found = [item.name for item in compiled.graph.output][: len(outputs)]
    if outputs != found:
        what = f"the compiled model gives {', '.join(found)}, the original {', '.join(outputs)}"
        raise InputError("not-its-original", what, hint=hint)
