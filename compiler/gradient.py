"""Impact by gradients: what closing a region would cost, estimated from derivatives at the original.

A mask multiplies what each region adds (`passes.mask`); one reverse sweep (`sweep.py`) gives the derivative of the
output along a direction with respect to all masks. Central differences on the mask through ONNX Runtime check it on a
few batches, and take its place where it fails the check or where an operator has no rule. Where the sweep holds, it
also tells which directions at the end of a region the output feels most.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from skipc.compiler.cache import Cache
from skipc.compiler.data import Batch
from skipc.compiler.directions import directions, is_squared
from skipc.compiler.loss import Loss
from skipc.compiler.running import in_parallel
from skipc.compiler.settings import Settings
from skipc.compiler.survey import Surveyed
from skipc.compiler.sweep import Matrix, Products, Seeds, swept
from skipc.passes.base import run_passes
from skipc.passes.mask import MaskRegions
from skipc.runtime import names
from skipc.runtime.plan import Array, Region
from skipc.runtime.session import Session, open_session

DIRECTIONS = 4
"""Random directions for each batch."""

SAMPLES = {True: 64, False: 16}
"""Samples where the measure is asked for, and where it is not."""

LARGE_BYTES = 256 * 2**20
"""Differentiating a model takes several copies of it; beyond this size only for those who ask."""

MOST_RUNS = 1000
"""Of the model for central differences, which take two for each region and sample."""

CHECKED = 2
"""Batches on which reverse mode is checked."""

STEPS = (1e-2, 1e-3)
"""Of central differences. The long one suits smooth networks, where float32 rounds differences of 1e-3 to two or three
digits; the short one suits ReLU, whose kinks lie anywhere on the way."""

TOLERANCE = 0.05
"""Deviation of reverse mode from the better of the two steps, for each region over all directions: at most 4e-4 on
MiniLM (GELU), 2e-2 on the demo (ReLU), 3e-2 on EfficientNet-Lite0 (ReLU6). A wrong rule is off by about as much as what
it computes."""

FLOOR = 1e-3
"""Of the largest derivative: deviations of smaller ones are measured against this share of it instead."""

REVERSE, CENTRAL = "reverse mode", "central differences"

SMALLEST = 1e-30
"""Keeps derivatives that are all zero from being divided by."""


@dataclass(frozen=True)
class Gradients:
    """What derivatives say of each region.

    Attributes:
        impact: by region, the loss of leaving out what the region adds, to second order.
        method: `REVERSE`, `CENTRAL`, or ``none``.
        samples: that it was averaged over.
        deviation: of reverse mode from central differences where both ran, else None.
        reason: why reverse mode was not used; empty where it was.
        metrics: by region, of those asked for: E[g gᵀ], [C, C], with g the derivative at the region's merge of the
            output along a random direction: eᵀ E[g gᵀ] e is what the loss feels of a small error e there. Empty where
            reverse mode was not used.
    """

    impact: Mapping[str, float]
    method: str
    samples: int
    deviation: float | None
    reason: str = ""
    metrics: Mapping[str, Matrix] = field(default_factory=dict)


def measure_gradients(
    surveyed: Surveyed,
    original: Session,
    items: Sequence[Batch],
    output: str,
    loss: Loss,
    settings: Settings,
    watched: Sequence[Region] = (),
) -> Gradients:
    """Estimate for each region the loss of leaving it out alone.

    Measured on many samples where it is asked for, on few where it only stands beside ablation in the report, and there
    not at all for models whose derivative would take too much memory.

    Args:
        surveyed: the original with its regions, which may overlap.
        original: opened.
        items: batches of one sample each, since a sweep keeps all activations; those used are spread over them.
        output: name of the judged output.
        loss: whose growth is estimated; for a step the estimate is of its smooth proxy.
        settings: the measure asked for, and the seed.
        watched: regions whose metrics are asked for.
    """
    asked = settings.impact == "gradient"
    size = surveyed.model.ByteSize()
    if not asked and size > LARGE_BYTES:
        return Gradients(
            {}, "none", 0, None, f"a model of {size >> 20} MiB; --impact gradient measures it all the same"
        )
    chosen = _spread(items, SAMPLES[asked])
    place = {item: i for i, item in enumerate(chosen)}

    def seeds(item: Batch) -> Array:
        """Directions of a batch, made anew each time: those of a language model's logits are large."""
        random = np.random.default_rng([settings.seed, place[item]])
        return directions(loss, original.run(item.feeds, [output])[output], item.valid, DIRECTIONS, random)

    regions = surveyed.survey.regions
    parts = (surveyed.model, regions, watched, chosen, output, loss.name, settings.seed)
    found = settings.cache if loss.is_known else Cache()
    return found.recall("gradients", parts, lambda: _measured(surveyed, watched, chosen, output, loss, seeds))


