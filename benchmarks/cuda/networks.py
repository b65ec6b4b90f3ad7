"""The networks that are timed: of the size of known ones, written out in PyTorch, with random weights.

Latency does not depend on what weights say. Nothing is downloaded, so that a machine without a network can do it.
Matrices lie as ONNX multiplies by them, and convolutions have their batch normalisation folded in, so that the graph
needs no weights while it is exported.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.conversion import quiet

OPSET = 17
Array = NDArray[Any]
DTYPES: Mapping[str, torch.dtype] = {"float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True)
class Size:
    """How large a network is.

    Attributes:
        layers: number of them; of a ResNet the blocks of each stage, written as digits.
        width: features; of a ResNet those of the first stage.
        heads: of attention.
        hidden: units of a feed-forward block.
        extent: tokens of a text, or pixels along each side of an image.
        classes: of the answer; of a decoder also tokens known.
        key_heads: of attention in a decoder, where several queries share one key.
    """

    layers: int
    width: int
    heads: int
    hidden: int
    extent: int
    classes: int
    key_heads: int = 1


SIZES: Mapping[str, Size] = {
    "bert-base": Size(12, 768, 12, 3072, 128, 2),
    "vit-large": Size(24, 1024, 16, 4096, 224, 1000),
    "resnet-50": Size(3463, 64, 0, 0, 224, 1000),
    "decoder-30": Size(30, 576, 9, 1536, 128, 49152, 3),
    "chain": Size(32, 256, 0, 512, 16, 2),
}


def twin(size: Size) -> Size:
    """A narrow network with the same graph and the same extents: what its regions are is soon found out."""
    heads = max(1, size.heads)
    width = 8 * heads if size.heads else 8
    return replace(size, width=width, hidden=width, classes=min(size.classes, 64))


SMALL: Mapping[str, Size] = {
    "bert-base": Size(3, 64, 2, 256, 16, 2),
    "vit-large": Size(3, 64, 2, 256, 32, 10),
    "resnet-50": Size(2222, 16, 0, 0, 32, 10),
    "decoder-30": Size(3, 64, 4, 128, 16, 100, 2),
    "chain": Size(8, 64, 0, 128, 4, 2),
}
"""The same architectures for a smoke test."""

WORDS = 1000
"""Entries of BERT's table of embeddings; a look-up costs the same in a larger one."""

PATCH = 16

Angles = tuple[Tensor, Tensor]
"""Cosines and sines."""


class Linear(nn.Module):
    """A product with a matrix [given, width], and a bias."""

    def __init__(self, given: int, width: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(given, width) * given**-0.5)
        self.bias = nn.Parameter(torch.randn(width) * 0.02) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """[..., given] to [..., width]."""
        product = x @ self.weight
        return product if self.bias is None else product + self.bias


