"""The gated models of a network, with decisions that are known beforehand.

Gates are linear read-outs of pooled values, and there are far fewer samples than features: for any decisions that are
wished for there is a read-out that takes them. So each file decides as its samples say: nothing is bypassed for
`NOTHING`, every block for `EVERYTHING`, and every fourth block for each of `QUARTERS`, each time another one, so that a
quarter of every block's runs, and of the blocks' time, is bypassed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from benchmarks.cuda.light import Shelf
from benchmarks.cuda.networks import Array, Size, exported, samples, twin
from benchmarks.failure import BenchmarkError
from skipc.compiler.build import build_static, fixed, normalized
from skipc.compiler.impact import ungated
from skipc.compiler.probe import probe_types
from skipc.compiler.survey import with_rows
from skipc.passes.base import copied, run_passes
from skipc.passes.expose import ExposeDecisions, with_outputs
from skipc.passes.flow import Flow
from skipc.passes.gate import reading_of
from skipc.passes.inject import ImposeDecisions, InjectGates
from skipc.passes.narrow import constants_of
from skipc.passes.policy import with_policy
from skipc.passes.regions import find_regions
from skipc.passes.shapes import constant_targets
from skipc.passes.window import LevelWindow
from skipc.runtime import names
from skipc.runtime.plan import Block, Bypass, Gate, Region

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
        model: normalised original, without its weights.
        fixed: the same as it is compiled.
        shelf: where these lie.
        blocks: its regions with their bypasses and gates that know nothing yet.
        samples: inputs, [SAMPLES, ...] each.
    """

    name: str
    dtype: str
    model: onnx.ModelProto
    fixed: onnx.ModelProto
    shelf: Shelf
    blocks: tuple[Block, ...]
    samples: Mapping[str, Array]

    @classmethod
    def of(cls, name: str, size: Size, dtype: str, folder: Path) -> Subject:
        """Export a network, write its weights into a folder of its own, and find its regions."""
        shelf = Shelf(folder)
        model = normalized(shelf.put(exported(name, size, dtype)))
        whole = _fixed(model)
        regions, masked = _found(name, size, dtype, whole)
        blocks = tuple(_block(region, masked) for region in regions)
        return cls(name, dtype, model, whole, shelf, blocks, samples(name, size, dtype, SAMPLES))

    def gated(self, policy: str, provider: str) -> tuple[Block, ...]:
        """The blocks with gates that decide as it is wished for, on a whole batch.

        Args:
            policy: says what gates read.
            provider: whose values the gates will read.
        """
        blocks = with_policy(self.blocks, policy, Flow.of(self.fixed.graph))
        pooled = self._pooled(blocks, provider)
        columns = wished(len(blocks)).T
        gates = [_taught(block.gate, *pair) for block, *pair in zip(blocks, pooled, columns, strict=True)]
        return tuple(replace(block, gate=gate) for block, gate in zip(blocks, gates, strict=True))

    def shipped(self, blocks: Sequence[Block], *, exposed: bool = False) -> onnx.ModelProto:
        """The file as it would be shipped; also with its decisions among the outputs."""
        count = len(blocks)
        window = LevelWindow(((0.0,) * count,), (float("-inf"),) * count, 0)
        shown = [ExposeDecisions(tuple(blocks))] if exposed else []
        return run_passes(self.fixed, [InjectGates(tuple(blocks), window), *shown])

    def static(self) -> onnx.ModelProto:
        """Every fourth block bypassed for good."""
        return build_static(self.fixed, self.blocks[:: len(QUARTERS)])

    def batch(self, which: int, size: int) -> Mapping[str, Array]:
        """One sample, so many times."""
        return rows(self.samples, [which] * size)

    def mixed(self, size: int) -> Mapping[str, Array]:
        """`QUARTERS` in turn: every gate opens for a quarter of the rows."""
        return rows(self.samples, [QUARTERS[row % len(QUARTERS)] for row in range(size)])

    def _pooled(self, blocks: tuple[Block, ...], provider: str) -> list[NDArray[np.float64]]:
        """What each gate reads, pooled, [SAMPLES, features], when the wished decisions are taken."""
        readings = [reading_of(block.region, block.gate) for block in blocks]
        imposed = with_outputs(run_passes(self.fixed, [ImposeDecisions(blocks)]), [item.value for item in readings])
        session = self.shelf.open(imposed, provider=provider, threads=0)
        wishes, found = wished(len(blocks)), []
        for sample in range(SAMPLES):
            decided = {
                names.agreed(block.region.name): wishes[sample, number : number + 1].astype(np.float32)
                for number, block in enumerate(blocks)
            }
            feeds = dict(rows(self.samples, [sample]))
            found.append({**feeds, **session.run({**feeds, **decided})})
        return [np.stack([_mean(run[reading.value], reading.channel_axis) for run in found]) for reading in readings]


