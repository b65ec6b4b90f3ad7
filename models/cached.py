"""Decoders with their key-value cache among inputs and outputs, as servers run them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.conversion import OPSET, quiet

PAST, NEW = 5, 6
"""Lengths of the example: what is in the cache, and what is new."""


class Cached(nn.Module):
    """A decoder of the package transformers that takes and gives its cache as plain tensors."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner.eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        """Logits, then the grown cache: keys and values of each layer."""
        from transformers import DynamicCache

        cache = DynamicCache()
        for layer in range(len(past) // 2):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        length = past[0].shape[2]
        places = torch.arange(length, length + input_ids.shape[1], device=input_ids.device)
        found = self.inner(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=cache,
            position_ids=places.unsqueeze(0),
            use_cache=True,
        )
        layers = found.past_key_values.layers
        return (found.logits, *(value for layer in layers for value in (layer.keys, layer.values)))


@dataclass(frozen=True)
class CachedDecoder:
    """What an exporter needs.

    Attributes:
        module: see `Cached`.
        inputs: examples by name: ``input_ids`` [batch, length], ``attention_mask`` [batch, total_length], and
            ``past_key_values.LAYER.key`` and ``.value`` [batch, heads, past_length, head size].
        outputs: ``logits`` and ``present.LAYER.key`` and ``.value``.
        open_axes: names of the open axes by input or output.
    """

    module: Cached
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]
    open_axes: dict[str, dict[int, str]]


def with_cache(decoder: Any) -> CachedDecoder:
    """A causal language model with its cache."""
    config = decoder.config
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    names = [
        f"past_key_values.{layer}.{part}" for layer in range(config.num_hidden_layers) for part in ("key", "value")
    ]
    present = [name.replace("past_key_values", "present") for name in names]
    inputs = {
        "input_ids": torch.arange(2 * NEW).reshape(2, NEW) % config.vocab_size,
        "attention_mask": torch.ones(2, PAST + NEW, dtype=torch.int64),
        **{name: torch.randn(2, config.num_key_value_heads, PAST, head) for name in names},
    }
    axes = {
        "input_ids": {0: "batch", 1: "length"},
        "attention_mask": {0: "batch", 1: "total_length"},
        "logits": {0: "batch", 1: "length"},
        **{name: {0: "batch", 2: "past_length"} for name in names},
        **{name: {0: "batch", 2: "total_length"} for name in present},
    }
    return CachedDecoder(Cached(decoder).eval(), inputs, ("logits", *present), axes)


def export_cached(decoder: Any, path: Path) -> None:
    """Write a causal language model with its cache, by the tracing exporter."""
    job = with_cache(decoder)
    with quiet(), torch.no_grad():
        torch.onnx.export(
            job.module,
            tuple(job.inputs.values()),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=list(job.inputs),
            output_names=list(job.outputs),
            dynamic_axes=job.open_axes,
        )
