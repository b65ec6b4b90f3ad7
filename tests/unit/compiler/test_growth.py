"""What a bypass adds to the file is foretold before the file is built."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from skipc.compiler.growth import growths
from skipc.compiler.hidden import hidden_layers
from skipc.passes.external import tensors
from skipc.runtime.plan import Array, Block, Bypass
from tests.gated import block, instrumented, random_gate, surveyed
from tests.graphs import Network, mlp, transformer

BESIDE = 600
"""Bytes of constants that come with a block whatever its bypass: the gate's weights, axes, shapes."""

NAMES = 600
"""Bytes that names, types and shapes of a bypass's weights take, which are foretold too."""


def weight_bytes(model: onnx.ModelProto) -> int:
    return sum(onnx.numpy_helper.to_array(item).nbytes for item in tensors(model.graph) if item.dims)


@pytest.mark.parametrize("kind", ["identity", "affine", "low-rank", "linear"])
def test_the_weights_of_a_bypass(kind: str) -> None:
    found = surveyed(mlp())
    added = block(found.survey.blocks[0], kind)
    (foretold,) = growths(found.model, [added])
    really = weight_bytes(instrumented(found.model, [added])) - weight_bytes(found.model)
    assert foretold - NAMES <= really <= foretold + BESIDE


@pytest.mark.parametrize("network", [mlp(), transformer()], ids=["mlp", "transformer"])
def test_a_narrow_bypass_has_its_part_of_the_block_too(network: Network) -> None:
    found = surveyed(network)
    layers = hidden_layers(found.model, found.survey.blocks, ())
    region = next(region for region in found.survey.blocks if region.name in layers)
    units = layers[region.name].units // 2
    arrays: dict[str, Array] = {
        "units": np.arange(units),
        "weight": np.ones((region.channels, region.channels), np.float32),
        "down": np.zeros((units, region.channels), np.float32),
        "shift": np.zeros(region.channels, np.float32),
    }
    added = Block(region, Bypass("narrow", arrays), random_gate(region.channels))
    (foretold,) = growths(found.model, [added])
    really = weight_bytes(instrumented(found.model, [added])) - weight_bytes(found.model)
    assert foretold > sum(array.nbytes for name, array in arrays.items() if name != "units")
    assert foretold - NAMES <= really <= foretold + BESIDE
