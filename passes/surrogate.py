"""Write a bypass: from a region's entry value to an approximation of its value at the merge.

x is the entry value with C channels; parameters are float32 and are emitted in the model's element type.

| kind | approximation |
|---|---|
| identity | x, without the region's tail |
| affine | scale * x + shift, per channel |
| low-rank | x + (x · down) · up + shift |
| linear | x · weight + shift |

In channels-first regions the products are 1x1 convolutions.
"""

from __future__ import annotations

import numpy as np

from skipc.passes.builder import Builder, as_type
from skipc.runtime.plan import Array, Bypass, Region

KINDS = ("identity", "affine", "low-rank", "linear")
"""All kinds of bypass, from cheap to dear."""


def write_bypass(builder: Builder, region: Region, bypass: Bypass) -> str:
    """Add the nodes of a bypass, up to the merge, and return the name of their result."""
    arrays = bypass.arrays
    if bypass.kind == "identity":
        return region.entry
    if bypass.kind == "affine":
        scaled = builder.op("Mul", [region.entry, _per_channel(builder, region, arrays["scale"])])
        return builder.op("Add", [scaled, _per_channel(builder, region, arrays["shift"])])
    if bypass.kind == "linear":
        return _product(builder, region, region.entry, arrays["weight"], arrays["shift"])
    narrow = _product(builder, region, region.entry, arrays["down"], None)
    return builder.op("Add", [region.entry, _product(builder, region, narrow, arrays["up"], arrays["shift"])])


def _is_last(region: Region) -> bool:
    return region.channel_axis == len(region.dims) - 1


def _per_channel(builder: Builder, region: Region, values: Array) -> str:
    behind = len(region.dims) - 1 - region.channel_axis
    return builder.constant(*_typed(values.reshape(values.shape + (1,) * behind), region))


def _product(builder: Builder, region: Region, value: str, weight: Array, shift: Array | None) -> str:
    if not _is_last(region):
        return _convolution(builder, region, value, weight, shift)
    product = builder.op("MatMul", [value, builder.constant(*_typed(weight, region))])
    return product if shift is None else builder.op("Add", [product, builder.constant(*_typed(shift, region))])


def _convolution(builder: Builder, region: Region, value: str, weight: Array, shift: Array | None) -> str:
    ones = (1,) * (len(region.dims) - 2)
    kernel = builder.constant(*_typed(weight.T.reshape(weight.shape[::-1] + ones), region))
    bias = [] if shift is None else [builder.constant(*_typed(shift, region))]
    return builder.op("Conv", [value, kernel, *bias], kernel_shape=list(ones))


def _typed(values: Array, region: Region) -> tuple[Array, np.dtype]:
    typed = as_type(values, region.elem_type)
    return typed, typed.dtype
