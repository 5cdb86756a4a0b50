"""Does an exported graph compute what the torch model computes?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import openvino as ov
from torch import Tensor, nn

from ...analysis.operators import inference
from ..output_agreement import OutputAgreement, compare_all


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
        model: What it was made from.
        examples: Inputs, of one image each.
        names: Names of the outputs.

    Returns:
        One comparison for every output.

    Raises:
        ExportError: If an output is another one for most of the images.
    """
    ours: list[list[np.ndarray]] = []
    theirs: list[list[np.ndarray]] = []
    request = compiled.create_infer_request()
    with inference(model):
        for example in examples:
            request.infer([x.numpy() for x in example], share_inputs=False)
            ours.append([np.array(output.data) for output in request.output_tensors])
            outputs = _as_tuple(model(*example))
            theirs.append([y.detach().float().numpy() for y in outputs])
    unordered = getattr(model, 'unordered', False)
    return compare_all('OpenVINO', names, ours, theirs, unordered)
