"""Break a model: its bytes, or its graph."""

from __future__ import annotations

import random
from collections.abc import Callable

import onnx
from onnx import TensorProto, helper

from skipc.runtime import names


def mutated(data: bytes, chance: random.Random) -> bytes:
    """A broken copy of a model; now and then one that is still valid."""
    if chance.random() < 0.4:
        return _mutated_bytes(data, chance)
    model = onnx.load_from_string(data)
    for _ in range(chance.choice((1, 1, 2, 4))):
        chance.choice(MUTATIONS)(model, chance)
    return bytes(model.SerializeToString())


def _mutated_bytes(data: bytes, chance: random.Random) -> bytes:
    content = bytearray(data)
    kind = chance.randrange(5)
    start = chance.randrange(len(content))
    end = min(len(content), start + chance.choice((1, 4, 64, 1024)))
    if kind == 0:
        return bytes(content[:start])
    if kind == 1:
        del content[start:end]
    elif kind == 2:
        content[start:start] = content[start:end]
    elif kind == 3:
        content[start:end] = chance.randbytes(end - start)
    else:
        for _ in range(chance.choice((1, 3, 10))):
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    return bytes(content)


def _node(model: onnx.ModelProto, chance: random.Random) -> onnx.NodeProto:
    nodes: list[onnx.NodeProto] = list(model.graph.node)
    node: onnx.NodeProto = chance.choice(nodes or [model.graph.node.add()])
    return node


def _values(model: onnx.ModelProto) -> list[str]:
    graph = model.graph
    read = [name for node in graph.node for name in (*node.input, *node.output)]
    return [*read, *(item.name for item in (*graph.initializer, *graph.input, *graph.output)), ""]


def drop_node(model: onnx.ModelProto, chance: random.Random) -> None:
    if model.graph.node:
        del model.graph.node[chance.randrange(len(model.graph.node))]


def repeat_node(model: onnx.ModelProto, chance: random.Random) -> None:
    copy = onnx.NodeProto()
    copy.CopyFrom(_node(model, chance))
    model.graph.node.append(copy)


def shuffle_nodes(model: onnx.ModelProto, chance: random.Random) -> None:
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    chance.shuffle(nodes)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def rewire_input(model: onnx.ModelProto, chance: random.Random) -> None:
    node = _node(model, chance)
    if node.input:
        node.input[chance.randrange(len(node.input))] = chance.choice(_values(model))


def rewire_output(model: onnx.ModelProto, chance: random.Random) -> None:
    node = _node(model, chance)
    if node.output:
        node.output[chance.randrange(len(node.output))] = chance.choice(_values(model))


def another_input(model: onnx.ModelProto, chance: random.Random) -> None:
    _node(model, chance).input.append(chance.choice(_values(model)))


def fewer_inputs(model: onnx.ModelProto, chance: random.Random) -> None:
    node = _node(model, chance)
    del node.input[chance.randrange(len(node.input) + 1) :]


def no_outputs(model: onnx.ModelProto, chance: random.Random) -> None:
    del _node(model, chance).output[:]


def other_operator(model: onnx.ModelProto, chance: random.Random) -> None:
    operators = ("Relu", "Add", "Shape", "If", "Loop", "Split", "MatMul", "NoSuch", "", "Conv", "Reshape", "Dropout")
    _node(model, chance).op_type = chance.choice(operators)


def other_domain(model: onnx.ModelProto, chance: random.Random) -> None:
    _node(model, chance).domain = chance.choice(("com.example", "com.microsoft", "ai.onnx.ml"))


def other_attribute(model: onnx.ModelProto, chance: random.Random) -> None:
    node = _node(model, chance)
    name = chance.choice([item.name for item in node.attribute] or ["axis"])
    kept = [item for item in node.attribute if item.name != name]
    values: tuple[object, ...] = (-1, 0, 2**40, [0], [-3, 7], [], "text", 0.5, float("nan"))
    value = chance.choice(values)
    new = helper.make_attribute(name, value, attr_type=onnx.AttributeProto.INTS if value == [] else None)
    del node.attribute[:]
    node.attribute.extend([*kept, new])