def deciding(blocks: Sequence[Block], granularity: str) -> tuple[Block, ...]:
    """The same gates, which decide on batches or on samples."""
    return tuple(replace(block, gate=replace(block.gate, granularity=granularity)) for block in blocks)


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


def _found(name: str, size: Size, dtype: str, model: onnx.ModelProto) -> tuple[tuple[Region, ...], bool]:
    """The regions of a network, and whether it has a mask; found in its twin, which has the same nodes.

    Raises:
        BenchmarkError: the twin's graph is another one.
    """
    small = twin(size)
    network = exported(name, small, dtype)
    other = copied(network.model)
    del other.graph.input[:]
    other.graph.input.extend(item for item in network.model.graph.input if item.name not in network.weights)
    other.graph.initializer.extend(numpy_helper.from_array(*pair[::-1]) for pair in network.weights.items())
    other = _fixed(normalized(other))
    inputs = samples(name, small, dtype, 2)
    types = probe_types(other, [rows(inputs, range(1)), rows(inputs, range(2))])
    regions = with_rows(find_regions(other, types), other, types).blocks
    if {node for region in regions for node in region.nodes} - {node.name for node in model.graph.node}:
        raise BenchmarkError(f"{name}: a narrow network has another graph")
    return tuple(_widened(region, size.width // small.width) for region in regions), "mask" in types


def _fixed(model: onnx.ModelProto) -> onnx.ModelProto:
    """What of a normalised model is compiled."""
    return fixed(model, constant_targets(model, constants_of(model.graph)))


def _widened(region: Region, factor: int) -> Region:
    """A region of a twin as it is in the network itself."""
    axis = region.channel_axis
    dims = (*region.dims[:axis], region.channels * factor, *region.dims[axis + 1 :])
    return replace(region, dims=dims)


def _block(region: Region, masked: bool) -> Block:
    """A region with a linear bypass near the identity; its gate leaves padding out where there is a mask."""
    random = np.random.default_rng(0)
    noise = random.standard_normal((region.channels, region.channels), np.float32) / np.sqrt(region.channels)
    weight = np.eye(region.channels, dtype=np.float32) + np.float32(0.05) * noise
    bypass = Bypass("linear", {"weight": weight, "shift": np.zeros(region.channels, np.float32)})
    return ungated(region, bypass, "batch", "mask" if masked else "")


def _mean(value: Array, channel_axis: int) -> NDArray[np.float64]:
    return np.moveaxis(value.astype(np.float64), channel_axis, -1).reshape(-1, value.shape[channel_axis]).mean(0)


def _taught(gate: Gate, pooled: NDArray[np.float64], wishes: NDArray[np.bool_]) -> Gate:
    """The smallest read-out whose score is -1 for samples to bypass and 1 for the others."""
    wanted = np.where(wishes, -1.0, 1.0)
    weight = np.linalg.pinv(pooled - pooled.mean(0)) @ (wanted - wanted.mean())
    bias = float(wanted.mean() - pooled.mean(0) @ weight)
    return replace(gate, weight=weight.astype(np.float32), bias=bias)
