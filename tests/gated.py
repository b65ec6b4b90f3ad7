"""Put regions of a network behind gates, and work out by other means what the result must compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from skipc.compiler.probe import probe_types
from skipc.compiler.survey import with_rows
from skipc.passes.base import run_passes
from skipc.passes.expose import with_outputs
from skipc.passes.inject import InjectGates
from skipc.passes.narrow import constants_of
from skipc.passes.normalize import Normalize
from skipc.passes.regions import Survey, find_regions
from skipc.passes.shapes import FixTargets, constant_targets
from skipc.passes.window import InputWindow
from skipc.runtime import names
from skipc.runtime.plan import Block, Bypass, Gate, Region, Target
from skipc.runtime.session import is_equal, open_session
from tests.graphs import Network

Array = NDArray[Any]
Arrays = Mapping[str, Array]

KINDS = ("identity", "affine", "low-rank", "linear")


@dataclass(frozen=True)
class Surveyed:
    """A normalised model with its regions, as it is compiled and as it was."""

    model: onnx.ModelProto
    survey: Survey
    original: onnx.ModelProto
    targets: tuple[Target, ...]


def surveyed(network: Network) -> Surveyed:
    """Survey a network by two runs that differ in all named dimensions."""
    original = run_passes(network.model, [Normalize()])
    targets = constant_targets(original, constants_of(original.graph))
    model = run_passes(original, [FixTargets(targets)])
    feeds = [network.feeds(batch=1, length=4), network.feeds(batch=2, length=5)]
    types = probe_types(model, feeds)
    return Surveyed(model, with_rows(find_regions(model, types), model, types), original, targets)


def random_bypass(kind: str, channels: int, seed: int = 0) -> Bypass:
    """A bypass with random parameters, of about the size of the identity."""
    random = np.random.default_rng(seed)

    def some(*shape: int) -> Array:
        return np.asarray(random.standard_normal(shape) / np.sqrt(channels), np.float32)

    rank = max(1, channels // 4)
    return Bypass(
        kind,
        {
            "identity": {},
            "affine": {"scale": 1 + some(channels), "shift": some(channels)},
            "low-rank": {"down": some(channels, rank), "up": some(rank, channels), "shift": some(channels)},
            "linear": {"weight": some(channels, channels), "shift": some(channels)},
        }[kind],
    )


def random_gate(channels: int, seed: int = 0) -> Gate:
    """A gate with a random read-out and no floor."""
    weight = np.random.default_rng(seed).standard_normal(channels).astype(np.float32)
    return Gate("mean", weight, 0.25, floor=-np.inf)


def block(region: Region, kind: str = "linear", seed: int = 0) -> Block:
    """A region with a random gate and a random bypass."""
    return Block(region, random_bypass(kind, region.channels, seed), random_gate(region.channels, seed))


def deciding(item: Block, granularity: str, mask: str = "") -> Block:
    """The same block with a gate for samples or for tokens."""
    pooling = "none" if granularity == "token" else "mean"
    return replace(item, gate=replace(item.gate, granularity=granularity, pooling=pooling, mask=mask))


def instrumented(model: onnx.ModelProto, blocks: Sequence[Block]) -> onnx.ModelProto:
    """The model with thresholds as its input, checked."""
    return run_passes(model, [InjectGates(tuple(blocks), InputWindow())])


def window(gates: int, threshold: float) -> Array:
    """One threshold for all gates, without floors."""
    return np.array([[threshold] * gates, [np.inf] * gates], np.float32)


def run(model: onnx.ModelProto, feeds: Arrays, outputs: Sequence[str] | None = None) -> dict[str, Array]:
    """Run a model as it stands, without ONNX Runtime's own rewriting."""
    return open_session(model.SerializeToString(), optimize=False).run(feeds, outputs)


def approximate(region: Region, bypass: Bypass, value: Array) -> Array:
    """What a bypass makes of an entry value, by numpy in float64."""
    x = np.moveaxis(value.astype(np.float64), region.channel_axis, -1)
    p = {name: array.astype(np.float64) for name, array in bypass.arrays.items()}
    result = {
        "identity": lambda: x,
        "affine": lambda: x * p["scale"] + p["shift"],
        "low-rank": lambda: x + x @ p["down"] @ p["up"] + p["shift"],
        "linear": lambda: x @ p["weight"] + p["shift"],
    }[bypass.kind]()
    return np.ascontiguousarray(np.moveaxis(result, -1, region.channel_axis)).astype(value.dtype)


def bypassed(model: onnx.ModelProto, blocks: Sequence[Block], feeds: Arrays) -> dict[str, Array]:
    """Outputs of a model whose blocks are bypassed, found without `If` and without skipc's own nodes.

    The value at which each bypass ends is cut off from its producer and fed instead, block by block in graph order.
    """
    ends = [item.region.exit if item.bypass.kind == "identity" else item.region.merge for item in blocks]
    outputs = [item.name for item in model.graph.output]
    entries = [item.region.entry for item in blocks]
    original = open_session(with_outputs(model, [*ends, *entries]).SerializeToString(), optimize=False)
    fed = {end: value for end, value in original.run(feeds).items() if end in ends}
    cut = open_session(_cut(with_outputs(model, entries), ends).SerializeToString(), optimize=False)
    for item, end in zip(blocks, ends, strict=True):
        entry = item.region.entry
        value = fed.get(entry, feeds.get(entry))
        if value is None:
            value = cut.run({**feeds, **_renamed(fed)}, [entry])[entry]
        fed[end] = approximate(item.region, item.bypass, value)
    found = cut.run({**feeds, **_renamed(fed)})
    return {name: fed.get(name, found[name]) for name in outputs}


def _renamed(fed: Arrays) -> dict[str, Array]:
    return {f"{name}!": value for name, value in fed.items()}


def _cut(model: onnx.ModelProto, values: Sequence[str]) -> onnx.ModelProto:
    """A copy whose nodes read these values from inputs of the graph; the original producers feed nobody."""
    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    for node in cut.graph.node:
        node.input[:] = [f"{name}!" if name in values else name for name in node.input]
    inferred = onnx.shape_inference.infer_shapes(model).graph
    types = {item.name: item.type.tensor_type.elem_type for item in (*inferred.value_info, *inferred.output)}
    cut.graph.input.extend(onnx.helper.make_tensor_value_info(f"{name}!", types[name], None) for name in values)
    return cut


def assert_equal(found: Arrays, expected: Arrays) -> None:
    """Bit for bit, NaN included."""
    assert {name for name in expected if not is_equal(found[name], expected[name])} == set()


def assert_gated(model: onnx.ModelProto, blocks: Sequence[Block], feeds: Arrays) -> None:
    """Shut, a gated model is the original, bit for bit; open, it is the bypassed one.

    Open, only the bypass itself is computed by other means, in another order and precision: a few hundred float32
    operations on values near 1, each off by 6e-8 at most, amplified by the normalisations behind.
    """
    gated = instrumented(model, blocks)
    outputs = [item.name for item in model.graph.output]
    shut = run(gated, {**feeds, names.WINDOW: window(len(blocks), -np.inf)})
    assert_equal(shut, run(model, feeds))
    opened = run(gated, {**feeds, names.WINDOW: window(len(blocks), np.inf)})
    expected = bypassed(model, blocks, feeds)
    for name in outputs:
        np.testing.assert_allclose(opened[name], expected[name], rtol=2e-4, atol=2e-4)
