"""Models without their weights, which lie in one file beside them: cheap to rewrite, and read by every session."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto, numpy_helper

from benchmarks.cuda.networks import Array, Exported
from skipc.runtime.session import Session, open_session

WEIGHTS = "weights.bin"
ALIGNMENT = 4096
SMALL_BYTES = 1024
"""Weights up to this size stay in the model."""


@dataclass(frozen=True)
class Shelf:
    """A folder with the weights of one network.

    Attributes:
        folder: that holds nothing else.
    """

    folder: Path

    def put(self, network: Exported) -> onnx.ModelProto:
        """Write the weights; the model that refers to them."""
        self.folder.mkdir(parents=True, exist_ok=True)
        model = onnx.ModelProto()
        model.CopyFrom(network.model)
        fed = [item for item in model.graph.input if item.name not in network.weights]
        read = {name for node in model.graph.node for name in node.input}
        del model.graph.input[:]
        model.graph.input.extend(fed)
        end = 0
        with (self.folder / WEIGHTS).open("wb") as file:
            for name, array in network.weights.items():
                if name not in read:
                    continue
                if array.nbytes <= SMALL_BYTES:
                    model.graph.initializer.append(numpy_helper.from_array(array, name))
                    continue
                end += -end % ALIGNMENT
                file.seek(end)
                array.tofile(file)
                model.graph.initializer.append(_reference(name, array, end))
                end += array.nbytes
        return model

    def open(
        self,
        model: onnx.ModelProto,
        *,
        provider: str,
        threads: int,
        optimize: bool = True,
        provider_options: Mapping[str, str] | None = None,
        extents: Mapping[str, int] | None = None,
    ) -> Session:
        """A session of a model whose weights lie here; takes what `open_session` takes."""
        path = self.folder / "opened.onnx"
        path.write_bytes(model.SerializeToString())
        try:
            return open_session(
                path,
                provider=provider,
                threads=threads,
                optimize=optimize,
                provider_options=provider_options,
                extents=extents,
            )
        finally:
            path.unlink()


def _reference(name: str, array: Array, offset: int) -> TensorProto:
    """A tensor that lies in the file of weights."""
    tensor = TensorProto(
        name=name,
        data_type=onnx.helper.np_dtype_to_tensor_dtype(array.dtype),
        dims=array.shape,
        data_location=TensorProto.EXTERNAL,
    )
    for key, value in (("location", WEIGHTS), ("offset", offset), ("length", array.nbytes)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor
