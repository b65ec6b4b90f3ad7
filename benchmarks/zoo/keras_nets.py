"""Networks from Keras, which keeps images channels-last."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import onnx


def channels_last() -> onnx.ModelProto:
    """Basic residual blocks, then depthwise ones with dense layers over the channels."""
    # Keras chooses its backend once, when it is imported.
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras
    from keras import layers

    image = keras.Input((32, 32, 3))
    value = layers.Conv2D(16, 3, padding="same")(image)
    for _ in range(2):
        inner = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(16, 3, padding="same")(value)))
        inner = layers.BatchNormalization()(layers.Conv2D(16, 3, padding="same")(inner))
        value = layers.ReLU()(layers.Add()([value, inner]))
    for _ in range(2):
        inner = layers.BatchNormalization()(layers.DepthwiseConv2D(7, padding="same")(value))
        inner = layers.Dense(16)(layers.Dense(64, activation="gelu")(inner))
        value = layers.Add()([value, inner])
    network = keras.Model(image, layers.Dense(5)(layers.GlobalAveragePooling2D()(value)))
    # It exports only what was called before.
    network(np.zeros((2, 32, 32, 3), np.float32))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "keras.onnx"
        network.export(path, format="onnx", verbose=False)
        return onnx.load(path)
