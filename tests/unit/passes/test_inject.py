"""Shut, a gated model is the original bit for bit; open, it is the network with its blocks bypassed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from skipc.passes.base import run_passes
from skipc.passes.flow import node_inputs, subgraphs
from skipc.passes.inject import InjectGates, ReplaceRegions
from skipc.passes.window import InputWindow, LevelWindow
from skipc.runtime import names
from skipc.runtime.plan import Block
from tests.gated import (
    KINDS,
    Surveyed,
    assert_equal,
    assert_gated,
    block,
    bypassed,
    instrumented,
    run,
    surveyed,
    window,
)
from tests.graphs import OPSETS, Net, Network, conv_net, mbconv, mlp, transformer, with_node_constants

NETWORKS = {
    "post": transformer(norm="post"),
    "post fused": transformer(norm="post", fused=True),
    "pre": transformer(norm="pre"),
    "conv": conv_net(),
    "pre-activation": conv_net(relu_behind=False),
    "mbconv": mbconv(),
    "mlp": mlp(),
    "mlp with tails": mlp(tail="Tanh"),
}
SURVEYED = {name: surveyed(network) for name, network in NETWORKS.items()}
each_network = pytest.mark.parametrize("name", NETWORKS)


def all_blocks(found: Surveyed, kind: str = "linear") -> tuple[Block, ...]:
    return tuple(block(region, kind, seed) for seed, region in enumerate(found.survey.blocks))


@each_network
@pytest.mark.parametrize("kind", KINDS)
def test_blocks_behind_gates(name: str, kind: str) -> None:
    found = SURVEYED[name]
    assert_gated(found.model, all_blocks(found, kind), NETWORKS[name].feeds(batch=3, length=6))


@pytest.mark.parametrize("name", ["post", "pre"])
@pytest.mark.parametrize("kind", KINDS)
def test_layers_behind_gates(name: str, kind: str) -> None:
    found = SURVEYED[name]
    layers = [block(region, kind, seed) for seed, region in enumerate(found.survey.layers)]
    assert_gated(found.model, layers, NETWORKS[name].feeds(batch=3, length=6))


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("build", [transformer, conv_net, mbconv, mlp])
def test_gates_in_every_opset(build: Callable[..., Network], opset: int) -> None:
    network = build(opset=opset)
    found = surveyed(network)
    assert_gated(found.model, all_blocks(found), network.feeds())


def test_half_precision_shut_is_the_original() -> None:
    """By onnx.reference: on the CPU, ONNX Runtime computes chains of float16 nodes in float32, up to an `If`."""
    network = mlp(elem_type=TensorProto.FLOAT16)
    found = surveyed(network)
    feeds = network.feeds()
    gated = instrumented(found.model, all_blocks(found))
    (expected,) = list(ReferenceEvaluator(found.model).run(["y"], dict(feeds)))
    (shut,) = list(ReferenceEvaluator(gated).run(["y"], {**feeds, names.WINDOW: window(3, -np.inf)}))
    assert_equal({"y": np.asarray(shut)}, {"y": np.asarray(expected)})


def test_bypassing_makes_a_difference() -> None:
    """Guards the tests above: were the gates stuck, open would equal shut."""
    found, feeds = SURVEYED["mlp"], NETWORKS["mlp"].feeds()
    assert np.abs(bypassed(found.model, all_blocks(found), feeds)["y"] - run(found.model, feeds)["y"]).max() > 0.1


def test_each_gate_answers_to_its_own_threshold() -> None:
    found, feeds = SURVEYED["mlp"], NETWORKS["mlp"].feeds()
    blocks = all_blocks(found)
    gated = instrumented(found.model, blocks)
    for opened in range(len(blocks)):
        limits = window(len(blocks), -np.inf)
        limits[0, opened] = np.inf
        expected = bypassed(found.model, [blocks[opened]], feeds)["y"]
        # See assert_gated.
        np.testing.assert_allclose(run(gated, {**feeds, names.WINDOW: limits})["y"], expected, rtol=2e-4, atol=2e-4)


def test_identity_is_the_entry_bit_for_bit() -> None:
    found, feeds = SURVEYED["post"], NETWORKS["post"].feeds()
    blocks = all_blocks(found, "identity")
    opened = run(instrumented(found.model, blocks), {**feeds, names.WINDOW: window(len(blocks), np.inf)})
    assert_equal(opened, bypassed(found.model, blocks, feeds))


@each_network
def test_the_given_model_stays_as_it_was(name: str) -> None:
    found = SURVEYED[name]
    before = found.model.SerializeToString()
    instrumented(found.model, all_blocks(found))
    ReplaceRegions(all_blocks(found)).apply(found.model)
    assert found.model.SerializeToString() == before


@each_network
def test_the_same_blocks_give_the_same_bytes(name: str) -> None:
    found = SURVEYED[name]
    first, second = (instrumented(found.model, all_blocks(found)) for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)


def ifs(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, onnx.GraphProto, onnx.GraphProto]]:
    """Each `If` with its then and else branch."""
    for node in model.graph.node:
        if node.op_type == "If":
            branches = {item.name: item.g for item in node.attribute}
            yield node, branches["then_branch"], branches["else_branch"]


@each_network
def test_everything_has_a_name_of_its_own(name: str) -> None:
    gated = instrumented(SURVEYED[name].model, all_blocks(SURVEYED[name], "low-rank"))
    graphs = [gated.graph, *(branch for _, *pair in ifs(gated) for branch in pair)]
    for kind in (
        [node.name for graph in graphs for node in graph.node],
        [graph.name for graph in graphs],
        [value for graph in graphs for node in graph.node for value in node.output if value]
        + [item.name for graph in graphs for item in graph.initializer],
    ):
        assert len(set(kind)) == len(kind)
        assert all(kind)
    # Viewers show of a graph's name what is behind its last dot.
    assert not any("." in graph.name for graph in graphs[1:])


@each_network
def test_branches_declare_the_same_type(name: str) -> None:
    found = SURVEYED[name]
    gated = instrumented(found.model, all_blocks(found))
    regions = {region.exit: region for region in found.survey.blocks}
    for node, then_branch, else_branch in ifs(gated):
        (one,), (two,) = then_branch.output, else_branch.output
        assert one.type == two.type
        assert one.type.tensor_type.elem_type == regions[node.output[0]].elem_type
        fixed = [dim.dim_value or None for dim in one.type.tensor_type.shape.dim]
        assert fixed == [dim if isinstance(dim, int) else None for dim in regions[node.output[0]].dims]


@pytest.mark.parametrize("name", ["conv", "mbconv"])
def test_convolution_kernels_move_into_the_branches(name: str) -> None:
    found = SURVEYED[name]
    for _, then_branch, else_branch in ifs(instrumented(found.model, all_blocks(found))):
        for branch in (then_branch, else_branch):
            read = {value for node in branch.node if node.op_type == "Conv" for value in node.input[1:]}
            assert read
            assert read == {item.name for item in branch.initializer}


@pytest.mark.parametrize("name", ["post", "mlp"])
@pytest.mark.parametrize("kind", KINDS)
def test_matrices_stay_outside_the_branches(name: str, kind: str) -> None:
    found = SURVEYED[name]
    for _, *branches in ifs(instrumented(found.model, all_blocks(found, kind))):
        assert [len(branch.initializer) for branch in branches] == [0, 0]


def test_a_kernel_that_others_read_too_stays_outside() -> None:
    net = Net()
    value = net.conv("image", 3, 8, 1)
    shared = net.weight(8, 8, 1, 1, name="shared")
    for _ in range(2):
        value = net.node("Add", value, net.node("Conv", net.node("Relu", value), shared))
    net.node("Identity", value, output="y")
    network = net.network([net.tensor("image", "batch", 3, 4, 4)], [net.tensor("y", "batch", 8, 4, 4)])
    found = surveyed(network)
    gated = instrumented(found.model, all_blocks(found))
    assert "shared" in [item.name for item in gated.graph.initializer]
    assert_gated(found.model, all_blocks(found), network.feeds())


def unused(model: onnx.ModelProto) -> set[str]:
    """Initializers that nothing reads, in any scope."""
    graphs = [model.graph, *(branch for node in model.graph.node for branch in subgraphs(node))]
    read = {name for graph in graphs for node in graph.node for name in node_inputs(node)}
    return {item.name for graph in graphs for item in graph.initializer} - read


@each_network
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_over(name: str, kind: str) -> None:
    found = SURVEYED[name]
    blocks = all_blocks(found, kind)
    assert unused(instrumented(found.model, blocks)) == set()
    assert unused(run_passes(found.model, [ReplaceRegions(blocks)])) == set()


LOAD = "import sys, onnxruntime as o; [o.InferenceSession(p, providers=['CPUExecutionProvider']) for p in sys.argv[1:]]"


def test_onnxruntime_loads_it_without_a_word(tmp_path: Path) -> None:
    paths = []
    for name, found in SURVEYED.items():
        path = tmp_path / f"{name}.onnx"
        onnx.save(instrumented(found.model, all_blocks(found)), path)
        paths.append(str(path))
    done = subprocess.run([sys.executable, "-c", LOAD, *paths], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_constant_nodes_move_with_their_only_reader() -> None:
    plain = mlp()
    network = with_node_constants(plain, [item.name for item in plain.model.graph.initializer])
    found = surveyed(network)
    gated = instrumented(found.model, all_blocks(found))
    for _, _, full in ifs(gated):
        assert [node.op_type for node in full.node].count("Constant") == 4
    assert_gated(found.model, all_blocks(found), network.feeds())


def test_a_constant_that_a_tail_reads_stays_for_both_branches() -> None:
    plain = transformer(norm="post", layers=1)
    network = with_node_constants(plain, [item.name for item in plain.model.graph.initializer])
    found = surveyed(network)
    for kind in KINDS:
        assert_gated(found.model, all_blocks(found, kind), network.feeds())


@pytest.mark.parametrize("stem", ["Mul_2", "Add_4", "const_1", "tail", "MatMul_2", "skip"])
@pytest.mark.parametrize("kind", KINDS)
def test_names_in_a_tail_may_be_those_that_skipc_gives(stem: str, kind: str) -> None:
    net = Net()
    value = net.linear("x", 8, 8)
    merged = net.node("Add", value, net.linear(value, 8, 8))
    halved = net.node("Mul", merged, net.constant(0.5), output=stem, name=stem)
    net.node("Tanh", halved, output="bounded")
    net.node("Identity", "bounded", output="y")
    network = net.network([net.tensor("x", "batch", 8)], [net.tensor("y", "batch", 8)])
    found = surveyed(network)
    assert len(found.survey.blocks[0].tail) == 3 or found.survey.blocks[0].exit in ("bounded", "y")
    assert_gated(found.model, all_blocks(found, kind), network.feeds())


def test_a_region_between_input_and_output_of_the_graph() -> None:
    net = Net()
    net.node("Add", "x", net.linear("x", 8, 8), output="y")
    network = net.network([net.tensor("x", "batch", 8)], [net.tensor("y", "batch", 8)])
    found = surveyed(network)
    assert len(found.survey.blocks) == 1
    assert_gated(found.model, all_blocks(found), network.feeds())


def test_overlapping_regions_are_refused() -> None:
    found = SURVEYED["post"]
    both = (block(found.survey.blocks[0]), block(found.survey.layers[0]))
    with pytest.raises(ValueError, match="overlap"):
        InjectGates(both, InputWindow()).apply(found.model)


@each_network
def test_regions_can_be_replaced_for_good(name: str) -> None:
    found, feeds = SURVEYED[name], NETWORKS[name].feeds()
    for kind in KINDS:
        blocks = all_blocks(found, kind)
        static = run_passes(found.model, [ReplaceRegions(blocks)])
        assert [node.op_type for node in static.graph.node if node.op_type == "If"] == []
        expected = bypassed(found.model, blocks, feeds)
        for output, values in run(static, feeds).items():
            np.testing.assert_allclose(values, expected[output], rtol=2e-4, atol=2e-4)  # see assert_gated


def levelled(network: Network, window_: LevelWindow) -> onnx.ModelProto:
    found = surveyed(network)
    return run_passes(found.model, [InjectGates(all_blocks(found), window_)])


LEVELS = ((-np.inf,) * 3, (np.inf, -np.inf, -np.inf), (np.inf,) * 3)


@pytest.mark.parametrize("opset", [11, 13, 25])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_level_picks_its_row_of_thresholds(level: int, opset: int) -> None:
    network = mlp(opset=opset)
    found, feeds = surveyed(network), network.feeds()
    opened = [index for index, threshold in enumerate(LEVELS[level]) if threshold > 0]
    expected = bypassed(found.model, [all_blocks(found)[index] for index in opened], feeds)["y"] if opened else None
    shipped = levelled(network, LevelWindow(LEVELS, (-np.inf,) * 3, level))
    assert [item.name for item in shipped.graph.input] == ["x"]
    chosen = levelled(network, LevelWindow(LEVELS, (-np.inf,) * 3, 0, as_input=True))
    for result in (run(shipped, feeds), run(chosen, {**feeds, names.LEVEL: np.array(level)})):
        if expected is None:
            assert_equal(result, run(network.model, feeds))
        else:
            np.testing.assert_allclose(result["y"], expected, rtol=2e-4, atol=2e-4)  # see assert_gated


def test_a_level_that_is_an_input_has_a_default() -> None:
    network = mlp()
    chosen = levelled(network, LevelWindow(LEVELS, (-np.inf,) * 3, 2, as_input=True))
    feeds = network.feeds()
    assert_equal(run(chosen, feeds), run(chosen, {**feeds, names.LEVEL: np.array(2)}))


def test_a_floor_in_the_table_shuts_its_gate() -> None:
    network = mlp()
    shut = levelled(network, LevelWindow(LEVELS, (np.inf,) * 3, 2))
    assert_equal(run(shut, network.feeds()), run(network.model, network.feeds()))


@pytest.mark.parametrize("table", [((1.0, 2.0),), ((1.0, 2.0, 3.0), (1.0,))])
def test_a_table_of_another_width_is_refused(table: tuple[tuple[float, ...], ...]) -> None:
    found = SURVEYED["mlp"]
    with pytest.raises(ValueError, match="does not fit 3 gates"):
        InjectGates(all_blocks(found), LevelWindow(table, (0.0,) * 3, 0)).apply(found.model)


def test_the_tail_is_copied_not_moved() -> None:
    found = SURVEYED["mlp with tails"]
    for _, then_branch, else_branch in ifs(instrumented(found.model, all_blocks(found))):
        assert [node.op_type for node in then_branch.node].count("Tanh") == 1
        assert [node.op_type for node in else_branch.node].count("Tanh") == 1
    for _, then_branch, _ in ifs(instrumented(found.model, all_blocks(found, "identity"))):
        assert [node.op_type for node in then_branch.node] == ["Identity"]


def test_a_gate_stands_right_behind_the_value_that_it_reads() -> None:
    found = SURVEYED["post"]
    gated = instrumented(found.model, all_blocks(found))
    for region in found.survey.blocks:
        order = [(node.name, list(node.input), list(node.output)) for node in gated.graph.node]
        written = next(i for i, (_, _, outputs) in enumerate(order) if region.entry in outputs)
        decided = next(i for i, (_, _, outputs) in enumerate(order) if names.gate(region.name) in outputs)
        between = [name for name, _, _ in order[written + 1 : decided]]
        assert all(name.startswith(names.gate(region.name)) or name == names.score(region.name) for name in between)


def test_unknown_nodes_are_a_bug_not_a_silent_skip() -> None:
    found = SURVEYED["mlp"]
    first = all_blocks(found)[0]
    wrong = replace(first, region=replace(first.region, nodes=("nowhere",)))
    with pytest.raises(KeyError, match="nowhere"):
        InjectGates((wrong,), InputWindow()).apply(found.model)


@pytest.mark.parametrize("level", [-1, -2])
def test_a_negative_level_means_level_zero(level: int) -> None:
    network = mlp()
    chosen = levelled(network, LevelWindow(LEVELS, (-np.inf,) * 3, 2, as_input=True))
    feeds = network.feeds()
    shut = run(chosen, {**feeds, names.LEVEL: np.array(0, np.int64)})
    bold = run(chosen, {**feeds, names.LEVEL: np.array(2, np.int64)})
    found = run(chosen, {**feeds, names.LEVEL: np.array(level, np.int64)})
    assert any(shut[name].tobytes() != bold[name].tobytes() for name in shut)
    assert all(shut[name].tobytes() == found[name].tobytes() for name in shut)
