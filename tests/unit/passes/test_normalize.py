"""Unique node names, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest

from skipc.passes.base import run_passes
from skipc.passes.normalize import Normalize, sort_nodes
from skipc.passes.original import remembered
from skipc.runtime import names
from skipc.runtime.errors import InputError, InternalError
from tests.gated import assert_equal, run
from tests.graphs import mlp


def named(*node_names: str) -> onnx.ModelProto:
    """A model whose first nodes have these names."""
    model = mlp().model
    for node, name in zip(model.graph.node, node_names, strict=False):
        node.name = name
    return model


def test_every_node_gets_a_name_of_its_own() -> None:
    model = Normalize().apply(named("twin", "twin", "", "Relu_4", "", "", "twin"))
    found = [node.name for node in model.graph.node]
    assert len(set(found)) == len(found)
    assert all(found)


def test_names_that_are_unique_already_stay() -> None:
    model = mlp().model
    assert [node.name for node in Normalize().apply(model).graph.node] == [node.name for node in model.graph.node]


def test_a_made_up_name_gives_way_to_the_one_that_came_first() -> None:
    found = Normalize().apply(named("Gemm_2", "add", "")).graph.node
    assert [node.name for node in found][:3] == ["Gemm_2", "add", "Gemm_2_1"]


def test_the_result_computes_the_same() -> None:
    network = mlp()
    feeds = network.feeds()
    assert_equal(run(Normalize().apply(named("", "", "a", "a")), feeds), run(network.model, feeds))


def test_the_given_model_stays_as_it_was() -> None:
    model = named("", "")
    before = model.SerializeToString()
    Normalize().apply(model)
    assert model.SerializeToString() == before


def test_an_old_opset_is_refused_with_a_way_out() -> None:
    model = mlp(opset=11).model
    model.opset_import[0].version = 10
    with pytest.raises(InputError, match="opset 10") as caught:
        Normalize().apply(model)
    assert caught.value.code == "opset-too-old"
    assert "version_converter" in caught.value.hint


def test_the_oldest_opset_passes() -> None:
    assert Normalize().apply(mlp(opset=11).model).opset_import[0].version == 11


def test_a_compiled_model_is_refused() -> None:
    model = mlp().model
    model.metadata_props.add(key=names.PLAN_KEY, value="{}")
    with pytest.raises(InputError) as caught:
        Normalize().apply(model)
    assert caught.value.code == "already-compiled"


def test_reserved_names_are_refused() -> None:
    with pytest.raises(InputError) as caught:
        Normalize().apply(named("skipc/feed-forward.0"))
    assert caught.value.code == "name-taken"


def test_an_old_ir_version_is_lifted_so_that_weights_need_not_be_inputs() -> None:
    model = mlp(opset=11).model
    model.ir_version = 3
    assert Normalize().apply(model).ir_version == 4


def test_nodes_are_sorted() -> None:
    network = mlp()
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in network.model.graph.node]
    model = mlp().model
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    normal = run_passes(model, [Normalize()])
    assert [node.name for node in normal.graph.node] == [node.name for node in network.model.graph.node]


def test_sort_nodes_keeps_the_preferred_order_where_it_may() -> None:
    graph = onnx.GraphProto()
    nodes = [onnx.helper.make_node("Relu", [source], [target], name=target) for source, target in ("ab", "xy", "bc")]
    sort_nodes(graph, [(2.0, nodes[2]), (1.0, nodes[1]), (3.0, nodes[0])])
    assert [node.name for node in graph.node] == ["y", "b", "c"]


def test_sort_nodes_refuses_a_cycle() -> None:
    nodes = [onnx.helper.make_node("Relu", [source], [target]) for source, target in ("ab", "ba")]
    with pytest.raises(ValueError, match="cycle"):
        sort_nodes(onnx.GraphProto(), [(0.0, node) for node in nodes])


class Breaks:
    """A pass that leaves a node without its input."""

    def apply(self, model: onnx.ModelProto) -> onnx.ModelProto:
        broken = onnx.ModelProto()
        broken.CopyFrom(model)
        del broken.graph.node[0]
        return broken


def test_the_pass_that_broke_the_model_is_named_with_those_before_it() -> None:
    with pytest.raises(InternalError, match=r"Breaks failed \(passes before it: Normalize\)") as caught:
        run_passes(mlp().model, [Normalize(), Breaks()])
    assert caught.value.where == "Breaks"


def test_a_refusal_passes_through_as_it_is() -> None:
    model = mlp(opset=11).model
    model.opset_import[0].version = 10
    with pytest.raises(InputError):
        run_passes(model, [Normalize()])


def renamed_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = model.graph.node[0].input[0] = "skipc.x"


def renamed_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = model.graph.node[-1].output[0] = "skipc/y"


def renamed_initializer(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].name = model.graph.node[0].input[1] = "skipc.level"


def renamed_inner_value(model: onnx.ModelProto) -> None:
    body = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["skipc/inner"])],
        "body",
        [],
        [onnx.helper.make_tensor_value_info("skipc/inner", 1, None)],
    )
    flag = onnx.helper.make_tensor("flag", onnx.TensorProto.BOOL, [], [True])
    model.graph.initializer.append(flag)
    model.graph.node.append(onnx.helper.make_node("If", ["flag"], ["chosen"], then_branch=body, else_branch=body))


@pytest.mark.parametrize("rename", [renamed_input, renamed_output, renamed_initializer, renamed_inner_value])
def test_reserved_names_of_values_are_refused(rename: Callable[[onnx.ModelProto], None]) -> None:
    model = mlp().model
    rename(model)
    with pytest.raises(InputError, match="reserved for skipc") as caught:
        Normalize().apply(model)
    assert caught.value.code == "name-taken"
    assert caught.value.where.startswith("skipc")


def test_what_was_changed_is_remembered() -> None:
    model = named("twin", "twin")
    model.graph.node[2].ClearField("name")
    model.ir_version = 3
    found = remembered(Normalize().apply(model))
    assert found.ir_version == 3
    assert found.node_names == {"twin_1": "twin", "Gemm_2": None}
