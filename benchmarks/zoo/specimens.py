"""The list of graphs: family, exporter, format, and how to make it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx

import models
from benchmarks.zoo import formats, images, tokens
from benchmarks.zoo.exporting import exported
from benchmarks.zoo.exporting import images as as_images
from benchmarks.zoo.keras_nets import channels_last

Make = Callable[[], onnx.ModelProto]

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
"""Where the onnx package keeps well-known networks without their weights."""

OLD, NEW = "TorchScript", "dynamo"


@dataclass(frozen=True)
class Specimen:
    """One graph of the table."""

    family: str
    exporter: str
    form: str
    make: Make


def specimens() -> Iterator[Specimen]:
    """All of them, the families first, then their other forms."""
    for family in (*images.NETWORKS, *tokens.NETWORKS):
        yield Specimen(family, OLD, "float32, opset 17", exporting(family, dynamo=False, opset=17))
        yield Specimen(family, NEW, "float32, opset 18", exporting(family, dynamo=True, opset=18))
    for path in sorted(LIGHT.glob("*.onnx")):
        yield Specimen(path.stem.removeprefix("light_"), "Caffe2", "float32, opset 9", _loading(path))
        made = _converting(_loading(path), formats.at_opset(13))
        yield Specimen(path.stem.removeprefix("light_"), "Caffe2", "converted to opset 13", made)
    yield Specimen("ResNet, channels last", "Keras", "float32", channels_last)
    yield from _trained()
    yield from _other_forms()


FORMS: tuple[tuple[str, formats.Convert, tuple[str, ...]], ...] = (
    ("float16", formats.float16, ("ResNet, basic", "EfficientNet", "BERT, post-norm", "GPT-2", "Llama")),
    ("mixed float16 and float32", formats.mixed, ("BERT, post-norm", "Llama")),
    ("bfloat16", formats.bfloat16, ("ResNet, basic", "BERT, post-norm", "Llama with cache")),
    ("mixed bfloat16 and float32", formats.mixed_bfloat16, ("BERT, post-norm", "Llama")),
    ("dynamic int8", formats.dynamic_int8, ("ResNet, basic", "BERT, post-norm", "Llama with cache")),
    ("int8 (QDQ)", formats.static_int8, ("ResNet, basic", "MobileNetV2", "BERT, post-norm", "ViT")),
    ("int8 (QDQ), opset 21", formats.newer_static_int8, ("ResNet, basic", "ViT")),
    ("int8 (QOperator)", formats.operators_int8, ("ResNet, basic",)),
    ("dynamic int8, optimised by ORT", formats.optimized_dynamic_int8, ("BERT, post-norm", "Llama", "ResNet, basic")),
    ("4-bit weights (MatMulNBits)", formats.four_bit, ("BERT, post-norm", "Llama")),
    ("4-bit weights (DequantizeLinear)", formats.four_bit_between, ("BERT, post-norm", "Llama")),
    ("fused for bert", formats.fused("bert"), ("BERT, post-norm",)),
    ("fused for gpt2", formats.fused("gpt2"), ("GPT-2",)),
    ("fused for vit", formats.fused("vit"), ("ViT",)),
    ("onnxslim", formats.slimmed, ("ResNet, basic", "BERT, post-norm", "Llama with cache", "Swin")),
    ("onnxsim", formats.simplified, ("ResNet, basic", "BERT, post-norm", "ViT", "Swin")),
    ("Constant nodes", formats.with_constant_nodes, ("ResNet, basic", "BERT, post-norm")),
    ("all types written", formats.with_types, ("EfficientNet", "Llama with cache")),
    ("local functions", formats.with_functions, ("ResNet, basic",)),
    ("If inside", formats.with_control_flow, ("ResNet, bottleneck",)),
    ("Loop inside", formats.with_loops, ("ResNet, bottleneck",)),
    ("Scan inside", formats.with_scans, ("ResNet, bottleneck",)),
    ("fixed axes", formats.fixed, ("ResNet, basic", "YOLO C2f", "BERT, post-norm", "Llama")),
    ("opset 21", formats.at_opset(21), ("ConvNeXt", "BERT, post-norm")),
    ("opset 25", formats.at_opset(25), ("YOLO C2f", "GPT-2")),
)
"""Other forms, and the families that are brought into them."""


def _other_forms() -> Iterator[Specimen]:
    for form, convert, families in FORMS:
        for family in families:
            make = exporting(family, dynamo=False, opset=17)
            yield Specimen(family, OLD, form, _converting(make, convert))
    for version in (11, 13):
        for family in ("ResNet, basic", "EfficientNet", "BERT, post-norm", "GPT-2"):
            yield Specimen(family, OLD, f"float32, opset {version}", exporting(family, dynamo=False, opset=version))


TRAINED: tuple[tuple[str, str, str, str, str], ...] = (
    ("MiniLM, trained", OLD, "float32, opset 17", "minilm", "minilm.onnx"),
    ("MiniLM, trained", NEW, "float32, opset 18", "minilm", "minilm.dynamo.onnx"),
    ("EfficientNet-Lite0, trained", OLD, "float32, opset 17", "efficientnet-lite0", "efficientnet_lite0.onnx"),
    ("EfficientNet-Lite0, trained", NEW, "float32, opset 18", "efficientnet-lite0", "efficientnet_lite0.dynamo.onnx"),
    ("Whisper tiny.en encoder, trained", OLD, "float32, opset 17", "whisper-tiny", "whisper_encoder.onnx"),
    ("Whisper tiny.en encoder, trained", NEW, "float32, opset 18", "whisper-tiny", "whisper_encoder.dynamo.onnx"),
    ("SmolLM2-135M, trained", OLD, "float32, opset 17", "smollm2", "smollm2.onnx"),
    ("SmolLM2-135M with cache, trained", OLD, "float32, opset 17", "smollm2-cached", "smollm2.cached.onnx"),
    ("PP-OCRv4 detector, trained", "Paddle", "as shipped", "ppocr", "ppocr_det.onnx"),
    ("PP-OCRv4 recogniser, trained", "Paddle", "as shipped", "ppocr", "ppocr_rec.onnx"),
)
"""Networks with the weights that packages carry: family, exporter, format, recipe, file."""


def _trained() -> Iterator[Specimen]:
    for family, exporter, form, recipe, name in TRAINED:
        yield Specimen(family, exporter, form, _fetching(recipe, name))


def _fetching(recipe: str, name: str) -> Make:
    return lambda: onnx.load(models.fetch(recipe).files[name])


def exporting(family: str, *, dynamo: bool, opset: int) -> Make:
    """A way to export a family."""

    def make() -> onnx.ModelProto:
        network = as_images(images.NETWORKS[family]()) if family in images.NETWORKS else tokens.NETWORKS[family]()
        return exported(network, dynamo=dynamo, opset=opset)

    return make


def _loading(path: Path) -> Make:
    return lambda: onnx.load(path)


def _converting(make: Make, convert: formats.Convert) -> Make:
    return lambda: convert(make())
