"""Small convolutional networks with random weights, one for each common shape of block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """x + f(x), with an activation behind where one is given."""

    def __init__(self, inner: nn.Module, behind: nn.Module | None = None, skip: nn.Module | None = None) -> None:
        super().__init__()
        self.inner, self.behind, self.skip = inner, behind or nn.Identity(), skip or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """The sum."""
        return self.behind(self.skip(x) + self.inner(x))


def conv(inputs: int, outputs: int, size: int = 3, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution and normalisation."""
    kernel = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(kernel, nn.BatchNorm2d(outputs))


def classifier(*blocks: nn.Module, width: int) -> nn.Module:
    """A stem, blocks, pooling, and a linear layer."""
    stem = nn.Sequential(conv(3, 16), nn.ReLU())
    return nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5)).eval()


def resnet_basic() -> nn.Module:
    """Basic blocks with the activation behind the sum, and one that changes width and stride."""

    def block(inputs: int, outputs: int, stride: int) -> nn.Module:
        inner = nn.Sequential(conv(inputs, outputs, stride=stride), nn.ReLU(), conv(outputs, outputs))
        skip = conv(inputs, outputs, 1, stride=stride) if inputs != outputs else None
        return Residual(inner, nn.ReLU(), skip)

    return classifier(block(16, 16, 1), block(16, 32, 2), block(32, 32, 1), width=32)


def resnet_bottleneck() -> nn.Module:
    """1x1, 3x3, 1x1, with the activation behind the sum."""

    def block() -> nn.Module:
        inner = nn.Sequential(conv(16, 8, 1), nn.ReLU(), conv(8, 8), nn.ReLU(), conv(8, 16, 1))
        return Residual(inner, nn.ReLU())

    return classifier(block(), block(), width=16)


def resnet_preactivation() -> nn.Module:
    """Normalisation and activation in front of each convolution."""

    def half() -> list[nn.Module]:
        return [nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)]

    return classifier(*(Residual(nn.Sequential(*half(), *half())) for _ in range(2)), width=16)


class SqueezeExcite(nn.Module):
    """Channels scaled by a function of their means."""

    def __init__(self, width: int, narrow: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, narrow, 1), nn.SiLU(), nn.Conv2d(narrow, width, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        """The scaled input."""
        return x * self.gate(x)


def inverted(excited: bool, activation: Callable[[], nn.Module]) -> nn.Module:
    """Inverted bottlenecks, linear at their end."""

    def block() -> nn.Module:
        gate = [SqueezeExcite(64, 4)] if excited else []
        wide = [conv(16, 64, 1), activation(), conv(64, 64, groups=64), activation(), *gate]
        return Residual(nn.Sequential(*wide, conv(64, 16, 1)))

    return classifier(block(), block(), width=16)


def mobilenet() -> nn.Module:
    """Inverted bottlenecks without squeeze-and-excitation."""
    return inverted(False, nn.ReLU6)


def efficientnet() -> nn.Module:
    """Inverted bottlenecks with squeeze-and-excitation and swish."""
    return inverted(True, nn.SiLU)


def mobilenet_v3() -> nn.Module:
    """Inverted bottlenecks with squeeze-and-excitation and hard swish."""
    return inverted(True, nn.Hardswish)


class ChannelsLast(nn.Module):
    """A module applied with the channels last."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """The result, channels first again."""
        return self.inner(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Scale(nn.Module):
    """A factor for each feature (layer scale)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        """The scaled input."""
        return x * self.factor


def convnext() -> nn.Module:
    """Depthwise convolution, then normalisation and a feed-forward layer with channels last, and a layer scale."""

    def block() -> nn.Module:
        layers = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16), Scale(16))
        return Residual(nn.Sequential(nn.Conv2d(16, 16, 7, padding=3, groups=16), ChannelsLast(layers)))

    return classifier(block(), block(), width=16)


