"""Estimate what happens on data unlike the calibration data, from one data set: leave a part of it out.

The samples are split into clusters. For each cluster in turn, gates and a set of blocks to bypass always are chosen on
the other clusters alone, each as bold as the limit allows there, and then tried on the cluster. What is tried is run:
losses of several bypassed blocks do not add up. The bypasses stay as they were fitted, with the cluster among their
data, so that nothing has to be compiled anew; how much of the loss under shift is theirs, this cannot show.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipc.compiler.certify import Claim
from skipc.compiler.clusters import clusters_of
from skipc.compiler.data import Batch
from skipc.compiler.fit import fit_gate
from skipc.compiler.gate_fit import BINARY_GATE_UNITS, Evidence
from skipc.compiler.impact import ablate, instrument, ungated
from skipc.compiler.loss import Loss
from skipc.compiler.options import Option
from skipc.compiler.progress import SILENT, Progress
from skipc.compiler.running import Judged, in_parallel, opened
from skipc.compiler.survey import Surveyed
from skipc.runtime import names
from skipc.runtime.plan import Array
from skipc.runtime.session import Session

NOTE = (
    "Each row leaves one cluster of the data out, chooses gates and blocks by the other clusters alone, each as bold "
    "as the limit allows there, and tries both on the cluster. It shows whether gates notice samples that they were "
    "not fitted on. The bypasses themselves were fitted with all clusters, so that both are likely to lose more on "
    "really unfamiliar data; the gates here are simpler than those in the file; means over small clusters are rough. "
    "It is an estimate and no promise: to have other data certified, name it with --data."
)
"""What the estimate can and cannot tell."""

CLUSTERS = 4
UNITS = {True: BINARY_GATE_UNITS, False: 200}
"""Units that are clustered and run, for binary losses and for others: rare errors need more to be seen. Gates
of binary losses are fitted on as many, so that what bypassing each block alone does need not be measured twice."""

FEWEST = 10
"""Units in a cluster for it to be left out: a mean over fewer says nothing."""

HALVINGS = 4
"""To find the share of bypasses that keeps to the limit; each costs a run over the known units."""

SMALLEST_LOSS = 1e-6
SMALLEST = 1e-30

Pattern = NDArray[np.bool_]
"""Which blocks each unit bypasses, [units, gates]."""

Run = Callable[[NDArray[np.int64], Pattern], NDArray[np.float64]]
"""(positions of units, what they bypass) → their losses."""


@dataclass(frozen=True)
class Known:
    """What was measured of each unit; arrays have one row a gate.

    Attributes:
        pooled: entry values as gates see them, [units, C] for each gate.
        losses: smooth loss of bypassing the block alone, [gates, units].
        saved_ms: by one bypass, [gates].
        limit: of the mean loss.
        run: of the model with any blocks bypassed.
    """

    pooled: Sequence[NDArray[np.float32]]
    losses: NDArray[np.float64]
    saved_ms: NDArray[np.float64]
    limit: float
    run: Run


@dataclass(frozen=True)
class Tried:
    """One way to bypass, on units that it was chosen on and on those that were left out.

    Attributes:
        known_loss: mean loss on the other clusters.
        left_out_loss: mean loss on the cluster.
        known_saved_ms: by its bypasses, milliseconds a unit, on the other clusters.
        left_out_saved_ms: the same on the cluster.
    """

    known_loss: float
    left_out_loss: float
    known_saved_ms: float
    left_out_saved_ms: float


@dataclass(frozen=True)
class LeftOut:
    """What happened on one cluster that had no part in choosing.

    Attributes:
        units: in the cluster.
        gated: with gates that were fitted without it.
        static: with the same blocks always bypassed, chosen without it.
    """

    units: int
    gated: Tried
    static: Tried


def estimate_shift(
    surveyed: Surveyed,
    original: Session,
    options: Sequence[Option],
    evidence: Evidence,
    claim: Claim,
    seed: int,
    progress: Progress = SILENT,
) -> tuple[LeftOut, ...]:
    """Cluster one data set by what its deepest block sees, and leave out one cluster after the other.

    Args:
        surveyed: the original.
        original: opened.
        options: one for each gate, in graph order; without any there is nothing to estimate.
        evidence: data that nothing is certified on, and what was observed of it.
        claim: whose limit and loss count.
        seed: of the clusters.
        progress: told how far it is.
    """
    if not options:
        return ()
    judged = one_by_one(
        original, evidence.judged, evidence.single, claim.loss, claim.loss.enough(UNITS[claim.loss.binary])
    )
    model = instrument(surveyed.model, [ungated(option.region, option.bypass) for option in options], surveyed.executor)
    observed = [evidence.observed[option.region.name].pooled for option in options]
    features = [sample_means(pooled, len(evidence.single))[: len(judged.items)] for pooled in observed]
    losses = ablate(model, judged, claim.loss, progress.part(0.0, 0.2))[1]
    saved = np.array([option.saved_ms for option in options])
    known = Known(features, losses, saved, claim.limit, runner(model.session, judged, claim.loss))
    return leave_clusters_out(known, clusters_of(features[-1], CLUSTERS, seed), progress.part(0.2, 1.0))


def one_by_one(original: Session, judged: Judged, single: Sequence[Batch], loss: Loss, count: int) -> Judged:
    """The first samples of judged data one by one, so that each can bypass what it likes.

    Args:
        original: opened.
        judged: batches of any size.
        single: the same samples one by one, in the same order.
        loss: says what to keep of the outputs.
        count: of samples, at most.
    """
    items = tuple(single[:count])

    def reference(item: Batch) -> Array:
        return loss.kept(original.run(item.feeds, [judged.output])[judged.output], item.feeds, item.valid)

    references = in_parallel(reference, items)
    known = [labels for labels in judged.labels if labels is not None]
    labels = np.split(np.concatenate(known), len(single)) if known else [None] * len(single)
    return Judged(items, tuple(references), tuple(labels[: len(items)]), judged.output)


def sample_means(pooled: NDArray[np.float32], samples: int) -> NDArray[np.float32]:
    """Rows averaged over each sample, [samples, C]; a sample has several where the model fixes its batch."""
    return np.asarray(pooled.reshape(samples, -1, pooled.shape[-1]).mean(axis=1))


def runner(session: Session, judged: Judged, loss: Loss) -> Run:
    """Runs samples of judged data with given blocks bypassed; what was run once is remembered."""
    remembered: dict[tuple[int, bytes], float] = {}

    def lost(unit: int, bypassed: NDArray[np.bool_]) -> float:
        item = judged.items[unit]
        feeds = {**item.feeds, names.WINDOW: opened(len(bypassed), np.flatnonzero(bypassed).tolist())}
        found = session.run(feeds, [judged.output])[judged.output]
        return float(loss.of(judged.references[unit], found, judged.labels[unit], item.valid).mean())

    def run(units: NDArray[np.int64], patterns: Pattern) -> NDArray[np.float64]:
        keys = [(int(unit), pattern.tobytes()) for unit, pattern in zip(units, patterns, strict=True)]
        new = [i for i, key in enumerate(keys) if key not in remembered]
        found = in_parallel(lambda i: lost(keys[i][0], patterns[i]), new, session.parallel)
        remembered.update((keys[i], value) for i, value in zip(new, found, strict=True))
        return np.array([remembered[key] for key in keys])

    return run


def leave_clusters_out(known: Known, clusters: NDArray[np.int64], progress: Progress = SILENT) -> tuple[LeftOut, ...]:
    """Leave out one cluster after the other.

    Args:
        known: measured on all units.
        clusters: of each unit, [units].
        progress: told of every cluster.
    """
    names, sizes = np.unique(clusters, return_counts=True)
    usable = [name for name, size in zip(names, sizes, strict=True) if FEWEST <= size <= len(clusters) - FEWEST]
    found = []
    for name, _ in progress.each(usable):
        inside, outside = np.flatnonzero(clusters == name), np.flatnonzero(clusters != name)
        gated = _tried(known, outside, inside, _gated(known, outside, inside))
        static = _tried(known, outside, inside, _static(known, outside, inside))
        found.append(LeftOut(len(inside), gated, static))
    return tuple(found)


def _tried(
    known: Known, outside: NDArray[np.int64], inside: NDArray[np.int64], patterns: tuple[Pattern, Pattern]
) -> Tried:
    losses = [float(known.run(units, chosen).mean()) for units, chosen in zip((outside, inside), patterns, strict=True)]
    saved = [float((chosen @ known.saved_ms).mean()) for chosen in patterns]
    return Tried(losses[0], losses[1], saved[0], saved[1])


def _gated(known: Known, outside: NDArray[np.int64], inside: NDArray[np.int64]) -> tuple[Pattern, Pattern]:
    """What gates fitted outside bypass outside and inside, at the largest share that keeps to the limit outside.

    A unit bypasses a block where the milliseconds saved per predicted loss exceed a bar, the same for all gates.
    Outside, predictions are by fits without the unit itself; inside, scores never seen outside bypass nothing.
    """
    pairs = list(zip(known.pooled, known.losses, strict=True))
    fits = [fit_gate(pooled[outside], losses[outside]) for pooled, losses in pairs]
    scores = np.stack([fit.predicted for fit in fits], axis=1)
    rows = zip(known.pooled, fits, strict=True)
    new = np.stack([pooled[inside] @ fit.gate.weight + fit.gate.bias for pooled, fit in rows], axis=1)
    seen = new > np.array([fit.gate.floor for fit in fits])
    worth, new_worth = (np.log(np.maximum(known.saved_ms, SMALLEST)) - each for each in (scores, new))
    bar = _lowest_bar(worth, lambda chosen: float(known.run(outside, chosen).mean()) <= known.limit)
    return worth > bar, (new_worth > bar) & seen


def _lowest_bar(worth: NDArray[np.float64], keeps: Callable[[Pattern], bool]) -> float:
    """The bar that the largest share of bypasses passes while the limit is kept, by bisection of that share.

    Where all of them may, it lies right below the least worth that was seen: what looks worse is not bypassed.
    """
    if keeps(np.ones_like(worth, bool)):
        return float(np.nextafter(worth.min(), -np.inf))
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if keeps(worth > np.quantile(worth, 1 - middle)) else (low, middle)
    return float(np.quantile(worth, 1 - low))


def _static(known: Known, outside: NDArray[np.int64], inside: NDArray[np.int64]) -> tuple[Pattern, Pattern]:
    """Blocks to bypass always, added in order of milliseconds saved per loss while the limit is kept outside."""
    worth = known.saved_ms / np.maximum(known.losses[:, outside].mean(axis=1), SMALLEST_LOSS)
    chosen = np.zeros(len(worth), bool)
    for gate in np.argsort(-worth, kind="stable"):
        more = chosen.copy()
        more[gate] = True
        if known.run(outside, np.tile(more, (len(outside), 1))).mean() > known.limit:
            break
        chosen = more
    return np.tile(chosen, (len(outside), 1)), np.tile(chosen, (len(inside), 1))
