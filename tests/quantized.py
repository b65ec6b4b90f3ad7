"""The same networks in other number formats, made by ONNX Runtime's own quantizers."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx

from tests.gated import Array
from tests.graphs import Network


def dynamic_int8(
    network: Network, *, per_channel: bool = False, unsigned: bool = False, reduced: bool = False
) -> Network:
    """Weights in 8 bits, activations quantized as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        before, after = (Path(folder) / name for name in ("float.onnx", "int8.onnx"))
        onnx.save(network.model, before)
        quantize_dynamic(
            before,
            after,
            weight_type=QuantType.QUInt8 if unsigned else QuantType.QInt8,
            per_channel=per_channel,
            reduce_range=reduced,
        )
        return Network(onnx.load(after), network.inputs)


def four_bit(network: Network, *, bits: int = 4, symmetric: bool = False, dequantized: bool = False) -> Network:
    """Weights of matrix products in 4 or 8 bits, in blocks of 16 inputs: MatMulNBits, or dequantized for a MatMul."""
    from onnxruntime.quantization import QuantFormat
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    copy = onnx.ModelProto()
    copy.CopyFrom(network.model)
    form = QuantFormat.QDQ if dequantized else QuantFormat.QOperator
    quantizer = MatMulNBitsQuantizer(
        copy, bits=bits, block_size=16, is_symmetric=symmetric, accuracy_level=4, quant_format=form
    )
    quantizer.process()
    return Network(quantizer.model.model, network.inputs)


def static_int8(network: Network, *, per_channel: bool = False) -> Network:
    """Weights and activations in 8 bits between QuantizeLinear and DequantizeLinear, by the ranges of two batches."""
    from onnxruntime.quantization import QuantFormat, quantize_static

    class Reader:
        def __init__(self) -> None:
            self._feeds = iter([network.feeds(batch=4, seed=seed) for seed in (0, 1)])

        def get_next(self) -> dict[str, Array] | None:
            return next(self._feeds, None)

        def set_range(self, *_: int) -> None:
            pass

    with tempfile.TemporaryDirectory() as folder:
        before, after = (Path(folder) / name for name in ("float.onnx", "int8.onnx"))
        onnx.save(network.model, before)
        quantize_static(before, after, Reader(), quant_format=QuantFormat.QDQ, per_channel=per_channel)
        return Network(onnx.load(after), network.inputs)


def optimised(network: Network) -> Network:
    """As ONNX Runtime writes it after its extended optimisations, with operators of its own."""
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        options.log_severity_level = 3
        ort.InferenceSession(network.model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return Network(onnx.load(options.optimized_model_filepath), network.inputs)
