"""Comparison of an exported graph with its torch model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import openvino as ov
from torch import Tensor, nn

from ... import native
from ..output_agreement import OutputAgreement, compare_runs
from ..runtime.program import Program
from ..tasks.detector_graphs import has_unordered_rows


def verify(
    compiled: ov.CompiledModel,
    model: nn.Module,
    examples: Sequence[tuple[Tensor, ...]],
    names: Sequence[str],
) -> list[OutputAgreement]:
    """Compare a compiled graph with the model, image by image.

    Args:
        compiled: Graph compiled for batches of one image.
        model: The torch model.
        examples: Inputs of one image each.
        names: Names of the outputs.

    Returns:
        One comparison for every output.

    Raises:
        ExportError: If an output differs for most of the images.
    """
    request = compiled.create_infer_request()

    def run(example: Sequence[Tensor]) -> list[np.ndarray]:
        request.infer([x.numpy() for x in example], share_inputs=False)
        return [np.array(output.data) for output in request.output_tensors]

    unordered = has_unordered_rows(model)
    return compare_runs('OpenVINO', names, run, model, examples, unordered)


def verify_native(
    program: Program,
    data: np.ndarray,
    head: ov.CompiledModel | None,
    model: nn.Module,
    examples: Sequence[tuple[Tensor, ...]],
    names: Sequence[str],
) -> list[OutputAgreement]:
    """Compare a program of the native library with the model, as :func:`verify` does.

    Args:
        program: The program.
        data: Its data.
        head: Graph that reads the outputs of the program; None if they are those of the model.
        model: The torch model.
        examples: Inputs of one image each.
        names: Names of the outputs.
    """
    engine = native.Engine(np.array(program.code()), data)

    def run(example: Sequence[Tensor]) -> list[np.ndarray]:
        maps = engine.run(example[0].numpy())
        if head is None:
            return [y.reshape(len(y), -1) for y in maps]
        return [np.array(y) for y in head(maps).values()]

    unordered = has_unordered_rows(model)
    return compare_runs('the native library', names, run, model, examples, unordered)
