"""Who feeds whom, subgraphs included."""

from __future__ import annotations

import onnx
import pytest
from onnx import parser

from skipc.passes.flow import Flow, captured, members, node_inputs, node_set


def graph(text: str) -> onnx.GraphProto:
    return parser.parse_graph(text)


DIAMOND = graph("""
    diamond (float[N] x, float[N] w) => (float[N] y) <float[1] k = {2}> {
        a = Relu(x)
        b = Mul(a, k)
        c = Neg(k)
        d = Add(b, w)
        unused = Exp(a)
        y = Add(d, c)
    }
""")


@pytest.fixture
def flow() -> Flow:
    return Flow.of(DIAMOND)


def test_a_node_set_gives_its_members_back_in_order() -> None:
    assert list(members(node_set([70, 3, 0]))) == [0, 3, 70]
    assert list(members(0)) == []


def test_reached_from_follows_all_readers_and_nothing_else(flow: Flow) -> None:
    assert list(members(flow.reached_from("a"))) == [1, 3, 4, 5]
    assert list(members(flow.reached_from("w"))) == [3, 5]
    assert list(members(flow.reached_from("y"))) == []


def test_between_is_what_lies_on_a_path_to_the_node(flow: Flow) -> None:
    assert list(members(flow.between("a", 5))) == [1, 3, 5]
    assert list(members(flow.between("w", 1))) == []


def test_ancestors_and_descendants_hold_the_node_itself(flow: Flow) -> None:
    assert list(members(flow.ancestors[3])) == [0, 1, 3]
    assert list(members(flow.descendants[0])) == [0, 1, 3, 4, 5]


def test_what_depends_on_no_input_is_constant(flow: Flow) -> None:
    assert [name for name in ("x", "a", "k", "c", "y") if flow.is_constant(name)] == ["k", "c"]
    assert flow.data_inputs(5) == ("d",)


def test_values_that_leave_are_escaping_unless_they_are_the_exit(flow: Flow) -> None:
    assert flow.escaping(node_set([0, 1]), "other") == ("b",)
    assert flow.escaping(node_set([0, 1, 4]), "b") == ()
    assert flow.escaping(node_set([5]), "other") == ("y",)


def test_a_node_that_no_output_depends_on_is_dead(flow: Flow) -> None:
    assert list(members(flow.useful)) == [0, 1, 2, 3, 5]
    assert list(members(flow.readers("a"))) == [1]
    assert flow.escaping(node_set([0, 1]), "b") == ()


NESTED = graph("""
    nested (bool c, float[N] x, float[N] far) => (float[N] y) {
        own = Relu(x)
        y = If (c) <
            then_branch = outer_then () => (float[N] t) {
                own_t = Neg(own)
                t = If (c) <
                    then_branch = inner_then () => (float[N] s) { s = Add(own_t, far) },
                    else_branch = inner_else () => (float[N] r) { r = Identity(own_t) }
                >
            },
            else_branch = outer_else () => (float[N] e) { e = Identity(x) }
        >
    }
""")


def test_a_node_reads_what_its_subgraphs_capture_at_any_depth() -> None:
    assert set(node_inputs(NESTED.node[1])) == {"c", "own", "far", "x"}


def test_captured_leaves_out_what_a_subgraph_defines_itself() -> None:
    then_branch = NESTED.node[1].attribute[0].g
    assert captured(then_branch) == {"own", "c", "far"}


def test_a_captured_value_counts_as_escaping() -> None:
    flow = Flow.of(NESTED)
    assert list(members(flow.reached_from("own"))) == [1]
    assert flow.escaping(node_set([0]), "") == ("own",)


def test_absent_optional_inputs_are_no_values() -> None:
    assert node_inputs(onnx.helper.make_node("Clip", ["x", "", "top"], ["y"])) == ("x", "top")


def test_an_initializer_listed_as_input_is_constant() -> None:
    old = graph("old (float[N] x, float[1] w) => (float[N] y) <float[1] w = {1}> { y = Mul(x, w) }")
    assert Flow.of(old).is_constant("w")


def test_what_reads_a_shape_depends_on_the_value_but_not_on_what_it_holds() -> None:
    flow = Flow.of(graph("g (float[N] x) => (int64[1] y) { a = Neg(x)  s = Shape(a)  t = Neg(s)  y = Shape(x) }"))
    assert list(members(flow.reached_from("x"))) == [0, 1, 2, 3]
    assert list(members(flow.carries("x"))) == [0]
