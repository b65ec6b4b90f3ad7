"""New nodes: their names, and the form that each opset wants."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from skipc.passes.builder import Builder, Fragment, as_type
from tests.gated import run
from tests.graphs import OPSETS


def as_model(fragment: Fragment, opset: int, output: str) -> onnx.ModelProto:
    """A model of these nodes that reads x, float32 [2, 3, 4]."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 4])
    y = helper.make_tensor_value_info(output, TensorProto.FLOAT, [3])
    graph = helper.make_graph(fragment.nodes, "net", [x], [y], fragment.initializers)
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets))
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("op_type", ["ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum"])
def test_reductions_put_axes_where_the_opset_wants_them(op_type: str, opset: int) -> None:
    builder = Builder("p", opset)
    output = builder.reduce(op_type, "x", [0, 2])
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    expected = getattr(x, op_type.removeprefix("Reduce").lower())(axis=(0, 2))
    found = run(as_model(builder.fragment(), opset, output), {"x": x})[output]
    # Eight float32 numbers near 1 are added, in another order: each addition is off by 6e-8 at most.
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)


def test_all_names_lie_under_the_prefix_and_differ() -> None:
    builder = Builder("p", 17)
    total = builder.op("Add", [builder.op("Mul", ["x", builder.constant([2.0])]), builder.constant([1.0])])
    builder.op("Neg", [total], output="mine")
    fragment = builder.fragment()
    values = [node.output[0] for node in fragment.nodes] + [item.name for item in fragment.initializers]
    assert len(set(values)) == len(values) == 5
    assert {name for name in values if not name.startswith("p/")} == {"mine"}


def test_the_same_calls_give_the_same_bytes() -> None:
    def built() -> list[bytes]:
        builder = Builder("p", 17)
        builder.op("Add", [builder.op("Mul", ["x", builder.constant([2.0])]), builder.constant([1.0])])
        fragment = builder.fragment()
        nodes = [item.SerializeToString() for item in fragment.nodes]
        return nodes + [item.SerializeToString() for item in fragment.initializers]

    assert built() == built()


def test_float32_is_not_cast_again() -> None:
    builder = Builder("p", 17)
    assert builder.to_float32("x", TensorProto.FLOAT) == "x"
    assert builder.to_float32("x", TensorProto.FLOAT16) != "x"


def test_a_constant_keeps_its_values_and_type() -> None:
    builder = Builder("p", 17)
    builder.op("Gather", ["x", builder.constant([1, 0], np.int64, name="index")])
    (index,) = builder.fragment().initializers
    array = numpy_helper.to_array(index)
    assert array.dtype == np.int64
    assert (index.name, array.tolist()) == ("index", [1, 0])


def test_a_transposed_array_is_written_in_its_logical_order() -> None:
    builder = Builder("p", 17)
    values = np.arange(6, dtype=np.float32).reshape(2, 3).T
    builder.op("Add", ["x", builder.constant(values, name="c")])
    np.testing.assert_array_equal(numpy_helper.to_array(builder.fragment().initializers[0]), values)


@pytest.mark.parametrize("elem_type", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_as_type_gives_the_models_element_type(elem_type: int) -> None:
    found = as_type(np.array([0.5, -2.0], np.float32), elem_type)
    assert helper.np_dtype_to_tensor_dtype(found.dtype) == elem_type
    assert found.astype(np.float32).tolist() == [0.5, -2.0]
