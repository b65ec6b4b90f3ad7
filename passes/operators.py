"""Operators by what they do: what a region is called, where its features lie, and what may be taken from its values."""

from __future__ import annotations

import onnx

ATTENTION_OPS = frozenset(
    {"Softmax", "Attention", "MultiHeadAttention", "GroupQueryAttention", "QAttention", "PackedAttention"}
)
CONVOLUTION_OPS = frozenset({"Conv", "ConvTranspose", "QLinearConv", "ConvInteger", "FusedConv", "NhwcConv"})
CONTRACTION_OPS = frozenset({"MatMul", "FusedMatMul", "Einsum"})
"""Operators that multiply two matrices, of which attention has two that depend on the input on both sides."""

PRODUCT_OPS = CONTRACTION_OPS | frozenset(
    {
        "DynamicQuantizeMatMul",
        "FusedGemm",
        "Gemm",
        "GemmFastGelu",
        "MatMulBnb4",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "QGemm",
        "QLinearMatMul",
    }
)
"""Operators that multiply by a weight matrix."""

ELEMENTWISE_OPS = frozenset(
    """
    Abs Add Cast Ceil Celu Clip Div Elu Erf Exp FastGelu Gelu HardSigmoid HardSwish Identity LeakyRelu Log Max Min Mish
    Mul Neg Pow QuickGelu Relu Selu Sigmoid Softplus Sqrt Sub Swish Tanh ThresholdedRelu
    """.split()  # noqa: SIM905
)
"""Operators that treat every element by itself."""

MOVING_OPS = frozenset({"DepthToSpace", "Flatten", "Gather", "Reshape", "ReverseSequence", "SpaceToDepth", "Transpose"})
"""Operators behind which a value of the same shape may hold its elements in other places."""

FLOAT_TYPES = frozenset({onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16})
"""Element types that bypasses and gates are written for."""
