"""Other forms of the same network: number formats, fused graphs, optimised graphs, other opsets."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import version_converter

from skipc.compiler.data import input_specs
from skipc.compiler.extents import guesses
from skipc.passes.external import tensors

Convert = Callable[[onnx.ModelProto], onnx.ModelProto]


def through_files(step: Callable[[Path, Path], None], model: onnx.ModelProto) -> onnx.ModelProto:
    """Let a tool that works on files change a model."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        onnx.save(model, before)
        step(before, after)
        return onnx.load(after)


def float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """ONNX Runtime's converter, inputs and outputs kept."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return convert_float_to_float16(_copied(model), keep_io_types=True)


NORMALISING = ["LayerNormalization", "ReduceMean", "Pow", "Sqrt", "Softmax", "Div"]
"""What mixed precision leaves in float32."""


def mixed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Float16 but for normalisations and softmax, between casts."""
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    kept = [*DEFAULT_OP_BLOCK_LIST, *NORMALISING]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return convert_float_to_float16(_copied(model), keep_io_types=True, op_block_list=kept)


def bfloat16(model: onnx.ModelProto) -> onnx.ModelProto:
    """What is float16 after ONNX Runtime's converter in bfloat16 instead; inputs and outputs kept."""
    return _as_bfloat16(float16(at_opset(22)(model)))


def mixed_bfloat16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Bfloat16 but for normalisations and softmax, between casts."""
    return _as_bfloat16(mixed(at_opset(22)(model)))


def _as_bfloat16(model: onnx.ModelProto) -> onnx.ModelProto:
    half, brain = onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16
    dtype = onnx.helper.tensor_dtype_to_np_dtype(brain)
    for tensor in tensors(model.graph):
        if tensor.data_type == half:
            array = onnx.numpy_helper.to_array(tensor).astype(np.float32).astype(dtype)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    for node in model.graph.node:
        for item in node.attribute:
            if item.name in ("to", "dtype") and item.i == half:
                item.i = brain
    del model.graph.value_info[:]
    return model


def dynamic_int8(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights in 8 bits, activations quantized as they come."""
    from onnxruntime.quantization import quantize_dynamic

    return through_files(quantize_dynamic, model)


