"""Random residual networks: nested, branching, with shared weights, odd names, unused values and mixed tails.

Their values leave through outputs, through concatenations far behind, and into nodes that nobody uses.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import strategies as st
from onnx import TensorProto

from tests.graphs import OPSETS, Net, Network, with_node_constants

STEMS = ("", "Mul", "Add", "tail", "const", "a/b", "x.1", "skip", "Ünïcode", "If", "MatMul_2")
UNARY = ("Relu", "Tanh", "Neg", "Sigmoid", "Identity")
INSIDE = ("heavy", "unary", "residual", "fork", "unused", "leave", "excite", "keep", "mixed")
TAILS = ("Relu", "Tanh", "scale", "norm", "swish", "branch")


@dataclass
class _Writer:
    """Draws one network, value by value."""

    draw: st.DrawFn
    net: Net
    layout: str
    width: int = 4
    shared: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def chance(self, share: float) -> bool:
        return self.draw(st.integers(0, 99)) < 100 * share

    def op(self, op_type: str, *inputs: str, **attrs: object) -> str:
        stem = self.draw(st.sampled_from(STEMS))
        output = f"{stem}_{len(self.net.nodes)}" if stem else ""
        name = self.draw(st.sampled_from(("", "twin", f"{op_type}_{len(self.net.nodes)}")))
        return self.net.node(op_type, *inputs, output=output, name=name, **attrs)

    def matrix(self) -> str:
        if self.shared and self.chance(0.2):
            return self.draw(st.sampled_from(self.shared))
        by_kernel = self.layout in ("images", "channels last")
        shape = (self.width, self.width, 1, 1) if by_kernel else (self.width, self.width)
        weight = self.net.weight(*shape, scale=0.5)
        self.shared.append(weight)
        return weight

    def heavy(self, value: str) -> str:
        if self.layout == "channels last":
            first = self.op("Transpose", value, perm=[0, 3, 1, 2])
            return self.op("Transpose", self.op("Conv", first, self.matrix()), perm=[0, 2, 3, 1])
        return self.op("Conv" if self.layout == "images" else "MatMul", value, self.matrix())

    def inside(self, value: str, depth: int) -> str:
        """What a residual branch computes."""
        for _ in range(self.draw(st.integers(1, 3))):
            kind = self.draw(st.sampled_from(INSIDE))
            if kind == "unary":
                value = self.op(self.draw(st.sampled_from(UNARY)), value)
            elif kind == "residual" and depth:
                value = self.residual(value, depth - 1)
            elif kind == "fork":
                value = self.op("Mul", self.heavy(value), self.op("Sigmoid", value))
            elif kind == "unused":
                self.unused(value)
            elif kind == "excite":
                value = self.op("Mul", value, self.op("Sigmoid", self.heavy(self.op("Tanh", value))))
            elif kind == "keep" and self.chance(0.5):
                self.kept.append(value)
            elif kind == "mixed" and self.kept:
                value = self.op("Sub", value, self.draw(st.sampled_from(self.kept)))
            elif kind == "leave" and self.chance(0.2):
                self.outputs.append(value)
            else:
                value = self.heavy(value)
        return value

    def unused(self, value: str) -> None:
        """Nodes that nobody uses, with and without weights and what else was kept."""
        value = self.heavy(value) if self.chance(0.3) else self.op("Neg", value)
        if self.kept and self.chance(0.3):
            self.op("Add", value, self.draw(st.sampled_from(self.kept)))

    def residual(self, value: str, depth: int) -> str:
        """A value that meets a function of itself, with a tail behind."""
        inner = self.inside(value, depth)
        operands = [value, inner] if self.chance(0.5) else [inner, value]
        merged = self.op("Add", *operands)
        for _ in range(self.draw(st.integers(0, 2))):
            merged = self.tail(merged)
        if self.chance(0.1):
            self.unused(merged)
        return merged

    def tail(self, value: str) -> str:
        kind = self.draw(st.sampled_from(TAILS))
        if kind == "scale":
            return self.op("Mul", value, self.net.constant(0.75))
        if kind == "norm":
            return self.op("Sub", value, self.net.mean(value, [1]))
        if kind == "swish":
            return self.op("Mul", value, self.op("Sigmoid", value))
        if kind == "branch":
            return self.op("Add", self.op("Tanh", value), self.op("Neg", value))
        return self.op(kind, value)


LAYOUTS: dict[str, tuple[int | str, ...]] = {
    "rows": ("batch", 4),
    "tokens": ("batch", "length", 4),
    "images": ("batch", 4, 3, 3),
    "channels last": ("batch", 3, 3, 4),
}
"""Shapes of all values but those with their channels moved."""


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """A random network over one of the layouts."""
    layout = draw(st.sampled_from(sorted(LAYOUTS)))
    net = Net(draw(st.sampled_from(OPSETS)), seed=draw(st.integers(0, 9)))
    writer = _Writer(draw, net, layout)
    dims = LAYOUTS[layout]
    value = writer.heavy("x") if writer.chance(0.5) else "x"
    for _ in range(draw(st.integers(1, 3))):
        value = writer.residual(value, depth=2)
    net.node("Identity", value, output="y")
    outputs = [name for name in dict.fromkeys(writer.outputs) if name not in ("x", "y")]
    written = [net.tensor(name, *dims, elem_type=TensorProto.FLOAT) for name in ("y", *outputs)]
    network = net.network([net.tensor("x", *dims)], written)
    held = [item.name for item in network.model.graph.initializer if writer.chance(0.2)]
    return with_node_constants(network, held)
