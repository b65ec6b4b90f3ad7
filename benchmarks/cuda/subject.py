"""The gated models of a network, with decisions that are known beforehand.

Gates are linear read-outs of pooled values, and there are far fewer samples than features: for any decisions that are
wished for there is a read-out that takes them. So each file decides as its samples say: nothing is bypassed for
`NOTHING`, every block for `EVERYTHING`, and every fourth block for each of `QUARTERS`, each time another one, so that a
quarter of every block's runs, and of the blocks' time, is bypassed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.cuda.networks import Array, Size, exported, samples
from skipc.compiler.build import build_static, normalized
from skipc.compiler.impact import ungated
from skipc.compiler.probe import probe_types
from skipc.compiler.survey import with_rows
from skipc.passes.base import run_passes
from skipc.passes.candidate import ValueType
from skipc.passes.expose import ExposeDecisions, with_outputs
from skipc.passes.gate import reading_of
from skipc.passes.inject import ImposeDecisions, InjectGates
from skipc.passes.policy import with_policy
from skipc.passes.regions import find_regions
from skipc.passes.window import LevelWindow
from skipc.runtime import names
from skipc.runtime.plan import Block, Bypass, Gate, Region
from skipc.runtime.session import open_session

QUARTERS = (0, 1, 2, 3)
NOTHING, EVERYTHING = 4, 5
SAMPLES = 6
SHARE = 0.25
"""Of the blocks' time that is bypassed for `QUARTERS`."""

Wishes = NDArray[np.bool_]
"""Decisions, [samples, gates]: true bypasses."""


@dataclass(frozen=True)
class Subject:
    """A network to put behind gates.

    Attributes:
        name: of the network.
        dtype: its element type.
        model: normalised original.
        blocks: its regions with their bypasses and gates that know nothing yet.
        samples: inputs, [SAMPLES, ...] each.
    """

    name: str
    dtype: str
    model: onnx.ModelProto
    blocks: tuple[Block, ...]
    samples: Mapping[str, Array]

    @classmethod
    def of(cls, name: str, size: Size, dtype: str) -> Subject:
        """Export a network and find its regions."""
        model = normalized(exported(name, size, dtype))
        inputs = samples(name, size, dtype, SAMPLES)
        types = probe_types(model, [rows(inputs, range(1)), rows(inputs, range(2))])
        survey = with_rows(find_regions(model, types), model, types)
        return cls(name, dtype, model, tuple(_block(region, types) for region in survey.blocks), inputs)

    def gated(self, policy: str, granularity: str, provider: str) -> tuple[Block, ...]:
        """The blocks with gates that decide as it is wished for.

        Args:
            policy: says what gates read.
            granularity: ``batch`` or ``sample``.
            provider: whose values the gates will read.
        """
        blocks = with_policy(self.blocks, policy)
        pooled = self._pooled(blocks, provider)
        columns = wished(len(blocks)).T
        gates = [_taught(block.gate, *pair) for block, *pair in zip(blocks, pooled, columns, strict=True)]
        return tuple(
            replace(block, gate=replace(gate, granularity=granularity))
            for block, gate in zip(blocks, gates, strict=True)
        )

    def shipped(self, blocks: Sequence[Block], *, exposed: bool = False) -> onnx.ModelProto:
        """The file as it would be shipped; also with its decisions among the outputs."""
        count = len(blocks)
        window = LevelWindow(((0.0,) * count,), (float("-inf"),) * count, 0)
        shown = [ExposeDecisions(tuple(blocks))] if exposed else []
        return run_passes(self.model, [InjectGates(tuple(blocks), window), *shown])

    def static(self) -> onnx.ModelProto:
        """Every fourth block bypassed for good."""
        return build_static(self.model, self.blocks[:: len(QUARTERS)])

    def batch(self, which: int, size: int) -> Mapping[str, Array]:
        """One sample, so many times."""
        return rows(self.samples, [which] * size)

    def mixed(self, size: int) -> Mapping[str, Array]:
        """`QUARTERS` in turn: every gate opens for a quarter of the rows."""
        return rows(self.samples, [QUARTERS[row % len(QUARTERS)] for row in range(size)])

    def _pooled(self, blocks: Sequence[Block], provider: str) -> list[NDArray[np.float64]]:
        """What each gate reads, pooled, [SAMPLES, features], when the wished decisions are taken."""
        alone = tuple(replace(block, gate=replace(block.gate, granularity="batch")) for block in blocks)
        readings = [reading_of(block.region, block.gate) for block in blocks]
        imposed = with_outputs(run_passes(self.model, [ImposeDecisions(alone)]), [item.value for item in readings])
        session = open_session(imposed.SerializeToString(), provider=provider)
        wishes, found = wished(len(blocks)), []
        for sample in range(SAMPLES):
            decided = {
                names.agreed(block.region.name): wishes[sample, number : number + 1].astype(np.float32)
                for number, block in enumerate(blocks)
            }
            feeds = dict(rows(self.samples, [sample]))
            found.append({**feeds, **session.run({**feeds, **decided})})
        return [np.stack([_mean(run[reading.value], reading.channel_axis) for run in found]) for reading in readings]


def wished(gates: int) -> Wishes:
    """The decisions of so many gates."""
    wishes = np.zeros((SAMPLES, gates), bool)
    for gate in range(gates):
        wishes[QUARTERS[gate % len(QUARTERS)], gate] = True
    wishes[EVERYTHING] = True
    return wishes


def rows(inputs: Mapping[str, Array], which: Sequence[int]) -> Mapping[str, Array]:
    """These samples as a batch."""
    return {name: array[list(which)] for name, array in inputs.items()}


def _block(region: Region, types: Mapping[str, ValueType]) -> Block:
    """A region with a linear bypass near the identity; its gate leaves padding out where there is a mask."""
    random = np.random.default_rng(0)
    noise = random.standard_normal((region.channels, region.channels)) / np.sqrt(region.channels)
    weight = (np.eye(region.channels) + 0.05 * noise).astype(np.float32)
    bypass = Bypass("linear", {"weight": weight, "shift": np.zeros(region.channels, np.float32)})
    masked = "mask" in types and types["mask"].dims == region.dims[:2]
    return ungated(region, bypass, "batch", "mask" if masked else "")


def _mean(value: Array, channel_axis: int) -> NDArray[np.float64]:
    return np.moveaxis(value.astype(np.float64), channel_axis, -1).reshape(-1, value.shape[channel_axis]).mean(0)


def _taught(gate: Gate, pooled: NDArray[np.float64], wishes: NDArray[np.bool_]) -> Gate:
    """The smallest read-out whose score is -1 for samples to bypass and 1 for the others."""
    wanted = np.where(wishes, -1.0, 1.0)
    weight = np.linalg.pinv(pooled - pooled.mean(0)) @ (wanted - wanted.mean())
    bias = float(wanted.mean() - pooled.mean(0) @ weight)
    return replace(gate, weight=weight.astype(np.float32), bias=bias)