def _measured(
    surveyed: Surveyed, watched: Sequence[Region], chosen: Sequence[Batch], output: str, loss: Loss, seeds: Seeds
) -> Gradients:
    regions = surveyed.survey.regions
    masked = run_passes(surveyed.model, [MaskRegions(regions)])
    primal = _Primal(open_session(masked.SerializeToString()), output, len(regions), seeds)

    def judged(products: Sequence[Products], method: str, deviation: float | None, reason: str) -> Gradients:
        impact = _impact(products, squared=is_squared(loss))
        by_region = {region.name: float(value) for region, value in zip(regions, impact, strict=True)}
        return Gradients(by_region, method, len(products), deviation, reason)

    found = swept(masked, len(regions), watched, chosen, output, seeds)
    if isinstance(found, str):
        return judged(primal.affordable(chosen), CENTRAL, None, found)
    deviation = _deviation(found.products[:CHECKED], primal, chosen[:CHECKED])
    if deviation <= TOLERANCE:
        return replace(judged(found.products, REVERSE, deviation, ""), metrics=found.metrics)
    reason = f"reverse mode is off by {deviation:.2g} from central differences"
    return judged(primal.affordable(chosen), CENTRAL, deviation, reason)


def _spread(items: Sequence[Batch], count: int) -> tuple[Batch, ...]:
    """At most so many items, evenly spaced."""
    places = np.linspace(0, len(items) - 1, min(count, len(items)))
    return tuple(items[round(float(place))] for place in places)


def _impact(products: Sequence[Products], *, squared: bool) -> NDArray[np.float64]:
    """Mean over batches of the loss that ½ (v · δ)² estimates, [regions]."""
    estimates = np.stack([0.5 * (each**2).mean(axis=1) for each in products])
    return np.asarray((estimates if squared else np.sqrt(estimates)).mean(axis=0))


@dataclass(frozen=True)
class _Primal:
    """The masked model, for central differences."""

    session: Session
    output: str
    count: int
    seeds: Seeds

    def affordable(self, items: Sequence[Batch]) -> list[Products]:
        """Derivatives of the first batches, as many as `MOST_RUNS` allows for."""
        few = items[: max(1, MOST_RUNS // (2 * self.count))]
        return in_parallel(self.products(STEPS[0]), few)

    def products(self, step: float) -> Callable[[Batch], Products]:
        """Derivatives by central differences, two runs for each region."""

        def products(item: Batch) -> Products:
            along = self.seeds(item).reshape(-1, DIRECTIONS).astype(np.float64)
            return np.stack([self._change(item, region, step) @ along for region in range(self.count)])

        return products

    def _change(self, item: Batch, region: int, step: float) -> NDArray[np.float64]:
        """Derivative of the whole output with respect to one mask, flattened."""
        above, below = (self._run(item, region, 1.0 + sign * step) for sign in (1.0, -1.0))
        return (above - below).reshape(-1) / (2.0 * step)

    def _run(self, item: Batch, region: int, value: float) -> Products:
        mask = np.ones(self.count, np.float32)
        mask[region] = value
        return self.session.run({**item.feeds, names.REGION_MASK: mask}, [self.output])[self.output].astype(np.float64)


def _deviation(reverse: Sequence[Products], primal: _Primal, items: Sequence[Batch]) -> float:
    """The worst relative deviation over regions, each by the step that suits it better; NaN where either has one."""
    found = np.concatenate(reverse, axis=1)
    deviations = []
    for step in STEPS:
        expected = np.concatenate([primal.products(step)(item) for item in items], axis=1)
        sizes = np.linalg.norm(expected, axis=1)
        off = np.linalg.norm(found - expected, axis=1)
        deviations.append(off / np.maximum(sizes, max(FLOOR * sizes.max(), SMALLEST)))
    return float(np.min(deviations, axis=0).max())
