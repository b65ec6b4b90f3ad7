"""The demo classifier: a residual network small enough to be committed, deep enough to have blocks to skip.

He et al. 2016 (arXiv 1512.03385) for the block, Huang et al. 2016 (arXiv 1603.09382) for stochastic depth.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

WIDTHS = (16, 32, 64)
BLOCKS_PER_STAGE = 5
BLOCK_COUNT = len(WIDTHS) * BLOCKS_PER_STAGE
CLASS_COUNT = 10
PIXEL_MEAN = 72.94
PIXEL_STD = 90.02


class Block(nn.Module):
    """Two 3x3 convolutions beside a skip; `relu(skip + survival * branch)` in evaluation."""

    def __init__(self, width_in: int, width_out: int, survival: float) -> None:
        super().__init__()
        stride = 1 if width_in == width_out else 2
        self.survival = survival
        self.conv1 = nn.Conv2d(width_in, width_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width_out)
        self.skip = nn.Identity() if stride == 1 else _projection(width_in, width_out)

    def forward(self, x: Tensor, keep: bool | None = None) -> Tensor:
        """Run the block; `keep` says in training whether this step uses the branch at all."""
        skip: Tensor = self.skip(x)
        if keep is False:
            return torch.relu(skip)
        branch: Tensor = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        if keep is None and self.survival != 1.0:
            branch = branch * self.survival
        return torch.relu(branch + skip)

    def fold_survival(self) -> None:
        """Move the factor of stochastic depth into the second normalisation, where it costs no node."""
        with torch.no_grad():
            self.norm2.weight.mul_(self.survival)
            self.norm2.bias.mul_(self.survival)
        self.survival = 1.0


class DemoNet(nn.Module):
    """uint8 images [batch, 1, 28, 28] to logits [batch, 10], normalisation included."""

    def __init__(self, drop_rate_last: float) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, WIDTHS[0], 3, 1, 1, bias=False)
        self.stem_norm = nn.BatchNorm2d(WIDTHS[0])
        self.blocks = nn.ModuleList(_blocks(drop_rate_last))
        self.head = nn.Linear(WIDTHS[-1], CLASS_COUNT)

    def forward(self, image: Tensor, keep: Sequence[bool] | None = None) -> Tensor:
        """Classify; `keep` has one entry per block in training and is None in evaluation."""
        x = (image.float() - PIXEL_MEAN) * (1.0 / PIXEL_STD)
        x = torch.relu(self.stem_norm(self.stem(x)))
        for index, block in enumerate(self.blocks):
            x = block(x, None if keep is None else keep[index])
        logits: Tensor = self.head(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1))
        return logits

    def survivals(self) -> list[float]:
        """The probability, per block, that a training step uses the branch."""
        return [float(block.survival) for block in self.blocks]

    def fold_survival(self) -> None:
        """Fold the factor of every block, which leaves `Conv Relu Conv Add Relu` in the exported graph."""
        for block in self.blocks:
            block.fold_survival()


def _projection(width_in: int, width_out: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(width_in, width_out, 1, 2, bias=False), nn.BatchNorm2d(width_out))


def _blocks(drop_rate_last: float) -> list[Block]:
    """Drop rates rise linearly from near 0 at the first block to `drop_rate_last` at the last."""
    widths_out = [width for width in WIDTHS for _ in range(BLOCKS_PER_STAGE)]
    widths_in = [WIDTHS[0], *widths_out[:-1]]
    rates = [drop_rate_last * (index + 1) / BLOCK_COUNT for index in range(BLOCK_COUNT)]
    return [Block(a, b, 1.0 - rate) for a, b, rate in zip(widths_in, widths_out, rates, strict=True)]
