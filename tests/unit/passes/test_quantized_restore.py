"""A quantized model with narrow bypasses gives its original back, byte for byte, whatever decides in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from skipc.compiler.build import build
from skipc.passes.flow import Flow
from skipc.passes.narrow import constants_of, find_hidden
from skipc.passes.restore import Restore
from skipc.runtime.plan import Array, Bypass, Region
from tests.compiled import plan_for
from tests.gated import assert_equal, block, deciding, run, surveyed
from tests.graphs import Network, transformer
from tests.quantized import dynamic_int8, four_bit, optimised, static_int8

NETWORKS: dict[str, Callable[[Network], Network]] = {
    "dynamic int8": dynamic_int8,
    "dynamic int8, fused": lambda network: optimised(dynamic_int8(network)),
    "MatMulNBits": four_bit,
    "4 bits, dequantized": lambda network: four_bit(network, dequantized=True),
    "between quantizers": static_int8,
}


def narrow(region: Region, units: Array) -> Bypass:
    """A narrow bypass with random weights for some units."""
    random = np.random.default_rng(0)
    down = random.standard_normal((len(units), region.channels)).astype(np.float32)
    weight, shift = np.eye(region.channels, dtype=np.float32), np.zeros(region.channels, np.float32)
    return Bypass("narrow", {"units": units, "weight": weight, "down": down, "shift": shift})


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("granularity", ["batch", "sample", "token"])
def test_the_original_comes_back(name: str, granularity: str) -> None:
    network = NETWORKS[name](transformer(fused=True))
    found = surveyed(network)
    flow, constants = Flow.of(found.model.graph), constants_of(found.model.graph)
    blocks = []
    for region in found.survey.blocks:
        hidden = find_hidden(flow, constants, region)
        if hidden is not None:
            item = replace(block(region), bypass=narrow(region, np.arange(0, hidden.units, 3)))
            blocks.append(deciding(item, granularity))
    assert len(blocks) == 2
    plan = plan_for(blocks, found.targets)
    compiled = build(found.original, plan)
    again = build(found.original, plan)
    assert compiled.SerializeToString(deterministic=True) == again.SerializeToString(deterministic=True)
    restored = Restore().apply(compiled)
    assert restored.SerializeToString(deterministic=True) == network.model.SerializeToString(deterministic=True)
    feeds = network.feeds(batch=3)
    assert_equal(run(build(found.original, replace(plan, level=0)), feeds), run(network.model, feeds))