class Attention(nn.Module):
    """Self-attention; queries may be more than keys and values."""

    def __init__(self, size: Size, key_heads: int, *, bias: bool = True) -> None:
        super().__init__()
        self.heads, self.key_heads, self.depth = size.heads, key_heads, size.width // size.heads
        self.query = Linear(size.width, size.width, bias)
        self.key = Linear(size.width, key_heads * self.depth, bias)
        self.value = Linear(size.width, key_heads * self.depth, bias)
        self.out = Linear(size.width, size.width, bias)

    def forward(self, x: Tensor, mask: Tensor | None = None, angles: Angles | None = None) -> Tensor:
        """[batch, tokens, width] to the same."""
        q, k, v = (
            layer(x).unflatten(2, (-1, self.depth)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        if angles is not None:
            q, k = turned(q, angles), turned(k, angles)
        if self.key_heads < self.heads:
            k, v = (part.repeat_interleave(self.heads // self.key_heads, dim=1) for part in (k, v))
        scores = q @ k.transpose(2, 3) * self.depth**-0.5
        if mask is not None:
            scores = scores + mask
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


def turned(x: Tensor, angles: Angles) -> Tensor:
    """Rotary position embedding of [batch, heads, tokens, depth] by cosines and sines [tokens, depth]."""
    first, second = x.chunk(2, dim=-1)
    return x * angles[0] + torch.cat((-second, first), dim=-1) * angles[1]


class Perceptron(nn.Module):
    """A feed-forward block."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.up, self.down = Linear(size.width, size.hidden), Linear(size.hidden, size.width)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, tokens, width] to the same."""
        return self.down(functional.gelu(self.up(x)))


class Bert(nn.Module):
    """An encoder with a norm behind each sum, as BERT-base."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, size.width), nn.Embedding(size.extent, size.width)
        self.first = nn.LayerNorm(size.width)
        self.attention = nn.ModuleList(Attention(size, size.heads) for _ in range(size.layers))
        self.perceptron = nn.ModuleList(Perceptron(size) for _ in range(size.layers))
        self.norms = nn.ModuleList(nn.LayerNorm(size.width) for _ in range(2 * size.layers))
        self.classes = Linear(size.width, size.classes)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Token numbers and mask, int64 [batch, tokens], to class scores."""
        x = self.first(self.words(ids) + self.places.weight)
        bias = (1 - mask[:, None, None].to(x.dtype)) * -1e4
        for number, (attention, perceptron) in enumerate(zip(self.attention, self.perceptron, strict=True)):
            x = self.norms[2 * number](x + attention(x, bias))
            x = self.norms[2 * number + 1](x + perceptron(x))
        return self.classes(x[:, 0])


class Vit(nn.Module):
    """An encoder of image patches with a norm in front of each block, as ViT-large/16."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, size.width, PATCH, PATCH)
        self.places = nn.Parameter(torch.randn((size.extent // PATCH) ** 2, size.width) * 0.5)
        self.attention = nn.ModuleList(Attention(size, size.heads) for _ in range(size.layers))
        self.perceptron = nn.ModuleList(Perceptron(size) for _ in range(size.layers))
        self.norms = nn.ModuleList(nn.LayerNorm(size.width) for _ in range(2 * size.layers + 1))
        self.classes = Linear(size.width, size.classes)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels [batch, 3, height, width] to class scores."""
        x = self.patches(pixels).flatten(2).transpose(1, 2) + self.places
        for number, (attention, perceptron) in enumerate(zip(self.attention, self.perceptron, strict=True)):
            x = x + attention(self.norms[2 * number](x))
            x = x + perceptron(self.norms[2 * number + 1](x))
        return self.classes(self.norms[-1](x).mean(1))


class Bottleneck(nn.Module):
    """A residual block of three convolutions."""

    def __init__(self, given: int, width: int, stride: int) -> None:
        super().__init__()
        parts = ((given, width, 1, 1), (width, width, 3, stride), (width, 4 * width, 1, 1))
        self.layers = nn.ModuleList(convolution(*part) for part in parts)
        plain = stride == 1 and given == 4 * width
        self.short = nn.Identity() if plain else convolution(given, 4 * width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, given, height, width] to [batch, 4 * width, height / stride, width / stride]."""
        y = functional.relu(self.layers[1](functional.relu(self.layers[0](x))))
        return functional.relu(self.short(x) + self.layers[2](y))


def convolution(given: int, width: int, kernel: int, stride: int) -> nn.Module:
    """A convolution that keeps the extent but for its stride."""
    return nn.Conv2d(given, width, kernel, stride, kernel // 2)


class ResNet(nn.Module):
    """A residual network of bottleneck blocks, as ResNet-50."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.first = convolution(3, size.width, 7, 2)
        blocks, given = [], size.width
        for stage, count in enumerate(map(int, str(size.layers))):
            width = size.width * 2**stage
            for number in range(count):
                blocks.append(Bottleneck(given, width, 2 if stage and not number else 1))
                given = 4 * width
        self.blocks, self.classes = nn.Sequential(*blocks), Linear(given, size.classes)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels [batch, 3, height, width] to class scores."""
        x = functional.max_pool2d(functional.relu(self.first(pixels)), 3, 2, 1)
        return self.classes(self.blocks(x).mean((2, 3)))


class Rms(nn.Module):
    """Normalisation by the root of the mean square."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] to the same, in float32 inside."""
        wide = x.float()
        return (wide * (wide.square().mean(-1, keepdim=True) + 1e-5).rsqrt()).to(x.dtype) * self.scale


class Decoder(nn.Module):
    """A decoder with gated feed-forward blocks that reads a prompt, as SmolLM2-135M."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        depth = size.width // size.heads
        self.words = nn.Embedding(size.classes, size.width)
        self.attention = nn.ModuleList(Attention(size, size.key_heads, bias=False) for _ in range(size.layers))
        self.up, self.gate, self.down = (
            nn.ModuleList(Linear(*extents, bias=False) for _ in range(size.layers))
            for extents in ((size.width, size.hidden), (size.width, size.hidden), (size.hidden, size.width))
        )
        self.norms = nn.ModuleList(Rms(size.width) for _ in range(2 * size.layers + 1))
        rates = 1e4 ** (-torch.arange(0, depth, 2) / depth)
        phases = (torch.arange(size.extent)[:, None] * rates).repeat(1, 2)
        self.head = Linear(size.width, size.classes, bias=False)
        self.register_buffer("cosines", phases.cos())
        self.register_buffer("sines", phases.sin())
        self.register_buffer("mask", torch.full((size.extent, size.extent), -1e4).triu(1))

    def forward(self, ids: Tensor) -> Tensor:
        """Token numbers, int64 [batch, tokens], to scores of the next token."""
        x, angles = self.words(ids), (self.cosines, self.sines)
        for number, attention in enumerate(self.attention):
            x = x + attention(self.norms[2 * number](x), self.mask, angles)
            y = self.norms[2 * number + 1](x)
            x = x + self.down[number](functional.silu(self.gate[number](y)) * self.up[number](y))
        return self.head(self.norms[-1](x[:, -1]))


class Chain(nn.Module):
    """Feed-forward blocks one behind the other, small enough that what is around them shows."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.perceptron = nn.ModuleList(Perceptron(size) for _ in range(size.layers))
        self.classes = Linear(size.width, size.classes)

    def forward(self, values: Tensor) -> Tensor:
        """[batch, tokens, width] to class scores."""
        for perceptron in self.perceptron:
            values = values + perceptron(values)
        return self.classes(values.mean(1))


CLASSES: Mapping[str, type[nn.Module]] = {
    "bert-base": Bert,
    "vit-large": Vit,
    "resnet-50": ResNet,
    "decoder-30": Decoder,
    "chain": Chain,
}


def samples(name: str, size: Size, dtype: str, count: int) -> dict[str, Array]:
    """Random inputs of a network, [count, ...] each."""
    random = np.random.default_rng(0)
    if name == "chain":
        return {"values": random.standard_normal((count, size.extent, size.width)).astype(dtype)}
    if name in ("vit-large", "resnet-50"):
        pixels = random.standard_normal((count, 3, size.extent, size.extent), np.float32)
        # Samples that differ in more than noise, so that gates tell them apart.
        return {"pixels": (pixels + random.standard_normal((count, 3, 1, 1), np.float32)).astype(dtype)}
    ids = random.integers(0, min(WORDS, size.classes) if name == "decoder-30" else WORDS, (count, size.extent))
    return {"ids": ids, "mask": np.ones_like(ids)} if name == "bert-base" else {"ids": ids}


@dataclass(frozen=True)
class Exported:
    """A network as a graph and its weights.

    Attributes:
        model: whose weights are inputs, with the batch open.
        weights: by name.
    """

    model: onnx.ModelProto
    weights: Mapping[str, Array]


def exported(name: str, size: Size, dtype: str) -> Exported:
    """The network with random weights."""
    torch.manual_seed(0)
    module = CLASSES[name](size).eval()
    with torch.no_grad():
        # The exporter would let equal vectors share one weight.
        for vector in (item for item in module.parameters() if item.ndim == 1):
            vector.add_(0.02 * torch.randn_like(vector))
    module = module.to(DTYPES[dtype])
    examples = {key: torch.from_numpy(array) for key, array in samples(name, size, dtype, 2).items()}
    buffer = io.BytesIO()
    with quiet(), torch.no_grad():
        torch.onnx.export(
            module,
            tuple(examples.values()),
            buffer,
            dynamo=False,
            export_params=False,
            opset_version=OPSET,
            input_names=list(examples),
            output_names=["scores"],
            dynamic_axes={key: {0: "batch"} for key in (*examples, "scores")},
        )
    weights = {key: value.numpy() for key, value in module.state_dict().items()}
    return Exported(onnx.ModelProto.FromString(buffer.getvalue()), weights)
