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
