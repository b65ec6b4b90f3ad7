"""Write the target shapes of Reshape nodes as constants where they can be.

Exporters compute the shape of a Reshape from the extents of some other value, with a dozen small nodes. ONNX Runtime
folds them away where it sees the whole pattern, which it does not across the border of an `If`. A target that copies
extents of its own input (0 in ONNX) and infers at most one (-1) needs none of them, and holds for any number of rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from skipc.passes.base import copied
from skipc.passes.cut import take
from skipc.passes.flow import Flow, node_inputs
from skipc.passes.normalize import copied_node
from skipc.runtime import names
from skipc.runtime.plan import Array, Dim, Target

COPY, INFER = 0, -1
SMALL = 64
"""Elements of an initializer that may take part in computing a shape; larger ones are weights."""


@dataclass(frozen=True)
class FixTargets:
    """Give Reshape nodes their constant targets, and leave out what computed them and nothing else.

    Attributes:
        targets: by `constant_targets` of the same model.
    """

    targets: tuple[Target, ...]

    def apply(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return the copy that computes the same."""
        model = copied(model)
        nodes = {node.name: node for node in model.graph.node}
        for shape in sorted({target.shape for target in self.targets}):
            model.graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), names.shape(shape)))
        dropped = [nodes[target.node].input[1] for target in self.targets]
        for target in self.targets:
            node = nodes[target.node]
            node.input[1] = names.shape(target.shape)
            kept = [item for item in node.attribute if item.name != "allowzero"]
            del node.attribute[:]
            node.attribute.extend(kept)
        _drop_unread(model.graph, dropped)
        return model


def _drop_unread(graph: onnx.GraphProto, values: Sequence[str]) -> None:
    """Remove the nodes that only these values needed, and their constants: left behind, they bring warnings."""
    fed = {item.name for item in graph.input}
    small = {item.name for item in graph.initializer if sum(item.dims) <= SMALL and item.name not in fed}
    large = {item.name for item in graph.initializer} - small
    producer = {name: node for node in graph.node for name in node.output if name}
    readers = Counter(name for node in graph.node for name in node_inputs(node))
    readers.update(item.name for item in graph.output)
    waiting, gone = list(values), set[str]()
    while waiting:
        name = waiting.pop()
        if readers[name]:
            continue
        node = producer.get(name)
        if node is None:
            gone |= {name} & small
            continue
        read = node_inputs(node)
        last = any(name in large and readers[name] == 1 for name in read)
        if last or node.output[0] in gone or any(readers[name] for name in node.output):
            continue  # Weights stay where `restore` finds them, and so does what reads them.
        gone.update(node.output)
        readers.subtract(read)
        waiting += read
    take(graph.initializer, gone, ())
    left = [copied_node(node) for node in graph.node if node.output[0] not in gone]
    del graph.node[:]
    graph.node.extend(left)


def constant_targets(model: onnx.ModelProto, constants: Mapping[str, Array]) -> tuple[Target, ...]:
    """Constant target shapes of the Reshape nodes that have one.

    Args:
        model: valid; nodes have unique names.
        constants: arrays of initializers and of constant nodes.
    """
    flow = Flow.of(model.graph)
    reshapes = [node for node in model.graph.node if node.op_type == "Reshape" and node.input[1] not in constants]
    if not reshapes:
        return ()
    targets = _Targets(flow, _dims(model), constants)
    found = [(node, targets.of(node)) for node in reshapes]
    return tuple(Target(node.name, shape) for node, shape in found if shape)


def _allows_zero(node: onnx.NodeProto) -> bool:
    return any(item.name == "allowzero" and item.i for item in node.attribute)


@dataclass(frozen=True)
class _Targets:
    flow: Flow
    dims: Mapping[str, tuple[Dim, ...]]
    constants: Mapping[str, Array]

    def of(self, node: onnx.NodeProto) -> tuple[int, ...] | None:
        """The constant target of one Reshape; None where two extents or more stay unknown."""
        before, after = self.dims.get(node.input[0]), self.dims.get(node.output[0])
        if before is None or after is None:
            return None
        asked = self._elements(node.input[1], len(after))
        if asked is None or (_allows_zero(node) and 0 in asked):
            return None
        target = [self._extent(i, before, after, asked[i]) for i in range(len(after))]
        if target.count(None) + target.count(INFER) > 1:
            return None
        return tuple(INFER if extent is None else extent for extent in target)

    def _extent(self, axis: int, before: tuple[Dim, ...], after: tuple[Dim, ...], asked: int | None) -> int | None:
        if asked is not None:
            return asked
        known = after[axis]
        if isinstance(known, int):
            return known if known else None
        same = known is not None and axis < len(before) and before[axis] == known
        return COPY if same else None

    def _elements(self, shape: str, rank: int) -> list[int | None] | None:
        """What is constant in a shape, element by element; None where its parts do not add up to the rank."""
        made_by = self.flow.producer.get(shape)
        if made_by is None or self.flow.nodes[made_by].op_type != "Concat":
            return [None] * rank
        parts = [self._part(name) for name in self.flow.nodes[made_by].input]
        elements = [element for part in parts for element in part]
        return elements if len(elements) == rank else None

    def _part(self, name: str) -> list[int | None]:
        if name in self.constants:
            return [int(value) for value in self.constants[name].reshape(-1)]
        extent = self.dims.get(name, (1,))[0]
        return [None] * (extent if isinstance(extent, int) else 1)


def _dims(model: onnx.ModelProto) -> dict[str, tuple[Dim, ...]]:
    """Shapes by ONNX's own inference with the values of shapes followed; large weights stand by their type alone."""
    skeleton = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    skeleton.graph.name = model.graph.name
    skeleton.graph.node.extend(model.graph.node)
    skeleton.graph.input.extend(model.graph.input)
    skeleton.graph.output.extend(model.graph.output)
    skeleton.graph.value_info.extend(model.graph.value_info)
    fed = {item.name for item in model.graph.input}
    for item in model.graph.initializer:
        if sum(item.dims) <= SMALL:
            skeleton.graph.initializer.append(item)
        elif item.name not in fed:
            skeleton.graph.input.append(helper.make_tensor_value_info(item.name, item.data_type, item.dims))
    graph = _inferred(skeleton).graph
    typed = (*graph.value_info, *graph.input, *graph.output)
    return {item.name: _declared(item) for item in typed if item.type.tensor_type.HasField("shape")}


def _inferred(skeleton: onnx.ModelProto) -> onnx.ModelProto:
    """By ONNX Runtime's symbolic inference, which follows arithmetic on extents; by ONNX's own where that fails."""
    try:
        found = _symbolic(skeleton)
    except Exception:
        found = None
    return found or onnx.shape_inference.infer_shapes(skeleton, data_prop=True)


def _symbolic(skeleton: onnx.ModelProto) -> onnx.ModelProto | None:
    """By ONNX Runtime; None where some shape stays unknown. Its own `infer_shapes` then leaves files behind."""
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

    inference = SymbolicShapeInference(2**31 - 1, True, False, 0)
    inference._preprocess(skeleton)
    complete = False
    while inference.run_:
        complete = inference._infer_impl()
    inference._update_output_from_vi()
    return inference.out_mp_ if complete else None


def _declared(item: onnx.ValueInfoProto) -> tuple[Dim, ...]:
    dims = item.type.tensor_type.shape.dim
    return tuple(int(dim.dim_value) if dim.HasField("dim_value") else (dim.dim_param or None) for dim in dims)
