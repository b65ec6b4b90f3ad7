"""The plan: all that was decided, as it ships inside the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from skipc.compiler.build import versions
from skipc.compiler.certify import Claim
from skipc.compiler.data import Dataset
from skipc.compiler.gating import Gated
from skipc.compiler.levels import Levels
from skipc.compiler.planner import ALWAYS, NEVER, window_of
from skipc.compiler.running import run_gated
from skipc.compiler.settings import Settings
from skipc.compiler.shipped import without_gate
from skipc.compiler.source import Source
from skipc.compiler.splits import Splits
from skipc.compiler.survey import Surveyed
from skipc.runtime.plan import Block, Certificate, Plan


def full_plan(
    source: Source,
    data: Sequence[Dataset],
    gated: Gated,
    levels: Levels,
    splits: Splits,
    claim: Claim,
    settings: Settings,
    surveyed: Surveyed,
) -> Plan:
    """What was certified, without the blocks that no level bypasses."""
    in_force = levels.steps[-1].thresholds
    window = window_of(in_force, [block.gate.floor for block in gated.blocks])
    opened = run_gated(gated.model, window, splits.fit, claim.loss).shares.mean(axis=0)
    used = [i for i in range(len(in_force)) if any(step.thresholds[i] > NEVER for step in levels.steps)]
    planned = [
        replace(without_gate(block) if limit == ALWAYS else block, open_share=float(share))
        for block, limit, share in zip(gated.blocks, in_force, opened, strict=True)
    ]
    blocks = tuple(planned[i] for i in used)
    thresholds = ((NEVER,) * len(used), *(tuple(step.thresholds[i] for i in used) for step in levels.steps))
    plan = bare_plan(source, data, blocks, thresholds, settings, levels.certificate, claim.loss.name)
    return replace(plan, regions=len(surveyed.survey.blocks), targets=surveyed.targets, padding=surveyed.padding)


def bare_plan(
    source: Source,
    data: Sequence[Dataset],
    blocks: tuple[Block, ...],
    thresholds: tuple[tuple[float, ...], ...],
    settings: Settings,
    certificate: Certificate | None,
    loss: str,
) -> Plan:
    """A plan whose boldest level is in force.

    Args:
        source: the original.
        data: that it was made from.
        blocks: in graph order.
        thresholds: of each level, from 0.
        settings: of the compilation.
        certificate: of the boldest level; None where nothing is certified.
        loss: name of the loss.
    """
    return Plan(
        model_digest=source.digest,
        data_digests={dataset.name: dataset.digest for dataset in data},
        blocks=blocks,
        thresholds=thresholds,
        level=len(thresholds) - 1,
        certificate=certificate,
        loss=loss,
        batch_size=settings.batch_size,
        threads=settings.threads,
        provider=settings.provider,
        seed=settings.seed,
        versions=versions(),
    )
