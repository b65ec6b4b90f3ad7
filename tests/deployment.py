"""A small compiled model with live, constant and shut gates, in memory; nothing of it is certified."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from skipc.compiler.build import build, serialized
from skipc.runtime.plan import Block, Certificate, Gate, Plan
from skipc.runtime.session import open_session
from tests.gated import block, surveyed
from tests.graphs import Network, mlp

NEVER, ALWAYS = -np.inf, np.inf
CERTIFICATE = Certificate("relative-l2", "y", 0.05, 0.95, 0.01, 0.04, 0.01, "betting", 400, 2, 1)

NETWORK = mlp(blocks=3)
LEVELS = ((NEVER,) * 3, (4.5, ALWAYS, NEVER), (6.0, ALWAYS, ALWAYS))
"""Scores of the random gates spread from -3 to 15: at level 1 about half of all samples bypass the first block."""


def blocks() -> tuple[Block, ...]:
    found = [block(region, seed=seed) for seed, region in enumerate(surveyed(NETWORK).survey.blocks)]
    constant = Gate("constant", np.zeros(0, np.float32), 0.0, floor=NEVER)
    floored = replace(found[0], gate=replace(found[0].gate, floor=-1.0))
    return (floored, replace(found[1], gate=constant), found[2])


def plan(**changes: Any) -> Plan:
    made = Plan(
        "digest", {"data": "d"}, blocks(), LEVELS, 1, CERTIFICATE, "relative-l2", 1, 1, "cpu", 0, {"skipc": "0"}
    )
    return replace(made, **changes)


def compiled(made: Plan | None = None, *, decisions: bool = False) -> bytes:
    return serialized(build(surveyed(NETWORK).model, made or plan(), decisions=decisions))


def original() -> bytes:
    data: bytes = NETWORK.model.SerializeToString()
    return data


def feeds(seed: int, batch: int = 1, network: Network = NETWORK) -> dict[str, NDArray[Any]]:
    return network.feeds(batch=batch, seed=seed)


def plain(data: bytes, given: dict[str, NDArray[Any]]) -> NDArray[Any]:
    """The first output, from a session of its own."""
    session = open_session(data)
    return session.run(given)[session.outputs[0]]


def parsed(data: bytes) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.ParseFromString(data)
    return model
