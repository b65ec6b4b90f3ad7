"""Certify the levels of a compiled file on new data, without compiling again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx

from skipc.compiler.certify import Claim, certify, require_enough
from skipc.compiler.data import Dataset, input_specs
from skipc.compiler.loss import Loss, Losses
from skipc.compiler.running import Judged, judge, loss_for, run_plain
from skipc.compiler.verify import gates_shut_equality, require_same_signature
from skipc.passes.base import run_passes
from skipc.passes.freeze import quantizes_dynamically
from skipc.passes.stamp import Recertify, SetLevel, plan_of
from skipc.runtime.errors import InputError, PromiseError
from skipc.runtime.plan import Plan
from skipc.runtime.session import open_session

RETUNED = "retune/"
"""Prefix of the names under which the plan keeps the digests of data that levels were certified on later."""

RISK, CONFIDENCE = 0.01, 0.95
"""Where neither the user nor an earlier certificate says otherwise."""


@dataclass(frozen=True)
class Terms:
    """What is to be promised anew; None for as before."""

    risk: float | None
    confidence: float | None
    provider: str = "cpu"


def recertify(original: onnx.ModelProto, compiled: onnx.ModelProto, data: Sequence[Dataset], terms: Terms) -> Recertify:
    """Test the levels in order, from gentle to bold, on data that had no part in making them.

    All of the data calibrates: the levels are fixed before it is seen, and the walk ends at the first that fails
    (fixed-sequence testing, arXiv 2110.01052). Those that pass hold together with the confidence; the others are to go.

    Raises:
        InputError: the models do not belong together, the compiler knew the data, or there is no level to test.
        PromiseError: there are too few samples, not even the gentlest level passes, or gates shut are not the original.
    """
    plan = plan_of(compiled, where="")
    _require_levels(plan)
    _require_new(plan, data)
    require_same_signature(original, compiled)
    judged, claim = _judged(original, plan, data, terms)
    equality = gates_shut_equality(original, compiled, [item.feeds for item in judged[0].items])
    if not equality.ok:
        raise PromiseError("gates-shut-differ", "with every gate shut the outputs differ from the original's")
    path = [partial(_losses, compiled, level, judged, claim.loss, terms) for level in range(1, len(plan.thresholds))]
    certificates = certify(path, claim)
    if not certificates:
        raise _nothing_certified(path[0](), data, claim)
    return Recertify(1 + len(certificates), certificates[-1], _digests(plan, data))


def _judged(
    original: onnx.ModelProto, plan: Plan, data: Sequence[Dataset], terms: Terms
) -> tuple[tuple[Judged, ...], Claim]:
    """The data with the original's outputs, and the claim; shuffled, since a test may depend on the order."""
    session = open_session(original.SerializeToString(), provider=terms.provider, threads=plan.threads)
    output = plan.certificate.output if plan.certificate else session.outputs[0]
    shuffled = [item.subset(np.random.default_rng(plan.seed).permutation(len(item))) for item in data]
    inputs = input_specs(original)
    by_batch = plan.by_batch or quantizes_dynamically(original)
    loss = loss_for(plan.loss, session, shuffled[0], inputs, output)
    judged = tuple(
        judge(session, item, inputs, plan.batch_size, output, loss=loss, by_batch=by_batch) for item in shuffled
    )
    per_sample = judged[0].units == judged[0].samples == sum(map(len, judged[0].references))
    limit = terms.risk or (plan.certificate.limit if plan.certificate else RISK)
    confidence = terms.confidence or (plan.certificate.confidence if plan.certificate else CONFIDENCE)
    claim = Claim(loss, output, limit, confidence, loss.binary and per_sample)
    units = {item.name: part.units for item, part in zip(data, judged, strict=True)}
    require_enough(claim, units, 1.0, plan.batch_size if by_batch else 1)
    return judged, claim


def _losses(compiled: onnx.ModelProto, level: int, judged: Sequence[Judged], loss: Loss, terms: Terms) -> list[Losses]:
    model = run_passes(compiled, [SetLevel(level)])
    session = open_session(model.SerializeToString(), provider=terms.provider)
    return [run_plain(session, part, loss) for part in judged]


def _require_levels(plan: Plan) -> None:
    if len(plan.thresholds) < 2:
        hint = "compile with --data; without it every gate stays shut"
        raise InputError("no-levels", "the file has no level that bypasses anything", hint=hint)


def _require_new(plan: Plan, data: Sequence[Dataset]) -> None:
    """Refuse data that the levels were made from: its losses are flattering. A part of such data has its digest."""
    made_from = {digest.partition("-")[0] for name, digest in plan.data_digests.items() if not name.startswith(RETUNED)}
    for item in data:
        if item.digest.partition("-")[0] in made_from:
            hint = "give data that the compiler has not seen"
            raise InputError("data-not-new", "the file was compiled on this very data", where=item.name, hint=hint)


def _nothing_certified(losses: Sequence[Losses], data: Sequence[Dataset], claim: Claim) -> PromiseError:
    means = [float(part.mean()) for part in losses]
    worst = int(np.argmax(means))
    what = (
        f"not even level 1 holds a mean loss of {claim.limit:g} with confidence {claim.confidence:g}; "
        f"its mean is {means[worst]:.4g} over {len(losses[worst])} samples"
    )
    hint = "allow more with --risk, give more data, or use level 0, which never bypasses"
    return PromiseError("nothing-certified", what, where=data[worst].name, hint=hint)


def _digests(plan: Plan, data: Sequence[Dataset]) -> dict[str, str]:
    """Of what the file was compiled on, and of what it is certified on now."""
    kept = {name: digest for name, digest in plan.data_digests.items() if not name.startswith(RETUNED)}
    return kept | {f"{RETUNED}{item.name}": item.digest for item in data}
