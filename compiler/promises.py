"""What the compiled model does on *test*, and whether that is what was promised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from skipc.compiler.bench import CHOICE_MS, Bench, compare, run_shares, time_share_skipped
from skipc.compiler.candidates import Candidates
from skipc.compiler.certify import Claim
from skipc.compiler.data import Dataset
from skipc.compiler.impact import instrument, ungated
from skipc.compiler.running import run_plain
from skipc.compiler.splits import Splits
from skipc.compiler.static import Static, best_static
from skipc.compiler.survey import Surveyed
from skipc.compiler.verify import Verification, gates_shut_equality, verification
from skipc.passes.expose import ExposeDecisions
from skipc.runtime import names
from skipc.runtime.errors import PromiseError
from skipc.runtime.plan import Plan
from skipc.runtime.session import Session, open_session


@dataclass(frozen=True)
class Measured:
    """What the compiled model does on *test*.

    Attributes:
        verification: for each data set by name.
        bench: against the original.
        static_bench: of the static alternative, None where there is none.
        run_share: share of samples for which each block runs in full.
        time_share_skipped: share of the original's latency that is bypassed.
    """

    verification: dict[str, Verification]
    bench: Bench
    static_bench: Bench | None
    run_share: tuple[float, ...]
    time_share_skipped: float


def static_alternative(surveyed: Surveyed, candidates: Candidates, splits: Splits, claim: Claim) -> Static | None:
    """The same bypasses without gates; None where not even one block can be bypassed for every input."""
    blocks = [ungated(option.region, option.bypass) for option in candidates.chosen]
    session = instrument(surveyed.model, blocks, surveyed.executor)
    return best_static(session, blocks, candidates.chosen, splits.fit, splits.calibrate, claim)


def measure_promises(
    surveyed: Surveyed,
    original: Session,
    model: onnx.ModelProto,
    plan: Plan,
    static: Static | None,
    data: Sequence[Dataset],
    splits: Splits,
    claim: Claim,
) -> Measured:
    """Check the compiled model on *test*, and time it and its alternative against the original."""
    session = open_session(model.SerializeToString(), provider=plan.provider, threads=plan.threads)
    equality = gates_shut_equality(surveyed.original, model, [item.feeds for item in splits.test[0].items])
    found = {
        dataset.name: verification(
            equality, claim.loss, run_plain(session, judged, claim.loss), plan, per_sample=claim.binary
        )
        for dataset, judged in zip(data, splits.test, strict=True)
    }
    items = [item for judged in splits.test for item in judged.items]
    static_bench = None
    if static is not None:
        static_model = static.model(surveyed).SerializeToString()
        replaced = open_session(static_model, provider=plan.provider, threads=plan.threads)
        static_bench = compare(original, replaced, items, budget_ms=CHOICE_MS)
    shares = run_shares(exposed(model, plan), plan, items)
    return Measured(found, compare(original, session, items), static_bench, shares, time_share_skipped(plan, shares))


def exposed(model: onnx.ModelProto, plan: Plan) -> Session:
    """The compiled model with its decisions among the outputs."""
    session = open_session(model.SerializeToString())
    if names.DECISIONS in session.outputs:
        return session
    return open_session(ExposeDecisions(plan.blocks).apply(model).SerializeToString())


def require_promises(measured: Measured) -> None:
    """Refuse a model that breaks a promise or gains nothing.

    Raises:
        PromiseError: which promise, and by how much.
    """
    for name, found in measured.verification.items():
        if not found.equality.bit_for_bit:
            raise PromiseError("gates-shut-differ", "with every gate shut the outputs differ from the original's")
        if found.equality.relative > 0 and not found.equality.ok:
            what = f"with every gate shut the outputs are off by {found.equality.relative:.1e} of their scale"
            raise PromiseError("gates-shut-differ", what)
        if found.limit is not None and found.mean > found.limit:
            what = f"the mean loss on the test split is {found.mean:.4g}, above the limit {found.limit:g}"
            raise PromiseError("risk-exceeded", what, where=name, hint="give more data, or allow more with --risk")
    if measured.bench.speedup.median <= 1.0:
        what = f"the compiled model is no faster ({measured.bench.speedup.median:.3f}x) at this risk"
        raise PromiseError("nothing-gained", what, hint="allow more with --risk, or try another --batch-size")
