"""Trains the demo classifier on Fashion-MNIST with stochastic depth, from one seed."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.demo_net import DemoNet

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Settings:
    """Everything the weights depend on, beside the data and the arithmetic of the machine."""

    epochs: int = 30
    batch_size: int = 128
    peak_learning_rate: float = 0.1
    weight_decay: float = 5e-4
    drop_rate_last: float = 0.5
    shift_pixels: int = 2
    seed: int = 0
    threads: int = 2


def train(images: Images, labels: Labels, settings: Settings) -> DemoNet:
    """Train on uint8 images [N, 1, 28, 28] and int64 labels [N]; the network comes back in evaluation mode."""
    torch.manual_seed(settings.seed)
    torch.set_num_threads(settings.threads)
    rng = np.random.default_rng(settings.seed)
    net = DemoNet(settings.drop_rate_last).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        net.parameters(), settings.peak_learning_rate, 0.9, weight_decay=settings.weight_decay, nesterov=True
    )
    steps = settings.epochs * (len(images) // settings.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.peak_learning_rate, steps, pct_start=0.2, cycle_momentum=False
    )
    survivals = np.asarray(net.survivals())
    net.train()
    for epoch in range(settings.epochs):
        started, losses = time.monotonic(), []
        for batch, target in batches(images, labels, settings, rng):
            keep = (rng.random(len(survivals)) < survivals).tolist()
            losses.append(_step(net, optimizer, batch, target, keep))
            schedule.step()
        seconds = time.monotonic() - started
        print(
            f"epoch {epoch + 1}/{settings.epochs}: loss {np.mean(losses):.4f}, {seconds:.0f} s",
            file=sys.stderr,
            flush=True,
        )
    return net.eval()


def batches(
    images: Images, labels: Labels, settings: Settings, rng: np.random.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """One shuffled epoch of augmented batches; the last, incomplete batch is left out."""
    order = rng.permutation(len(images))
    for start in range(0, len(order) - settings.batch_size + 1, settings.batch_size):
        rows = order[start : start + settings.batch_size]
        batch = augment(images[rows], settings.shift_pixels, rng)
        yield torch.from_numpy(batch), torch.from_numpy(labels[rows])


def augment(images: Images, shift: int, rng: np.random.Generator) -> Images:
    """Shift each image by up to `shift` pixels, zeros moving in, and mirror half of them."""
    count, _, height, width = images.shape
    padded = np.pad(images[:, 0], ((0, 0), (shift, shift), (shift, shift)))
    rows = np.arange(height) + rng.integers(0, 2 * shift + 1, (count, 1))
    columns = np.arange(width) + rng.integers(0, 2 * shift + 1, (count, 1))
    columns = np.where(rng.random((count, 1)) < 0.5, columns, columns[:, ::-1])
    sample = np.arange(count)[:, None, None]
    return np.ascontiguousarray(padded[sample, rows[:, :, None], columns[:, None, :]][:, None])


def accuracy(net: DemoNet, images: Images, labels: Labels) -> float:
    """Share of right answers in float32."""
    right = 0
    with torch.no_grad():
        for start in range(0, len(images), 500):
            answer = net(torch.from_numpy(images[start : start + 500])).argmax(1).numpy()
            right += int((answer == labels[start : start + 500]).sum())
    return right / len(images)


def _step(net: DemoNet, optimizer: torch.optim.SGD, batch: Tensor, target: Tensor, keep: list[bool]) -> float:
    with torch.autocast("cpu", torch.bfloat16):
        loss = nn.functional.cross_entropy(net(batch, keep).float(), target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())
