"""Gated against static on data that nothing was calibrated on: the speed that each buys for the same loss there.

The static models are bypasses of the gated plans without gates, one block more at a time, what saves most for its loss
first; of those that lose no more than the gated model on the worst of the domains the fastest counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray

import models
from benchmarks import demo, minilm
from benchmarks.measures import interval, judged_by_original, losses_of, opened, rows
from benchmarks.workbench import Built, Json, Workbench
from skipc.compiler.bench import compare
from skipc.compiler.build import build_static
from skipc.compiler.data import Batch, Dataset, batches
from skipc.compiler.data_types import content_digest
from skipc.compiler.report import speedup_json
from skipc.compiler.report_measures import rounded
from skipc.compiler.running import Judged
from skipc.runtime.plan import Block, Plan
from skipc.runtime.session import Session

Images = NDArray[np.uint8]
SENTENCES, IMAGES = 1000, 2000
ROUNDS = 30
BOLD_RISK = 0.05
"""Of the demo's static models: those at its own risk end far below what the compiled one loses on noise."""
RANKED_BY, RANKED_BY_ROUNDS = 200, 10
"""Samples and rounds by which single blocks are ranked."""


@dataclass(frozen=True)
class _Ground:
    """A compiled model and what it is tried on.

    Attributes:
        built: with the gates.
        families: bypasses of blocks to make static models from; those of each plan by themselves.
        loss: that was certified.
        familiar: data of the kind that was calibrated on.
        domains: data of other kinds.
    """

    built: Built
    families: Mapping[str, tuple[Block, ...]]
    loss: str
    familiar: Dataset
    domains: Mapping[str, Dataset]


def run(bench: Workbench) -> Json:
    """MiniLM on text that is no film review, and the demo on images that are noisy, dark or blurred."""
    return {name: _measured(bench, make(bench)) for name, make in (("minilm", _minilm), ("demo", _demo))}


def _minilm(bench: Workbench) -> _Ground:
    jobs = {f"risk {risk:g}": minilm.job(risk) for risk in (minilm.RISK, minilm.GENTLE_RISK)}
    built = bench.compiled(minilm.job())
    found = dict(minilm.domains(built.data, bench.pick(SENTENCES, 40)))
    films = found.pop("films")
    families = {name: _single_blocks(bench.plan_of(job)) for name, job in jobs.items()}
    return _Ground(built, families, "cosine", films, found)


def _demo(bench: Workbench) -> _Ground:
    built = bench.compiled(demo.job())
    test = built.data(models.fetch("demo").files["demo.test.npz"])
    test = rows(test, range(len(test)), bench.pick(IMAGES, 100))
    domains = {name: _changed(test, name, change) for name, change in CHANGES.items()}
    # The demo's own plan is a second look, which has no static counterpart; its rival's plan has.
    rival = demo.job(rival=True)
    bold = replace(rival, name=f"{rival.name}-{BOLD_RISK:g}", options={**rival.options, "risk": BOLD_RISK})
    jobs = {"without second look": rival, f"without second look, risk {BOLD_RISK:g}": bold}
    families = {name: _single_blocks(bench.plan_of(job)) for name, job in jobs.items()}
    return _Ground(built, families, "top1", test, domains)


def _single_blocks(plan: Plan) -> tuple[Block, ...]:
    """The blocks of a plan, those that share a gate one by one."""
    found: list[Block] = []
    for block in plan.blocks:
        parts = [part for part in block.bypass.parts if part.is_bypassed]
        found += [replace(block, region=part.region, bypass=part.bypass) for part in parts] if parts else [block]
    return tuple(found)


def _noisy(images: Images) -> NDArray[np.float64]:
    return np.asarray(images + np.random.default_rng(0).normal(0.0, 20.0, images.shape))


def _blurred(images: Images) -> NDArray[np.float64]:
    padded = np.pad(images.astype(np.float64), [(0, 0), (0, 0), (1, 1), (1, 1)], mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return np.asarray(windows.mean(axis=(-1, -2)))


CHANGES: Mapping[str, Callable[[Images], NDArray[np.float64]]] = {
    "noise of 20 grey levels": _noisy,
    "six tenths as bright": lambda images: 0.6 * images.astype(np.float64),
    "blurred over 3 pixels": _blurred,
}


def _changed(data: Dataset, name: str, change: Callable[[Images], NDArray[np.float64]]) -> Dataset:
    images = np.concatenate([sample["image"] for sample in data.samples])
    made = np.clip(np.rint(change(images)), 0, 255).astype(np.uint8)
    samples = tuple({"image": image[None]} for image in made)
    return Dataset(name, content_digest(samples, data.labels), samples, data.labels)


def _measured(bench: Workbench, ground: _Ground) -> Json:
    bench.say(f"trying {', '.join(ground.domains)}")
    built, original = ground.built, opened(ground.built.original)
    judged = {name: judged_by_original(built, data) for name, data in ground.domains.items()}
    items = batches(ground.familiar, 1, built.inputs)
    rounds = bench.pick(ROUNDS, 1)
    gated = _losses(built.compiled, judged, ground.loss)
    tried = [
        {"family": family, "blocks": [block.region.name for block in chosen], **_losses(model, judged, ground.loss)}
        | {"speedup": _speedup(original, opened(model), items, rounds)}
        for family, blocks in ground.families.items()
        for chosen, model in _static_models(bench, ground, blocks)
    ]
    within = [item for item in tried if item["worst"] <= gated["worst"]]
    best = max(within, key=lambda item: item["speedup"]["median"], default=None)
    return {
        "gated": {**gated, "speedup": _speedup(original, opened(built.compiled), items, rounds)},
        "static": tried,
        "static at the same loss": best,
    }


def _static_models(
    bench: Workbench, ground: _Ground, blocks: Sequence[Block]
) -> Iterator[tuple[list[Block], onnx.ModelProto]]:
    """One block more at a time: what saves most time for its loss on familiar data first."""
    built, original = ground.built, opened(ground.built.original)
    few = rows(ground.familiar, range(len(ground.familiar)), bench.pick(RANKED_BY, 20))
    judged, items = judged_by_original(built, few), batches(few, 1, built.inputs)
    plain = built.fixed

    def worth(block: Block) -> float:
        alone = build_static(plain, [block], built.plan.padding)
        speedup = compare(original, opened(alone), items, rounds=bench.pick(RANKED_BY_ROUNDS, 1)).speedup.median
        return (1.0 - 1.0 / speedup) / max(float(losses_of(alone, judged, ground.loss).mean()), 1e-6)

    ranked = sorted(blocks, key=worth, reverse=True)
    for count in range(1, len(ranked) + 1):
        names = {block.region.name for block in ranked[:count]}
        chosen = [block for block in blocks if block.region.name in names]
        yield chosen, build_static(plain, chosen, built.plan.padding)


def _losses(model: onnx.ModelProto, judged: Mapping[str, Judged], loss: str) -> Json:
    """Of each domain, and the worst mean."""
    found = {name: losses_of(model, data, loss) for name, data in judged.items()}
    return {
        "loss": {name: interval(losses, "mean") for name, losses in found.items()},
        "worst": rounded(max(float(losses.mean()) for losses in found.values())),
    }


def _speedup(original: Session, other: Session, items: Sequence[Batch], rounds: int) -> Json:
    return speedup_json(compare(original, other, items, rounds=rounds).speedup)
