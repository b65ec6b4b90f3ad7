"""Bytes are counted where they are; what is foretold from them is checked by `benchmarks.placement`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from skipc.compiler.build import build
from skipc.compiler.footprint import KERNELS, OTHERS, READ, Footprint, footprint
from skipc.passes import narrow as narrowing
from tests.compiled import plan_for
from tests.gated import block, surveyed
from tests.graphs import Network, conv_net, gated_mlps, mlp
from tests.unit.passes.test_narrow import first_narrowable, handmade


def found(network: Network, weights: str) -> tuple[Footprint, onnx.ModelProto]:
    base = surveyed(network)
    regions = [replace(region, weights=weights) for region in base.survey.blocks]
    compiled = build(base.model, plan_for([block(region, "identity") for region in regions]))
    return footprint(base.model, compiled), compiled


def sizes(network: Network, op_type: str) -> int:
    read = {name for node in network.model.graph.node if node.op_type == op_type for name in node.input[1:]}
    return sum(len(item.raw_data) for item in network.model.graph.initializer if item.name in read)


def test_kernels_beside_their_nodes() -> None:
    growth, compiled = found(conv_net(), "auto")
    inner = [graph for node in compiled.graph.node if node.op_type == "If" for graph in (node.attribute[1].g,)]
    kernels = sum(len(item.raw_data) for graph in inner for item in graph.initializer)
    assert growth.branches == kernels > 0
    assert growth.load == pytest.approx(growth.file + KERNELS * kernels, abs=1)
    assert growth.file == compiled.ByteSize() - surveyed(conv_net()).model.ByteSize()


def test_matrices_outside_and_inside() -> None:
    outer, inner = (found(mlp(), weights)[0] for weights in ("outer", "branch"))
    assert outer.branches == 0
    assert 0 < inner.branches <= sum(len(item.raw_data) for item in mlp().model.graph.initializer)
    matrices = (outer.load - outer.file) / READ
    assert 0 < matrices < inner.branches
    assert inner.load - inner.file == pytest.approx(OTHERS * inner.branches, abs=1)


def test_weights_that_are_taken_from_the_original_s_count_at_load(monkeypatch: pytest.MonkeyPatch) -> None:
    network = gated_mlps(hidden=24)
    base = surveyed(network)
    region, hidden = first_narrowable(base)
    narrow = replace(block(region), bypass=handmade(base, region, hidden, np.arange(0, 24, 3)))
    taken = footprint(base.model, build(base.model, plan_for([narrow])))
    monkeypatch.setattr(narrowing, "REFERRED_FROM", np.inf)
    copied = footprint(base.model, build(base.model, plan_for([narrow])))
    kept = sum(len(item.raw_data) for item in base.model.graph.initializer if item.name in hidden.slices) * 8 // 24
    assert taken.file < copied.file
    assert taken.load - taken.file == copied.load - copied.file + kept