def dynamic_int8_of_products(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same for matrix products alone."""
    from onnxruntime.quantization import quantize_dynamic

    return through_files(partial(quantize_dynamic, op_types_to_quantize=["MatMul", "Gemm"]), model)


class MadeUp:
    """Calibration data for the static quantizer: the same that skipc probes with."""

    def __init__(self, model: onnx.ModelProto) -> None:
        inputs = input_specs(model)
        guess = next(guesses(inputs))
        self._feeds: Iterator[Mapping[str, Any]] = iter([guess.feeds(inputs, batch=1, seed=seed) for seed in (0, 1)])

    def get_next(self) -> Mapping[str, Any] | None:
        """The next batch."""
        return next(self._feeds, None)

    def set_range(self, *_: int) -> None:
        """Part of the interface."""


def static_int8(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights and activations in 8 bits between QuantizeLinear and DequantizeLinear."""
    from onnxruntime.quantization import QuantFormat, quantize_static

    return through_files(
        lambda before, after: quantize_static(before, after, MadeUp(model), quant_format=QuantFormat.QDQ), model
    )


def newer_static_int8(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same in the newer opset, whose DequantizeLinear onnx.reference knows."""
    return static_int8(at_opset(21)(model))


def operators_int8(model: onnx.ModelProto) -> onnx.ModelProto:
    """Operators on 8-bit values, whose residual stream is 8 bits wide too."""
    from onnxruntime.quantization import QuantFormat, quantize_static

    def step(before: Path, after: Path) -> None:
        quantize_static(before, after, MadeUp(model), quant_format=QuantFormat.QOperator)

    # The quantizer stumbles over Identity nodes that exporters leave behind.
    return through_files(step, slimmed(model))


def four_bit(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights of matrix products in 4 bits (MatMulNBits)."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(_copied(model), block_size=16)
    quantizer.process()
    return quantizer.model.model


def four_bit_between(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights in 4 bits behind DequantizeLinear, as ONNX itself has them from opset 21."""
    from onnxruntime.quantization import QuantFormat
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    # Of an older opset it raises the number alone, and what has changed since is wrong then.
    newer, products = at_opset(21)(model), ("MatMul",)
    quantizer = MatMulNBitsQuantizer(newer, block_size=16, quant_format=QuantFormat.QDQ, op_types_to_quantize=products)
    quantizer.process()
    return quantizer.model.model


def optimized_dynamic_int8(model: onnx.ModelProto) -> onnx.ModelProto:
    """Dynamic int8 as ONNX Runtime's own optimisations leave it, in operators of com.microsoft."""

    def step(before: Path, after: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(after)
        onnxruntime.InferenceSession(str(before), options, providers=["CPUExecutionProvider"])

    return through_files(step, dynamic_int8(model))


def fixed(model: onnx.ModelProto) -> onnx.ModelProto:
    """With an extent in place of every name, as compilers for accelerators want it."""
    from onnxruntime.tools.onnx_model_utils import make_dim_param_fixed

    model = _copied(model)
    names = {dim.dim_param for item in model.graph.input for dim in item.type.tensor_type.shape.dim if dim.dim_param}
    for name in sorted(names):
        make_dim_param_fixed(model.graph, name, 1 if name == "batch" else 6)
    return model


def fused(kind: str) -> Convert:
    """ONNX Runtime's optimiser for transformers."""

    def convert(model: onnx.ModelProto) -> onnx.ModelProto:
        from onnxruntime.transformers.optimizer import optimize_model

        def step(before: Path, after: Path) -> None:
            optimize_model(str(before), kind, num_heads=4, hidden_size=32).save_model_to_file(str(after))

        return through_files(step, model)

    return convert


def slimmed(model: onnx.ModelProto) -> onnx.ModelProto:
    """After onnxslim."""
    import onnxslim

    return onnxslim.slim(_copied(model))


def simplified(model: onnx.ModelProto) -> onnx.ModelProto:
    """After onnxsim."""
    import onnxsim

    return onnxsim.simplify(_copied(model))[0]


def at_opset(version: int) -> Convert:
    """Converted to another opset."""

    def convert(model: onnx.ModelProto) -> onnx.ModelProto:
        return version_converter.convert_version(model, version)

    return convert


def with_constant_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights in Constant nodes instead of initializers."""
    model = _copied(model)
    constants = [onnx.helper.make_node("Constant", [], [item.name], value=item) for item in model.graph.initializer]
    nodes = [*constants, *model.graph.node]
    _replace(model.graph.node, nodes)
    del model.graph.initializer[:]
    return model


def with_types(model: onnx.ModelProto) -> onnx.ModelProto:
    """With the type of every value written down."""
    return onnx.shape_inference.infer_shapes(model)


def with_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every Relu a call of a local function."""
    model = _copied(model)
    body = [onnx.helper.make_node("Relu", ["x"], ["y"])]
    function = onnx.helper.make_function("local", "Rectify", ["x"], ["y"], body, model.opset_import)
    model.functions.append(function)
    model.opset_import.append(onnx.helper.make_opsetid("local", 1))
    model.ir_version = max(model.ir_version, 8)
    for node in model.graph.node:
        if node.op_type == "Relu":
            node.op_type, node.domain = "Rectify", "local"
    return model


def with_control_flow(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every Relu inside an `If` on its input's mean, whose branches capture it."""
    model = _copied(model)
    nodes: list[onnx.NodeProto] = []
    for position, node in enumerate(model.graph.node):
        nodes += _chosen(node, position) if node.op_type == "Relu" else [node]
    _replace(model.graph.node, nodes)
    zero = onnx.numpy_helper.from_array(np.zeros((), np.float32), "zero")
    model.graph.initializer.append(zero)
    del model.graph.value_info[:]
    return model


def _chosen(node: onnx.NodeProto, position: int) -> list[onnx.NodeProto]:
    mean, flag = f"mean_{position}", f"flag_{position}"
    branches = {}
    for name, op_type in (("then_branch", "Relu"), ("else_branch", "Abs")):
        output = f"{name}_{position}"
        inner = onnx.helper.make_node(op_type, [node.input[0]], [output])
        branches[name] = onnx.helper.make_graph([inner], name, [], [_float(output)])
    return [
        onnx.helper.make_node("ReduceMean", [node.input[0]], [mean], keepdims=0),
        onnx.helper.make_node("Less", ["zero", mean], [flag]),
        onnx.helper.make_node("If", [flag], list(node.output), **branches),
    ]


def with_loops(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every Relu inside a `Loop` of one turn that carries its value."""
    model = _copied(model)
    nodes = [_looped(node, place) if node.op_type == "Relu" else node for place, node in enumerate(model.graph.node)]
    _replace(model.graph.node, nodes)
    once = onnx.numpy_helper.from_array(np.array(1, np.int64), "once")
    model.graph.initializer.append(once)
    del model.graph.value_info[:]
    return model


def _looped(node: onnx.NodeProto, place: int) -> onnx.NodeProto:
    turn, go, carried, still, after = (f"{name}_{place}" for name in ("turn", "go", "carried", "still", "after"))
    inside = [onnx.helper.make_node("Identity", [go], [still]), onnx.helper.make_node("Relu", [carried], [after])]
    integer, boolean = onnx.TensorProto.INT64, onnx.TensorProto.BOOL
    body = onnx.helper.make_graph(
        inside,
        f"body_{place}",
        [_scalar(turn, integer), _scalar(go, boolean), _float(carried)],
        [_scalar(still, boolean), _float(after)],
    )
    return onnx.helper.make_node("Loop", ["once", "", node.input[0]], list(node.output), body=body)


def with_scans(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every Relu inside a `Scan` over the batch."""
    model = _copied(model)
    nodes = [_scanned(node, place) if node.op_type == "Relu" else node for place, node in enumerate(model.graph.node)]
    _replace(model.graph.node, nodes)
    del model.graph.value_info[:]
    return model


def _scanned(node: onnx.NodeProto, place: int) -> onnx.NodeProto:
    row, after = f"row_{place}", f"after_{place}"
    inside = [onnx.helper.make_node("Relu", [row], [after])]
    body = onnx.helper.make_graph(inside, f"body_{place}", [_float(row)], [_float(after)])
    return onnx.helper.make_node("Scan", [node.input[0]], list(node.output), body=body, num_scan_inputs=1)


def _scalar(name: str, elem_type: int) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, elem_type, [])


def _float(name: str) -> onnx.ValueInfoProto:
    """A value of which only the element type is known."""
    found = onnx.ValueInfoProto(name=name)
    found.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return found


def _copied(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _replace(field: Any, items: Iterable[Any]) -> None:
    copies = [type(item).FromString(item.SerializeToString()) for item in items]
    del field[:]
    field.extend(copies)
