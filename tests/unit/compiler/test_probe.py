"""Dimensions are fixed, named or unknown, by inference and by runs together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from skipc.compiler.data import Dataset, input_specs
from skipc.compiler.probe import probe_feeds, probe_types
from skipc.passes.candidate import ValueType
from skipc.runtime.errors import InputError
from skipc.runtime.plan import Array
from tests.graphs import Net, Network, conv_net, mlp, transformer


def types_of(network: Network, sizes: Sequence[tuple[int, int]] = ((1, 4), (2, 5))) -> dict[str, ValueType]:
    return probe_types(network.model, [network.feeds(batch=batch, length=length) for batch, length in sizes])


def reshaped() -> Network:
    """Its inner dimensions pass through a Reshape whose shape is computed, behind which inference knows nothing."""
    net = Net()
    shape = net.node("Shape", "x")
    net.node("Reshape", net.node("Reshape", "x", net.constant([-1])), shape, output="y")
    return net.network([net.tensor("x", "batch", "length", 3)], [net.tensor("y", None, None, None)])


def test_names_are_found_again_behind_a_reshape() -> None:
    assert types_of(reshaped())["y"].dims == ("batch", "length", 3)


def test_extents_that_vary_with_no_named_dimension_are_unknown() -> None:
    assert types_of(reshaped())["v1"].dims == (None,)


def test_extents_that_never_vary_are_fixed() -> None:
    assert types_of(reshaped(), [(1, 4), (2, 4)])["y"].dims == ("batch", 4, 3)


def test_a_batch_that_never_varies_is_still_the_batch() -> None:
    assert types_of(reshaped(), [(1, 4), (1, 5)])["y"].dims == ("batch", "length", 3)


def test_names_that_inference_makes_up_are_not_used() -> None:
    dims = {dim for item in types_of(transformer()).values() for dim in item.dims}
    assert {dim for dim in dims if isinstance(dim, str)} == {"batch", "length"}


def test_all_values_have_a_type() -> None:
    network = transformer()
    found = types_of(network)
    written = {name for node in network.model.graph.node for name in node.output}
    assert found.keys() == written | {"ids", "attention_mask"}


@pytest.mark.parametrize("elem_type", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_element_types(elem_type: int) -> None:
    found = types_of(mlp(elem_type=elem_type))
    assert found["x"] == ValueType(elem_type, ("batch", 6))
    assert found["y"] == ValueType(elem_type, ("batch", 3))


def test_shapes_are_integers() -> None:
    assert types_of(reshaped())["v0"] == ValueType(TensorProto.INT64, (3,))


def test_values_that_are_no_tensors_have_no_type() -> None:
    net = Net()
    sequence = net.node("SequenceConstruct", "x", "x")
    net.node("SequenceAt", sequence, net.constant(0), output="y")
    network = net.network([net.tensor("x", "batch", 3)], [net.tensor("y", "batch", 3)])
    assert types_of(network).keys() == {"x", "y"}


def test_a_rank_that_varies_is_no_type() -> None:
    net = Net()
    net.node("Reshape", "x", "shape", output="y")
    shape = helper.make_tensor_value_info("shape", TensorProto.INT64, ["rank"])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(net.nodes, "net", [net.tensor("x", 4), shape], [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    feeds = [{"x": np.zeros(4, np.float32), "shape": np.array(dims)} for dims in ([4], [2, 2])]
    assert "y" not in probe_types(model, feeds)


def dataset(samples: Sequence[dict[str, Array]]) -> Dataset:
    return Dataset("data", "digest", tuple(samples), None)


def test_feeds_from_data_differ_in_batch_and_length() -> None:
    network = transformer()
    data = dataset([network.feeds(batch=1, length=6, seed=seed) for seed in range(4)])
    first, second = probe_feeds(network.model, input_specs(network.model), data)
    assert first["ids"].shape[0] == 1
    assert second["ids"].shape[0] == 2
    assert first["ids"].shape[1] != second["ids"].shape[1]


def test_feeds_made_up_fit_the_model() -> None:
    for network in (transformer(), conv_net(), mlp()):
        first, second = probe_feeds(network.model, input_specs(network.model), None)
        assert [len(feeds[network.inputs[0].name]) for feeds in (first, second)] == [1, 2]
        probe_types(network.model, [first, second])


def test_a_fixed_length_is_left_alone() -> None:
    network = conv_net()
    data = dataset([network.feeds(batch=1, seed=seed) for seed in range(3)])
    first, second = probe_feeds(network.model, input_specs(network.model), data)
    assert (first["image"].shape, second["image"].shape) == ((1, 3, 6, 6), (2, 3, 6, 6))


def picky() -> onnx.ModelProto:
    """Runs only on rows of 5, though it declares any length."""
    net = Net()
    net.node("MatMul", "x", net.node("Identity", net.weight(5, 2)), output="y")
    graph = helper.make_graph(
        net.nodes, "net", [net.tensor("x", "batch", "length")], [net.tensor("y", "batch", 2)], net.initializers
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_data_that_fits_one_length_only_is_fed_as_it_is() -> None:
    data = dataset([{"x": np.zeros((1, 5), np.float32)}] * 2)
    first, second = probe_feeds(picky(), input_specs(picky()), data)
    assert (first["x"].shape, second["x"].shape) == ((1, 5), (2, 5))


def test_a_model_that_runs_on_nothing_made_up_asks_for_data() -> None:
    with pytest.raises(InputError) as caught:
        probe_feeds(picky(), input_specs(picky()), None)
    assert caught.value.code == "model-unrunnable"
    assert "--data" in caught.value.hint


def test_data_that_the_model_does_not_stand_is_an_error_of_input() -> None:
    with pytest.raises(InputError) as caught:
        probe_feeds(picky(), input_specs(picky()), dataset([{"x": np.zeros((1, 4), np.float32)}] * 2))
    assert caught.value.code == "model-unrunnable"


def cached_decoder() -> Network:
    """Adds what is new to a cache and masks the whole: runs only on extents that fit each other."""
    net = Net()
    grown = net.node("Concat", "past", "x", axis=1, output="present")
    mask = net.node("Unsqueeze", net.node("Cast", "mask", to=TensorProto.FLOAT), net.constant([2]))
    net.node("Mul", grown, mask, output="y")
    inputs = [
        net.tensor("x", "batch", "length", 4),
        net.tensor("past", "batch", "past_length", 4),
        net.tensor("mask", "batch", "total_length", elem_type=TensorProto.INT64),
    ]
    return net.network(inputs, [net.tensor(name, "batch", "total_length", 4) for name in ("present", "y")])


def test_a_mask_covers_the_cache_and_what_is_new() -> None:
    model = cached_decoder().model
    first, second = probe_feeds(model, input_specs(model), None)
    assert [first[name].shape[1] for name in ("x", "past", "mask")] == [8, 11, 19]
    assert [second[name].shape[1] for name in ("x", "past", "mask")] == [9, 13, 22]
    assert probe_types(model, [first, second])["present"].dims == ("batch", "total_length", 4)


def test_where_extents_must_be_even_the_second_run_has_twice_as_much() -> None:
    net = Net()
    halves = net.node("Reshape", "x", net.constant([0, 2, -1, 3]))
    net.node("Identity", halves, output="y")
    model = net.network([net.tensor("x", "batch", "length", 3)], [net.tensor("y", "batch", 2, None, 3)]).model
    first, second = probe_feeds(model, input_specs(model), None)
    assert (first["x"].shape, second["x"].shape) == ((1, 8, 3), (2, 16, 3))


def test_where_extents_are_what_they_are_the_batch_varies_alone() -> None:
    net = Net()
    net.node("Reshape", "x", net.constant([-1, 24]), output="y")
    fixed = net.node("Add", "y", net.weight(24))
    net.node("Identity", fixed, output="z")
    net.node("Add", "x", net.weight(8, 3), output="w")
    outputs = [net.tensor("z", None, 24), net.tensor("w", "batch", 8, 3)]
    model = net.network([net.tensor("x", "batch", "length", 3)], outputs).model
    first, second = probe_feeds(model, input_specs(model), None)
    assert (first["x"].shape, second["x"].shape) == ((1, 8, 3), (2, 8, 3))