def other_weight_shape(model: onnx.ModelProto, chance: random.Random) -> None:
    if model.graph.initializer:
        item = chance.choice(model.graph.initializer)
        del item.dims[:]
        item.dims.extend(chance.choice(([], [0], [3], [2, 2], [-1], [2**62, 4], [1] * 9)))


def other_weight_type(model: onnx.ModelProto, chance: random.Random) -> None:
    if model.graph.initializer:
        chance.choice(model.graph.initializer).data_type = chance.choice((0, 1, 7, 8, 10, 16, 22, 99))


def other_weight_data(model: onnx.ModelProto, chance: random.Random) -> None:
    if model.graph.initializer:
        item = chance.choice(model.graph.initializer)
        item.raw_data = chance.randbytes(chance.choice((0, 1, len(item.raw_data))))


def far_weight(model: onnx.ModelProto, chance: random.Random) -> None:
    if model.graph.initializer:
        item = chance.choice(model.graph.initializer)
        item.data_location = TensorProto.EXTERNAL
        location = chance.choice(("missing.bin", "../up.bin", "/etc/hostname", "", "."))
        item.external_data.add(key="location", value=location)
        item.external_data.add(key="offset", value=chance.choice(("0", "-1", "x")))


def drop_weight(model: onnx.ModelProto, chance: random.Random) -> None:
    if model.graph.initializer:
        del model.graph.initializer[chance.randrange(len(model.graph.initializer))]


def other_input_type(model: onnx.ModelProto, chance: random.Random) -> None:
    if model.graph.input:
        tensor = chance.choice(model.graph.input).type.tensor_type
        tensor.elem_type = chance.choice((0, 1, 7, 8, 10, 11, 14))
        if tensor.shape.dim and chance.random() < 0.5:
            chance.choice(tensor.shape.dim).dim_value = chance.choice((-5, 0, 1, 1000))
        elif chance.random() < 0.3:
            tensor.ClearField("shape")


def other_output(model: onnx.ModelProto, chance: random.Random) -> None:
    if model.graph.output:
        chance.choice(model.graph.output).name = chance.choice(_values(model))


def no_signature(model: onnx.ModelProto, chance: random.Random) -> None:
    del (model.graph.input if chance.random() < 0.5 else model.graph.output)[:]


def other_opset(model: onnx.ModelProto, chance: random.Random) -> None:
    if model.opset_import and chance.random() < 0.8:
        model.opset_import[0].version = chance.choice((-1, 0, 6, 10, 11, 99, 2**40))
    else:
        del model.opset_import[:]


def other_version(model: onnx.ModelProto, chance: random.Random) -> None:
    model.ir_version = chance.choice((-1, 0, 1, 3, 50, 2**40))


def reserved_name(model: onnx.ModelProto, chance: random.Random) -> None:
    _node(model, chance).name = chance.choice(("skipc/a", "skipc.", "\0", "a" * 5000, "Ünï"))


def other_plan(model: onnx.ModelProto, chance: random.Random) -> None:
    key = chance.choice((names.PLAN_KEY, names.ORIGINAL_KEY, "other"))
    found = [item for item in model.metadata_props if item.key == key] or [model.metadata_props.add(key=key)]
    text = found[0].value
    cut = chance.randrange(len(text) + 1)
    found[0].value = chance.choice(("", "{}", "[]", "null", text[:cut], text[:cut] + "9" + text[cut:]))


MUTATIONS: tuple[Callable[[onnx.ModelProto, random.Random], None], ...] = (
    drop_node,
    repeat_node,
    shuffle_nodes,
    rewire_input,
    rewire_input,
    rewire_output,
    another_input,
    fewer_inputs,
    no_outputs,
    other_operator,
    other_domain,
    other_attribute,
    other_weight_shape,
    other_weight_type,
    other_weight_data,
    far_weight,
    drop_weight,
    other_input_type,
    other_output,
    no_signature,
    other_opset,
    other_version,
    reserved_name,
    other_plan,
)