class C2f(nn.Module):
    """YOLO's block: half of the channels pass through bottlenecks, and all that they pass is concatenated."""

    def __init__(self, width: int, depth: int, *, residual: bool = True) -> None:
        super().__init__()
        half = width // 2

        def bottleneck() -> nn.Module:
            inner = nn.Sequential(conv(half, half), nn.SiLU(), conv(half, half), nn.SiLU())
            return Residual(inner) if residual else inner

        self.first = nn.Sequential(conv(width, width, 1), nn.SiLU())
        self.blocks = nn.ModuleList(bottleneck() for _ in range(depth))
        self.last = nn.Sequential(conv(half * (2 + depth), width, 1), nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        """All intermediate results, mixed."""
        kept = list(self.first(x).chunk(2, 1))
        for block in self.blocks:
            kept.append(block(kept[-1]))
        return self.last(torch.cat(kept, 1))


def yolo() -> nn.Module:
    """Two C2f blocks."""
    return classifier(C2f(16, 2), C2f(16, 1), width=16)


class C3(nn.Module):
    """YOLOv5's block: one half of the channels passes through residual bottlenecks, the other goes by."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        half = width // 2

        def bottleneck() -> nn.Module:
            return Residual(nn.Sequential(conv(half, half, 1), nn.SiLU(), conv(half, half), nn.SiLU()))

        self.through = nn.Sequential(conv(width, half, 1), nn.SiLU(), *(bottleneck() for _ in range(depth)))
        self.around = nn.Sequential(conv(width, half, 1), nn.SiLU())
        self.last = nn.Sequential(conv(width, width, 1), nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        """Both halves, mixed."""
        return self.last(torch.cat([self.through(x), self.around(x)], 1))


def yolo_c3() -> nn.Module:
    """Two C3 blocks."""
    return classifier(C3(16, 2), C3(16, 1), width=16)


class UNet(nn.Module):
    """Residual blocks going down and up, with long skips that are added or concatenated."""

    def __init__(self, *, add: bool) -> None:
        super().__init__()

        def block() -> nn.Module:
            return Residual(nn.Sequential(conv(16, 16), nn.ReLU(), conv(16, 16)), nn.ReLU())

        self.add = add
        self.stem = conv(3, 16)
        self.down, self.bottom, self.up = block(), block(), block()
        self.shrink = nn.MaxPool2d(2)
        self.grow = nn.ConvTranspose2d(16, 16, 2, 2)
        self.join = nn.Identity() if add else conv(32, 16, 1)
        self.head = nn.Conv2d(16, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """One value for each pixel."""
        kept = self.down(self.stem(x))
        deep = self.grow(self.bottom(self.shrink(kept)))
        joined = kept + deep if self.add else self.join(torch.cat([kept, deep], 1))
        return self.head(self.up(joined))


def unet_added() -> nn.Module:
    """A U-Net with added skips."""
    return UNet(add=True).eval()


def unet_concatenated() -> nn.Module:
    """A U-Net with concatenated skips."""
    return UNet(add=False).eval()


class Pyramid(nn.Module):
    """A backbone whose inner feature maps are outputs as well."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16)
        self.blocks = nn.ModuleList(Residual(nn.Sequential(conv(16, 16), nn.ReLU(), conv(16, 16))) for _ in range(3))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """The result of each block."""
        found = [self.stem(x)]
        for block in self.blocks:
            found.append(block(found[-1]))
        return tuple(found[1:])


def pyramid() -> nn.Module:
    """Feature maps of every block as outputs."""
    return Pyramid().eval()


class DenseBlock(nn.Module):
    """Each layer reads all earlier results: no residual path at all."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(conv(16 + 8 * i, 8), nn.ReLU()) for i in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """All results, concatenated."""
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return x


def densenet() -> nn.Module:
    """Dense connections."""
    return classifier(DenseBlock(), width=40)


class Transposed(nn.Module):
    """Features and positions exchanged."""

    def forward(self, x: Tensor) -> Tensor:
        """The transposed value."""
        return x.transpose(1, 2)


class Recurrent(nn.Module):
    """An LSTM's sequence of states."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.LSTM(16, 16, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """All states, as wide as the input."""
        return self.inner(x)[0]


def rows_of(*blocks: nn.Module) -> nn.Module:
    """Patches as rows of features, blocks over them, a head."""
    patches = [nn.Conv2d(3, 16, 8, 8), nn.Flatten(2), Transposed()]
    return nn.Sequential(*patches, *blocks, nn.LayerNorm(16), nn.Linear(16, 5)).eval()


def mixer() -> nn.Module:
    """Feed-forward layers across positions, then across features."""

    def dense() -> list[nn.Module]:
        return [nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16)]

    across = nn.Sequential(nn.LayerNorm(16), Transposed(), *dense(), Transposed())
    return rows_of(Residual(across), Residual(nn.Sequential(nn.LayerNorm(16), *dense())))


def recurrent() -> nn.Module:
    """Residual LSTMs."""
    return rows_of(Residual(Recurrent()), Residual(Recurrent()))


NETWORKS: dict[str, Callable[[], Any]] = {
    "ResNet, basic": resnet_basic,
    "ResNet, bottleneck": resnet_bottleneck,
    "ResNet, pre-activation": resnet_preactivation,
    "MobileNetV2": mobilenet,
    "MobileNetV3": mobilenet_v3,
    "EfficientNet": efficientnet,
    "ConvNeXt": convnext,
    "YOLO C2f": yolo,
    "YOLO C3": yolo_c3,
    "U-Net, added skips": unet_added,
    "U-Net, concatenated skips": unet_concatenated,
    "Feature pyramid": pyramid,
    "DenseNet": densenet,
    "MLP-Mixer": mixer,
    "Residual LSTM": recurrent,
}
"""By family; each takes images [batch, 3, 32, 32]."""
