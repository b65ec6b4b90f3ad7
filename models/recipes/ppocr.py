"""The text detector and recogniser of PP-OCRv4, as the exporter of Paddle wrote them."""

from __future__ import annotations

import shutil

from models.recipe import Recipe, Workshop
from models.sources import PypiArchive

ARCHIVE = PypiArchive(
    "rapidocr-onnxruntime",
    "1.4.4",
    "rapidocr_onnxruntime-1.4.4-py3-none-any.whl",
    "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
)
FILES = {"ppocr_det.onnx": "ch_PP-OCRv4_det_infer.onnx", "ppocr_rec.onnx": "ch_PP-OCRv4_rec_infer.onnx"}


def build(workshop: Workshop) -> None:
    """Copy the models: both take `x` float32 [batch, 3, height, width], the recogniser in lines 48 pixels high."""
    folder = workshop.unpacked(ARCHIVE) / "rapidocr_onnxruntime" / "models"
    for name, original in FILES.items():
        shutil.copyfile(folder / original, workshop.out / name)


PPOCR = Recipe(
    "ppocr", 1, "PP-OCRv4, a text detector and a text recogniser from Paddle's exporter", tuple(FILES), build
)
