"""Makes `models/demo/` anew: `nice python -m models.train_demo`, about 16 minutes on two cores.

The same seed on the same machine and torch gives the same weights; another processor may round differently, so
`digests.json` holds the digests of the files that are committed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import models
from models import digests
from models.conversion import Export, check_against_torch, export_traced
from models.demo_net import DemoNet
from models.demo_training import Images, Labels, Settings, accuracy, train
from models.recipes.demo import DEMO

TRAINING_COUNT = 50_000
CALIBRATION_COUNT = 4_000
TEST_COUNT = 2_000
TOLERANCE = 1e-4
"""Logits reach about 10; folding batch normalisation changes the order of float32 sums."""


@dataclass(frozen=True)
class Sample:
    """uint8 images [N, 1, 28, 28] and int64 labels [N]."""

    image: Images
    labels: Labels

    def __getitem__(self, rows: NDArray[np.int64] | slice) -> Sample:
        return Sample(self.image[rows], self.labels[rows])

    def save(self, path: Path) -> None:
        """Write the arrays under their own names."""
        np.savez_compressed(path, image=self.image, labels=self.labels)


@dataclass(frozen=True)
class Samples:
    """The parts of Fashion-MNIST: `training` and `held_out` are disjoint, `test` is the official test set."""

    training: Sample
    held_out: Sample
    test: Sample


def main() -> None:
    """Train unless given weights, then write the folder."""
    parser = argparse.ArgumentParser(prog="python -m models.train_demo", description=__doc__)
    parser.add_argument("--weights", type=Path, help="a state dict: read if it exists, else written after training")
    parser.add_argument("--out", type=Path, default=DEMO.folder)
    options = parser.parse_args()
    settings = Settings()
    samples = split(settings.seed)
    started = time.monotonic()
    net = _net(samples.training, settings, options.weights)
    print(f"weights after {time.monotonic() - started:.0f} s", file=sys.stderr)
    net.fold_survival()
    write(net, samples, settings, options.out)


def split(seed: int) -> Samples:
    """Fashion-MNIST with 10,000 of the training images held out, chosen by the seed."""
    files = models.fetch("fashion-mnist").files
    train_set, test = _load(files["train.npz"]), _load(files["test.npz"])
    order = np.random.default_rng(seed).permutation(len(train_set.labels))
    return Samples(train_set[order[:TRAINING_COUNT]], train_set[order[TRAINING_COUNT:]], test)


def write(net: DemoNet, samples: Samples, settings: Settings, folder: Path) -> None:
    """Write the model, the two samples and `digests.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    chosen = np.random.default_rng(settings.seed).permutation(len(samples.test.labels))[:TEST_COUNT]
    calibration, test = samples.held_out[:CALIBRATION_COUNT], samples.test[np.sort(chosen)]
    _export(net, test, folder / "demo.onnx")
    calibration.save(folder / "demo.calib.npz")
    test.save(folder / "demo.test.npz")
    report = _report(net, samples, test, settings, folder)
    (folder / "digests.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _net(training: Sample, settings: Settings, weights: Path | None) -> DemoNet:
    if weights is None or not weights.is_file():
        net = train(training.image, training.labels, settings)
        if weights is not None:
            torch.save(net.state_dict(), weights)
    else:
        net = DemoNet(settings.drop_rate_last).eval()
        net.load_state_dict(torch.load(weights, weights_only=True))
    return net.to(memory_format=torch.contiguous_format)


def _load(path: Path) -> Sample:
    with np.load(path) as arrays:
        return Sample(arrays["image"], arrays["labels"])


def _export(net: DemoNet, test: Sample, path: Path) -> None:
    example = torch.from_numpy(test.image[:2])
    job = Export(net, {"image": example}, "logits", {"image": {0: "batch"}, "logits": {0: "batch"}})
    export_traced(job, path)
    worst = check_against_torch(path, job, [{"image": test.image[:64]}, {"image": test.image[64:65]}], TOLERANCE)
    print(f"{path.name} agrees with torch within {worst:.1e}", file=sys.stderr)


def _report(net: DemoNet, samples: Samples, test: Sample, settings: Settings, folder: Path) -> Mapping[str, Any]:
    names = ("demo.onnx", "demo.calib.npz", "demo.test.npz")
    parts = {"demo_test_2000": test, "official_test_10000": samples.test, "held_out_10000": samples.held_out}
    return {
        "sha256": {name: digests.sha256(folder / name) for name in names},
        "accuracy": {name: accuracy(net, part.image, part.labels) for name, part in parts.items()},
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        "training": asdict(settings) | {"torch": torch.__version__, "images": TRAINING_COUNT},
    }


if __name__ == "__main__":
    main()
