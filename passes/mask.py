"""Put a mask on what each region adds: at one the model is the original, at zero the region is the identity.

With d = merge - entry, the value at the merge becomes ``merge + (mask - 1) * d``. A mask of ones adds zeros, so that
what is measured around it is measured at the original itself. So does a shift of zeros, by which the merge itself may
be moved in any direction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from skipc.passes.base import copied, opset_of
from skipc.passes.builder import Builder
from skipc.passes.candidate import ValueType
from skipc.passes.flow import Flow
from skipc.passes.normalize import sort_nodes
from skipc.runtime import names
from skipc.runtime.plan import Region

FIRST = -1.0
"""Preferred place of nodes that belong before all others."""


@dataclass(frozen=True)
class MaskRegions:
    """Add the input `names.REGION_MASK`, float32 [regions], one factor for what each region adds to its entry value.

    Requires a normalised model. Regions may lie inside one another or share a merge; element k of the mask belongs to
    region k.
    """

    regions: tuple[Region, ...]

    def apply(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return the masked copy."""
        model = copied(model)
        count = len(self.regions)
        model.graph.input.append(helper.make_tensor_value_info(names.REGION_MASK, TensorProto.FLOAT, [count]))
        flow = Flow.of(model.graph)
        nodes = list(model.graph.node)
        builder = Builder("skipc/region_mask", opset_of(model))
        gaps = builder.op("Sub", [names.REGION_MASK, builder.constant(1.0)])
        placed: list[tuple[float, onnx.NodeProto]] = []
        for merge in dict.fromkeys(region.merge for region in self.regions):
            place = flow.producer[merge]
            _rename_output(nodes[place], merge, _unmasked(merge))
            placed += [(place + 0.5, node) for node in self._masks(model, merge, gaps)]
        first = builder.fragment()
        model.graph.initializer.extend(first.initializers)
        sort_nodes(model.graph, [*((FIRST, node) for node in first.nodes), *enumerate(nodes), *placed])
        return model

    def _masks(self, model: onnx.ModelProto, merge: str, gaps: str) -> Sequence[onnx.NodeProto]:
        """The nodes from the unmasked merge to the merge, through the mask of every region that ends there."""
        ending = [i for i, region in enumerate(self.regions) if region.merge == merge]
        value = _unmasked(merge)
        builder = Builder(f"skipc/region_mask/{merge}", opset_of(model))
        for i in ending:
            output = merge if i == ending[-1] else ""
            value = _masked(builder, self.regions[i], value, gaps, i, output)
        fragment = builder.fragment()
        model.graph.initializer.extend(fragment.initializers)
        return fragment.nodes


@dataclass(frozen=True)
class ShiftMerges:
    """Add an input `names.shift` for each merge, which is added to it: its derivative is the merge's.

    Requires a normalised model, masked or not.
    """

    regions: tuple[Region, ...]

    def apply(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return the copy with the inputs."""
        model = copied(model)
        flow = Flow.of(model.graph)
        nodes = list(model.graph.node)
        placed: list[tuple[float, onnx.NodeProto]] = []
        for merge, region in {region.merge: region for region in self.regions}.items():
            dims = [dim if isinstance(dim, int) else None for dim in region.dims]
            shift = names.shift(merge)
            model.graph.input.append(helper.make_tensor_value_info(shift, TensorProto.FLOAT, dims))
            place = flow.producer[merge]
            _rename_output(nodes[place], merge, f"{shift}/before")
            builder = Builder(shift, opset_of(model))
            typed = shift if region.elem_type == TensorProto.FLOAT else builder.cast(shift, region.elem_type)
            # By its own name: in a masked model a node is already named like the merge.
            shifted = helper.make_node("Add", [f"{shift}/before", typed], [merge], name=f"{shift}/add")
            placed += [(place + 0.5, node) for node in (*builder.fragment().nodes, shifted)]
        sort_nodes(model.graph, [*enumerate(nodes), *placed])
        return model


@dataclass(frozen=True)
class FixInputs:
    """Write the extents of one run into the graph's inputs, so that inference finds every shape.

    Shapes stated elsewhere are dropped: they name dimensions that have numbers now. For a model that is only run on
    inputs of these shapes.

    Attributes:
        shapes: by name of a graph input; inputs that are not named stay as they are.
    """

    shapes: Mapping[str, tuple[int, ...]]

    def apply(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return the copy with its inferred shapes."""
        model = copied(model)
        for item in model.graph.input:
            if item.name in self.shapes:
                dims = [onnx.TensorShapeProto.Dimension(dim_value=extent) for extent in self.shapes[item.name]]
                item.type.tensor_type.shape.CopyFrom(onnx.TensorShapeProto(dim=dims))
        del model.graph.value_info[:]
        for item in model.graph.output:
            item.type.tensor_type.ClearField("shape")
        return onnx.shape_inference.infer_shapes(model)


@dataclass(frozen=True)
class DeclareTypes:
    """Write down what is known of values by a run, where inference finds less. For a model that is only run so."""

    types: Mapping[str, ValueType]

    def apply(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return the copy; values without a declared type get one."""
        model = copied(model)
        outside = {item.name for item in (*model.graph.input, *model.graph.output)}
        kept = [item for item in model.graph.value_info if item.name not in self.types]
        found = [
            helper.make_tensor_value_info(name, known.elem_type, list(known.dims))
            for name, known in self.types.items()
            if name not in outside
        ]
        del model.graph.value_info[:]
        model.graph.value_info.extend([*kept, *found])
        return model


def _unmasked(merge: str) -> str:
    return f"skipc/region_mask/{merge}/unmasked"


def _rename_output(node: onnx.NodeProto, old: str, new: str) -> None:
    node.output[:] = [new if name == old else name for name in node.output]


def _masked(builder: Builder, region: Region, value: str, gaps: str, index: int, output: str) -> str:
    gap = builder.op("Gather", [gaps, builder.constant(index, np.int64)], axis=0)
    if region.elem_type != TensorProto.FLOAT:
        gap = builder.cast(gap, region.elem_type)
    added = builder.op("Sub", [value, region.entry])
    return builder.op("Add", [value, builder.op("Mul", [added, gap])], output=output)
