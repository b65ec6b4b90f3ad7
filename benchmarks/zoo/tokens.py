"""Small transformers from the `transformers` package, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn

from models.cached import with_cache

Sizes = dict[str, int]

WIDTH, HEADS, LAYERS, VOCABULARY = 32, 4, 2, 50


@dataclass(frozen=True)
class Exportable:
    """A network with an example of its inputs.

    Attributes:
        module: in evaluation mode; takes tensors and gives tensors.
        inputs: by name.
        outputs: names.
        open_axes: names of the open axes of inputs and outputs, by name and axis.
    """

    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]
    open_axes: dict[str, dict[int, str]]


class Plain(nn.Module):
    """A network of the package that gives one tensor."""

    def __init__(self, inner: Any, *names: str, result: str = "last_hidden_state", **fixed: Any) -> None:
        super().__init__()
        self.inner, self.names, self.result, self.fixed = inner.eval(), names, result, fixed

    def forward(self, *values: Tensor) -> Tensor:
        """The result asked for."""
        found = self.inner(**dict(zip(self.names, values, strict=True)), **self.fixed)
        return getattr(found, self.result)


def _ids() -> Tensor:
    return torch.arange(12).reshape(2, 6) % VOCABULARY


def _text(inner: Any, *, result: str = "last_hidden_state", mask: bool = True, **fixed: Any) -> Exportable:
    names = ("input_ids", "attention_mask") if mask else ("input_ids",)
    values = {"input_ids": _ids(), "attention_mask": torch.ones(2, 6, dtype=torch.int64)}
    axes = {name: {0: "batch", 1: "length"} for name in (*names, "y")}
    module = Plain(inner, *names, result=result, **fixed).eval()
    return Exportable(module, {name: values[name] for name in names}, ("y",), axes)


def _values(inner: Any, name: str, shape: tuple[int, ...], *, result: str = "last_hidden_state") -> Exportable:
    axes = {name: {0: "batch"}, "y": {0: "batch"}}
    return Exportable(Plain(inner, name, result=result).eval(), {name: torch.randn(shape)}, ("y",), axes)


def _sizes(**more: Any) -> dict[str, Any]:
    common = {"hidden_size": WIDTH, "num_attention_heads": HEADS, "num_hidden_layers": LAYERS, "vocab_size": VOCABULARY}
    return {**common, "intermediate_size": 2 * WIDTH, **more}


def _eager(config: Any) -> Any:
    config._attn_implementation = "eager"
    return config


def bert() -> Exportable:
    """Post-norm encoder."""
    return _text(hf.BertModel(_eager(hf.BertConfig(**_sizes())), add_pooling_layer=False))


def bert_sdpa() -> Exportable:
    """Post-norm encoder whose attention is one operator of torch."""
    return _text(hf.BertModel(hf.BertConfig(**_sizes()), add_pooling_layer=False))


def albert() -> Exportable:
    """All layers share their weights."""
    return _text(hf.AlbertModel(_eager(hf.AlbertConfig(**_sizes(embedding_size=16))), add_pooling_layer=False))


def deberta() -> Exportable:
    """Attention with relative positions, computed from content."""
    return _text(hf.DebertaV2Model(hf.DebertaV2Config(**_sizes(relative_attention=True, pos_att_type=["c2p", "p2c"]))))


def t5_encoder() -> Exportable:
    """Pre-norm encoder with a bias that all layers share."""
    config = hf.T5Config(vocab_size=VOCABULARY, d_model=WIDTH, d_kv=8, d_ff=64, num_layers=LAYERS, num_heads=HEADS)
    return _text(hf.T5EncoderModel(config))


def vit() -> Exportable:
    """Pre-norm vision transformer."""
    config = hf.ViTConfig(**{**_sizes(image_size=32, patch_size=8), "vocab_size": None})
    return _values(hf.ViTModel(_eager(config), add_pooling_layer=False), "pixel_values", (2, 3, 32, 32))


def swin() -> Exportable:
    """Attention in shifted windows."""
    config = hf.SwinConfig(image_size=32, patch_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4)
    return _values(hf.SwinModel(_eager(config), add_pooling_layer=False), "pixel_values", (2, 3, 32, 32))


def segformer() -> Exportable:
    """Attention over reduced keys, and feed-forward layers with a depthwise convolution."""
    config = hf.SegformerConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[16, 16, 32, 32], num_attention_heads=[1, 1, 2, 2], sr_ratios=[4, 2, 2, 1]
    )
    return _values(hf.SegformerModel(config), "pixel_values", (2, 3, 64, 64))


def mobilevit() -> Exportable:
    """Convolutions with transformers between them."""
    config = hf.MobileViTConfig(
        image_size=64, hidden_sizes=[16, 24, 32], neck_hidden_sizes=[8, 8, 16, 16, 16, 16, 32], num_attention_heads=2
    )
    return _values(hf.MobileViTModel(config, expand_output=False), "pixel_values", (2, 3, 64, 64))


def whisper_encoder() -> Exportable:
    """Pre-norm encoder behind two convolutions."""
    config = hf.WhisperConfig(
        d_model=WIDTH, encoder_layers=2, decoder_layers=1, encoder_attention_heads=4, encoder_ffn_dim=64,
        decoder_attention_heads=4,
        max_source_positions=40, num_mel_bins=16, vocab_size=VOCABULARY, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    inner = hf.WhisperModel(_eager(config)).encoder
    return _values(inner, "input_features", (2, 16, 80))


def wav2vec2() -> Exportable:
    """Convolutions over the waveform, then a post-norm encoder."""
    config = hf.Wav2Vec2Config(
        **{**_sizes(), "vocab_size": 32},
        conv_dim=(16, 16), conv_stride=(5, 2), conv_kernel=(10, 3), num_feat_extract_layers=2,
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    return _values(hf.Wav2Vec2Model(_eager(config)), "input_values", (2, 400))


def conformer() -> Exportable:
    """Half feed-forward layers around attention and a convolution."""
    config = hf.Wav2Vec2ConformerConfig(
        **{**_sizes(), "vocab_size": 32},
        conv_dim=(16, 16), conv_stride=(5, 2), conv_kernel=(10, 3), num_feat_extract_layers=2,
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, position_embeddings_type=None,
        conv_depthwise_kernel_size=7,
    )  # fmt: skip
    return _values(hf.Wav2Vec2ConformerModel(config), "input_values", (2, 400))


def gpt2() -> Exportable:
    """Pre-norm decoder with learned positions."""
    config = hf.GPT2Config(vocab_size=VOCABULARY, n_positions=32, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS)
    return _text(hf.GPT2LMHeadModel(_eager(config)), result="logits", use_cache=False)


def _llama_config() -> Any:
    return _eager(hf.LlamaConfig(**_sizes(num_key_value_heads=2, max_position_embeddings=64)))


def llama() -> Exportable:
    """RMS normalisation, rotary positions, grouped heads, gated feed-forward layers."""
    return _text(hf.LlamaForCausalLM(_llama_config()), result="logits", use_cache=False)


def qwen2() -> Exportable:
    """As llama, with biases."""
    config = _eager(hf.Qwen2Config(**_sizes(num_key_value_heads=2)))
    return _text(hf.Qwen2ForCausalLM(config), result="logits", use_cache=False)


def gemma() -> Exportable:
    """As llama, with normalisations on both sides of each sublayer."""
    config = _eager(hf.Gemma2Config(**_sizes(num_key_value_heads=2, head_dim=8)))
    return _text(hf.Gemma2ForCausalLM(config), result="logits", use_cache=False)


def llama_cached() -> Exportable:
    """Llama with a key-value cache."""
    found = with_cache(hf.LlamaForCausalLM(_llama_config()))
    return Exportable(found.module, found.inputs, found.outputs, found.open_axes)


def mamba() -> Exportable:
    """A state-space model: no attention."""
    config = hf.MambaConfig(vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=LAYERS, state_size=4)
    network = _text(hf.MambaModel(config), mask=False, use_cache=False)
    # Traced, the scan over the length is unrolled for the example's.
    return replace(network, open_axes={name: {0: "batch"} for name in network.open_axes})


NETWORKS: dict[str, Callable[[], Exportable]] = {
    "BERT, post-norm": bert,
    "BERT, torch's attention": bert_sdpa,
    "ALBERT": albert,
    "DeBERTa": deberta,
    "T5 encoder": t5_encoder,
    "ViT": vit,
    "Swin": swin,
    "SegFormer": segformer,
    "MobileViT": mobilevit,
    "Whisper encoder": whisper_encoder,
    "wav2vec 2.0": wav2vec2,
    "Conformer": conformer,
    "GPT-2": gpt2,
    "Llama": llama,
    "Llama with cache": llama_cached,
    "Qwen2": qwen2,
    "Gemma 2": gemma,
    "Mamba": mamba,
}
"""By family."""
