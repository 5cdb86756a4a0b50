"""Comparing an exported graph with the torch model it was made from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import openvino as ov
from torch import Tensor, nn

from ...analysis.operators import inference
from ..output_agreement import OutputAgreement, compare_all
from ..tasks.detector_graphs import has_unordered_rows


def _as_tuple(outputs: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


def verify(
    compiled: ov.CompiledModel,
    model: nn.Module,
    examples: Sequence[tuple[Tensor, ...]],
    names: Sequence[str],
) -> list[OutputAgreement]:
    """Compare a compiled graph with the model, image by image.

    Args:
        compiled: For batches of one image.
        model: The torch model.
        examples: Inputs, of one image each.
        names: Names of the outputs.

    Returns:
        One comparison for every output.

    Raises:
        ExportError: If an output differs for most of the images.
    """
    outputs: list[list[np.ndarray]] = []
    expected: list[list[np.ndarray]] = []
    request = compiled.create_infer_request()
    with inference(model):
        for example in examples:
            request.infer([x.numpy() for x in example], share_inputs=False)
            outputs.append([np.array(output.data) for output in request.output_tensors])
            tensors = _as_tuple(model(*example))
            expected.append([y.detach().float().numpy() for y in tensors])
    return compare_all('OpenVINO', names, outputs, expected, unordered=has_unordered_rows(model))
