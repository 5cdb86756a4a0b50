"""Rules of the arguments of the exports to ONNX."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from torch import Tensor

from ..checks import filled_text, instance, integer, sequence
from .first_run import check_outputs
from .runtime.manifest import ExportError

#: Pads have values of any kind since opset 11; torch's exporter knows no later one than 23.
OPSET = integer(11, 23)
EXAMPLES = sequence(sequence(instance(Tensor, 'a tensor'), shortest=1), shortest=1)
NAMES = sequence(filled_text, distinct=True)


def check_examples(
    examples: Sequence[Sequence[Tensor]],
    input_names: Sequence[str],
    output_names: Sequence[str] | None,
    *,
    open_batch: bool,
) -> None:
    """Raise a ``ValueError`` if examples or names contradict each other.

    Args:
        examples: Inputs, one tuple per example.
        input_names: Names of the inputs.
        output_names: Names of the outputs, or None.
        open_batch: Whether examples can have batches of different sizes.
    """
    same = set(input_names) & set(output_names or ())
    if same:
        raise ValueError(f'output_names={list(output_names or ())} has names of input_names')
    if len(examples[0]) != len(input_names):
        raise ValueError(
            f'input_names={list(input_names)} must be one name for each tensor of an example, '
            f'{len(examples[0])}'
        )
    expected = [list(x.shape) for x in examples[0]]
    for i, example in enumerate(examples):
        shapes = [list(x.shape) for x in example]
        if [x[open_batch:] for x in shapes] != [x[open_batch:] for x in expected]:
            but = ', except for the batch' if open_batch else ''
            raise ValueError(
                f'examples[{i}] has the shapes {shapes}: must be those of examples[0], '
                f'{expected}{but}'
            )


def names_of(outputs: Sequence[Tensor], given: Sequence[str] | None) -> Sequence[str]:
    """Return the names of outputs: ``given``, or ``output_0`` and so on.

    Raises:
        ValueError: If the number of names is not that of the outputs.
        ExportError: If an output is no tensor, or there is none.
    """
    check_outputs(outputs)
    if not given:
        return [f'output_{i}' for i in range(len(outputs))]
    if len(given) != len(outputs):
        raise ValueError(
            f'output_names={list(given)} must be one name for each output, {len(outputs)}'
        )
    return given


def feed_of(
    read: Iterable[str], input_names: Sequence[str], example: Sequence[Tensor]
) -> dict[str, np.ndarray]:
    """Return the inputs of a graph by their names.

    torch leaves out an input that the network does not read.

    Args:
        read: Names of the inputs that the graph has.
        input_names: Names of all inputs.
        example: Inputs.

    Raises:
        ExportError: If the graph reads none of them.
    """
    known = set(read)
    feed = {name: x.detach().numpy() for name, x in zip(input_names, example) if name in known}
    if not feed:
        raise ExportError(
            f'the network reads none of its inputs, input_names={list(input_names)}: its outputs '
            'are constants'
        )
    return feed
