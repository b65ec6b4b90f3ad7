"""The same networks in other number formats, made by ONNX Runtime's own quantizers."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx

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


def four_bit(network: Network, *, bits: int = 4, symmetric: bool = False) -> Network:
    """Weights of matrix products in 4 or 8 bits, in blocks of 16 inputs."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    copy = onnx.ModelProto()
    copy.CopyFrom(network.model)
    quantizer = MatMulNBitsQuantizer(copy, bits=bits, block_size=16, is_symmetric=symmetric, accuracy_level=4)
    quantizer.process()
    return Network(quantizer.model.model, network.inputs)
