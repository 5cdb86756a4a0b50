"""Does an exported graph compute what the torch model computes?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import openvino as ov
from torch import Tensor, nn

from ..analysis.operators import inference
from .manifest import ExportError

#: Relative error (of the L2 norm) from which on an output counts as another one.
#: Rounding flips signs of values near a threshold, which changes an output a little.
TOLERANCE = 0.1


@dataclass(frozen=True)
class Agreement:
    """How one output of a graph compares with the model's.

    Attributes:
        output: Its name.
        max_difference: Largest absolute difference.
        median_difference: Median over the images of the largest absolute difference.
        largest: Largest magnitude of the model's output.
        top1: Share of rows (last axis) whose largest entry is the same one; None for
            outputs that are no scores.
        images: How many images were compared.
        exact: How many of them differ by less than 1e-4 of the largest magnitude.
    """

    output: str
    max_difference: float
    median_difference: float
    largest: float
    top1: float | None
    images: int
    exact: int

    def __str__(self) -> str:
        text = (
            f'{self.output}: max |difference| {self.max_difference:.2g} of '
            f'{self.largest:.3g}, median {self.median_difference:.2g}; '
            f'{self.exact} of {self.images} images agree but for rounding'
        )
        if self.top1 is not None:
            text += f'; top-1 agrees for {100 * self.top1:.2f} %'
        return text


def _as_tuple(outputs: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


def _compare(
    name: str, ours: np.ndarray, theirs: np.ndarray, scores: bool
) -> Agreement:
    rows = (len(ours), -1)
    differences = np.abs(ours - theirs).reshape(rows).max(1)
    largest = float(np.abs(theirs).max())
    top1 = None
    if scores:
        top1 = float((ours.argmax(-1) == theirs.argmax(-1)).mean())
    return Agreement(
        name, float(differences.max()), float(np.median(differences)), largest, top1,
        len(ours), int((differences <= 1e-4 * max(largest, 1e-30)).sum()),
    )  # fmt: skip


def verify(
    compiled: ov.CompiledModel, model: nn.Module,
    examples: Sequence[tuple[Tensor, ...]], names: Sequence[str],
) -> list[Agreement]:  # fmt: skip
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
    ours: list[list[np.ndarray]] = [[] for _ in names]
    theirs: list[list[np.ndarray]] = [[] for _ in names]
    request = compiled.create_infer_request()
    with inference(model):
        for example in examples:
            request.infer([x.numpy() for x in example], share_inputs=False)
            for i, y in enumerate(_as_tuple(model(*example))):
                theirs[i].append(y.detach().float().numpy())
                ours[i].append(np.array(request.get_output_tensor(i).data))
    agreements = []
    for name, mine, other in zip(names, ours, theirs):
        errors = [
            np.linalg.norm(a - b) / max(float(np.linalg.norm(b)), 1e-30)
            for a, b in zip(mine, other)
        ]
        if not np.median(errors) <= TOLERANCE:
            raise ExportError(
                f"the graph's output {name} is not the model's: relative error "
                f'{np.median(errors):.2g}; nothing was written'
            )
        agreements.append(
            _compare(
                name, np.concatenate(mine), np.concatenate(other),
                name in ('logits', 'scores'),
            )
        )  # fmt: skip
    return agreements
