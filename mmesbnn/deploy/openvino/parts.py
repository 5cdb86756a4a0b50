"""Conversion of a detector in two parts: a native backbone, and neck and heads in OpenVINO."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from ...binary.modes import inference
from ..runtime.manifest import ExportError
from .graph import Conversion, binary_graph, native_form, to_openvino


def with_parts(
    conversion: Conversion,
    parts: tuple[nn.Module, nn.Module],
    example: tuple[Tensor, ...],
    *,
    output_names: Sequence[str],
    half: bool,
) -> Conversion:
    """Add the native form of a detector to its conversion.

    Args:
        conversion: Conversion of the whole detector.
        parts: Backbone, and neck with heads, which read the maps of the backbone.
        example: An image.
        output_names: Names of the outputs.
        half: Whether to round full-precision weights to half precision.

    Returns:
        ``conversion`` with ``native`` and ``head``, or with the reason why there are none.
    """
    backbone, head = parts
    try:
        graph, layers = binary_graph(backbone, example)
        if not any(layer.binary for layer in layers):
            return replace(conversion, native='no layer of the backbone is binary')
        native = native_form(graph, example, half)
        if isinstance(native, str):
            return replace(conversion, native=native)
        with inference(backbone):
            maps = backbone(*example)
        converted = to_openvino(
            head,
            maps,
            input_names=[f'map{i}' for i in range(len(maps))],
            output_names=output_names,
            half=half,
        )
    except ExportError as error:  # of a part only: the whole network was converted
        return replace(conversion, native=str(error))
    return replace(conversion, native=native, head=converted.graph)
