"""Along which axis features lie, traced back from a convolution."""

from __future__ import annotations

import pytest
from onnx import TensorProto, parser

from skipc.passes.candidate import ValueType
from skipc.passes.flow import Flow, node_set
from skipc.passes.layout import channel_axis

IMAGE = ("batch", 6, 6, 8)
Dims = tuple[int | str | None, ...]


def traced(body: str, **dims: Dims) -> int:
    """The axis of x, given the shapes of values."""
    flow = Flow.of(parser.parse_graph(f"g (float[N] x, float[N] k) => (float[N] y) {{ {body} }}"))
    types = {name: ValueType(TensorProto.FLOAT, shape) for name, shape in dims.items()}
    return channel_axis(flow, types, "x", node_set(range(len(flow.nodes))))


@pytest.mark.parametrize(
    ("body", "dims", "expected"),
    [
        ("y = Conv(x, k)", {"x": ("batch", 8, 6, 6)}, 1),
        ("y = MatMul(x, k)", {"x": ("batch", 8, 6, 6)}, 3),
        ("t = Transpose<perm=[0,3,1,2]>(x)  y = Conv(t, k)", {"x": IMAGE, "t": ("batch", 8, 6, 6)}, 3),
        ("t = Transpose(x)  y = Conv(t, k)", {"x": ("batch", 8, 6), "t": (6, 8, "batch")}, 1),
        ("r = Relu(x)  y = Conv(r, k)", {"x": ("batch", 8, 6, 6), "r": ("batch", 8, 6, 6)}, 1),
        ("r = Reshape(x, k)  y = Conv(r, k)", {"x": ("batch", 8, 36), "r": ("batch", 8, 6, 6)}, 1),
        ("y = NhwcConv(x, k)", {"x": IMAGE}, 3),
    ],
)
def test_the_way_back_to_the_entry_is_followed(body: str, dims: dict[str, Dims], expected: int) -> None:
    assert traced(body, **dims) == expected


@pytest.mark.parametrize(
    ("shape", "expected"),
    [(("batch", 8, 6, 6), 1), (("batch", "length", 8), 2), (("batch", None, 6, 8), 3), (("batch", 8, "length"), 1)],
)
def test_where_the_way_is_lost_the_usual_axis_is_taken_if_its_extent_is_fixed(shape: Dims, expected: int) -> None:
    assert traced("r = Reshape(x, k)  y = Conv(r, k)", x=shape, r=("batch", 3, 3)) == expected
