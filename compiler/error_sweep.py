"""Derivatives of the error that bypasses cause together, by the corrections of each (`passes.corrections`).

The error of a sample is the sum over chosen values v of ‖v - w‖² / ‖w‖², with w the original's value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
from numpy.typing import NDArray

from skipc.compiler.running import in_parallel
from skipc.compiler.sweep import differentiable
from skipc.passes.base import GraphPass, run_passes
from skipc.passes.corrections import AddCorrections, AddError, Correction
from skipc.passes.expose import up_to, with_outputs
from skipc.passes.flat_scaling import FlatScaling
from skipc.passes.inject import ReplaceRegions
from skipc.runtime import names
from skipc.runtime.plan import Array, Block
from skipc.runtime.session import Session, open_session

TINY = 1e-12
"""Squared norms below it count as if they were of that size."""

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Group:
    """Samples of one shape.

    Attributes:
        feeds: of the original.
        samples: how many there are.
        wanted: the original's values, by name.
    """

    feeds: Mapping[str, Array]
    samples: int
    wanted: Mapping[str, Array]

    @cached_property
    def sizes(self) -> Mapping[str, float]:
        """Squared norms of the original's values."""
        return {name: float(np.square(value, dtype=np.float64).sum()) for name, value in self.wanted.items()}

    @property
    def work(self) -> int:
        """Elements of the original's values: what a sweep takes grows with them."""
        return sum(value.size for value in self.wanted.values())


@dataclass(frozen=True)
class Moves:
    """What is added to a bypass, or the derivative by it.

    Attributes:
        weight: [features, C].
        shift: [C].
    """

    weight: Matrix
    shift: Matrix


@dataclass(frozen=True)
class ErrorSweep:
    """The network with its bypasses in place, and the derivatives of its error.

    Attributes:
        session: of the reverse sweep.
        corrections: that it differentiates by.
        values: that the error is measured at.
        seed: name of the input that the derivative is multiplied by.
        adjoints: names of the derivatives by each correction's rows.
    """

    session: Session
    corrections: tuple[Correction, ...]
    values: tuple[str, ...]
    seed: str
    adjoints: tuple[str, ...]

    @classmethod
    def of(
        cls,
        model: onnx.ModelProto,
        blocks: Sequence[Block],
        corrections: Sequence[Correction],
        values: Sequence[str],
        groups: Sequence[Group],
    ) -> ErrorSweep:
        """Write the sweep and open it.

        Args:
            model: normalised original.
            blocks: to bypass, in graph order, without overlaps.
            corrections: of some of them.
            values: that the error is measured at.
            groups: that will be swept; shapes that all of them share become constants.

        Raises:
            Exception: onnx-ad cannot differentiate the model.
        """
        import onnx_ad

        ranks = tuple((value, groups[0].wanted[value].ndim) for value in values)
        steps: list[GraphPass] = [ReplaceRegions(tuple(blocks)), AddCorrections(tuple(corrections)), AddError(ranks)]
        still = [still_moves(correction) for correction in corrections]
        feeds = [_feeds(group, corrections, still, values, 1.0) for group in groups]
        graph = differentiable(run_passes(model, steps), feeds)
        shifts = [names.shift(correction.merged) for correction in corrections]
        reverse = onnx_ad.reverse(graph, inputs=shifts, outputs=[names.ERROR], layout="onnx")
        seed = reverse.graph.input[-1].name
        adjoints = tuple(item.name for item in reverse.graph.output[-len(shifts) :])
        features = [correction.features for correction in corrections]
        # onnx-ad also writes derivatives that nobody asked for, by weights: up_to leaves them out.
        needed = up_to(with_outputs(run_passes(reverse, [FlatScaling(seed)]), features), [*adjoints, *features])
        return cls(open_session(needed.SerializeToString()), tuple(corrections), tuple(values), seed, adjoints)

    def derivatives(self, groups: Sequence[Group], moves: Sequence[Moves]) -> list[Moves]:
        """Derivatives of the mean error of some samples, by the moves of each correction, at these moves."""
        samples = sum(group.samples for group in groups)
        one = np.ones((1, 1), np.float32)

        def run(group: Group) -> Mapping[str, Array]:
            feeds = _feeds(group, self.corrections, moves, self.values, group.samples / samples)
            return self.session.run({**feeds, self.seed: one})

        found = in_parallel(run, sorted(groups, key=lambda group: -group.work))

        def rows(name: str, width: int) -> Matrix:
            return np.concatenate([each[name].reshape(-1, width) for each in found])

        def by(correction: Correction, adjoint: str) -> Moves:
            features = rows(correction.features, correction.count)
            derivatives = rows(adjoint, correction.region.channels)
            return Moves(features.T @ derivatives, derivatives.sum(axis=0))

        return [by(*pair) for pair in zip(self.corrections, self.adjoints, strict=True)]


def still_moves(correction: Correction) -> Moves:
    """Nothing is added."""
    channels = correction.region.channels
    return Moves(np.zeros((correction.count, channels), np.float32), np.zeros(channels, np.float32))


def _feeds(
    group: Group, corrections: Sequence[Correction], moves: Sequence[Moves], values: Sequence[str], share: float
) -> dict[str, Array]:
    """What the sweep reads for a group that is this share of all samples; its samples are alike in size."""
    found: dict[str, Array] = dict(group.feeds)
    found[names.ERROR_WEIGHTS] = np.array([share / max(group.sizes[value], TINY) for value in values], np.float32)
    for value in values:
        found[names.wanted(value)] = group.wanted[value]
    for correction, move in zip(corrections, moves, strict=True):
        rows = group.wanted[correction.region.exit].shape
        found[names.weight(correction.merged)] = move.weight
        found[names.shift(correction.merged)] = np.broadcast_to(move.shift, rows)
    return found
