"""Write a bypass: from a region's entry value to an approximation of its value at the merge.

x is the entry value with C channels; parameters are float32 and are emitted in the model's element type.

| kind | approximation |
|---|---|
| identity | x, without the region's tail |
| affine | scale * x + shift, per channel |
| low-rank | x + (x · down) · up + shift |
| linear | x · weight + shift |
| narrow | x · weight + h · down + shift, h being what is left of the block's own hidden layer |
| int8 | the block itself with its products in 8 bits (`passes.eight_bits`) |

In channels-first regions the products are 1x1 convolutions. Where the region multiplies in 8 bits or less, so does its
bypass; the identity in a weight is then added in float, so that only what it leaves is quantized.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from skipc.passes.builder import Builder, as_type
from skipc.passes.products import Form
from skipc.runtime import names
from skipc.runtime.plan import Array, Bypass, Region

KINDS = ("identity", "affine", "low-rank", "linear", "narrow", "int8")
"""All kinds of bypass, from cheap to dear."""


@dataclass(frozen=True)
class Formats:
    """How the region's own products are written; None in float.

    Attributes:
        entry: products of the entry value itself.
        hidden: the last projection.
    """

    entry: Form | None = None
    hidden: Form | None = None


def write_bypass(
    builder: Builder, region: Region, bypass: Bypass, hidden: str = "", formats: Formats = Formats()
) -> str:
    """Add the nodes of a bypass, up to the merge, and return the name of their result: `names.merged` or the entry.

    Args:
        builder: collects the nodes.
        region: whose entry value is read.
        bypass: what to write.
        hidden: name of the kept hidden activations of a narrow bypass.
        formats: of the region's own products.
    """
    arrays, merged = bypass.arrays, names.merged(region.name)
    if bypass.kind == "identity":
        return region.entry
    if bypass.kind == "affine":
        scaled = builder.op("Mul", [region.entry, _per_channel(builder, region, arrays["scale"])])
        return builder.op("Add", [scaled, _per_channel(builder, region, arrays["shift"])], output=merged)
    if bypass.kind == "linear":
        return _direct(builder, region, arrays["weight"], arrays["shift"], formats.entry, merged)
    if bypass.kind == "narrow":
        return _narrow(builder, region, arrays, hidden, formats)
    narrow = _product(builder, region, region.entry, arrays["down"], None)
    change = _product(builder, region, narrow, arrays["up"], arrays["shift"])
    return builder.op("Add", [region.entry, change], output=merged)


def _narrow(builder: Builder, region: Region, arrays: Mapping[str, Array], hidden: str, formats: Formats) -> str:
    """The entry value · weight + hidden · down + shift; a weight that is the identity is no product.

    Written as a difference where ONNX Runtime would fuse a sum with the normalisation behind it: its fused kernel takes
    several times as long on the CPU as the two operators do.
    """
    weight, shift, units = arrays["weight"], arrays["shift"], len(arrays["units"])
    alone = np.array_equal(weight, np.eye(len(weight)))
    direct = region.entry if alone else _direct(builder, region, weight, shift, formats.entry)
    if not _is_last(region):
        product = _product(builder, region, hidden, arrays["down"], shift if alone else None, units)
        return builder.op("Add", [direct, product], output=names.merged(region.name))
    product = _last(builder, region, hidden, -arrays["down"], formats.hidden)
    if alone:
        product = builder.op("Add", [product, builder.constant(*_typed(-shift, region))])
    return builder.op("Sub", [direct, product], output=names.merged(region.name))


def _last(builder: Builder, region: Region, hidden: str, down: Array, form: Form | None) -> str:
    if form is not None:
        return form.write(builder, hidden, down)
    return _product(builder, region, hidden, down, None)


def _direct(builder: Builder, region: Region, weight: Array, shift: Array, form: Form | None, output: str = "") -> str:
    """The entry value · weight + shift."""
    if form is None:
        return _product(builder, region, region.entry, weight, shift, output=output)
    product = form.write(builder, region.entry, np.eye(len(weight), dtype=weight.dtype) - weight)
    change = builder.op("Add", [product, builder.constant(*_typed(-shift, region))])
    return builder.op("Sub", [region.entry, change], output=output)


def _is_last(region: Region) -> bool:
    return region.channel_axis == len(region.dims) - 1


def _per_channel(builder: Builder, region: Region, values: Array) -> str:
    behind = len(region.dims) - 1 - region.channel_axis
    return builder.constant(*_typed(values.reshape(values.shape + (1,) * behind), region))


def _product(
    builder: Builder,
    region: Region,
    value: str,
    weight: Array,
    shift: Array | None,
    inputs: int = 0,
    output: str = "",
) -> str:
    """Value · weight + shift; in channels-first regions weight may hold several taps for each of its inputs."""
    if not _is_last(region):
        return _convolution(builder, region, value, weight, shift, inputs or len(weight), output)
    product = builder.op("MatMul", [value, builder.constant(*_typed(weight, region))])
    if shift is None:
        return product
    return builder.op("Add", [product, builder.constant(*_typed(shift, region))], output=output)


def _convolution(
    builder: Builder, region: Region, value: str, weight: Array, shift: Array | None, inputs: int, output: str
) -> str:
    """A convolution with a square kernel, as large as the taps say, that keeps the extent."""
    axes = len(region.dims) - 2
    extent = round((len(weight) // inputs) ** (1 / axes))
    kernel = builder.constant(*_typed(weight.T.reshape(weight.shape[1], inputs, *(extent,) * axes), region))
    bias = [] if shift is None else [builder.constant(*_typed(shift, region))]
    pads = [extent // 2] * 2 * axes
    return builder.op("Conv", [value, kernel, *bias], output=output, kernel_shape=[extent] * axes, pads=pads)


def _typed(values: Array, region: Region) -> tuple[Array, np.dtype]:
    typed = as_type(values, region.elem_type)
    return typed, typed.dtype
