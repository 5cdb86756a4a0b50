"""First run of a network that is exported, whose errors say what does not fit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..binary.modes import inference
from ..errors import sentence, shorten
from .runtime.manifest import ExportError


@contextlib.contextmanager
def dtypes_named(network: nn.Module, example: Sequence[Tensor]) -> Iterator[None]:
    """Name the dtypes in an error of torch about a run, if weights and inputs have several.

    Args:
        network: Network that runs inside.
        example: Its inputs.

    Raises:
        ExportError: If the run fails and a weight has a dtype that no input has.
    """
    try:
        yield
    except RuntimeError as error:
        weights, inputs = (
            {str(x.dtype) for x in tensors if x.is_floating_point()}
            for tensors in (network.parameters(), example)
        )
        if not inputs or weights <= inputs:
            raise
        raise ExportError(
            f'the network has weights of {", ".join(sorted(weights))}, and its inputs are '
            f'{", ".join(sorted(inputs))}: both must be of one dtype, as after network.float() '
            f'({sentence(error)})'
        ) from error


def check_outputs(outputs: Sequence[Any]) -> None:
    """Check that a network gives tensors and nothing else.

    Args:
        outputs: Its outputs, as a flat list.

    Raises:
        ExportError: If there are none, or one is no tensor, such as None.
    """
    if not outputs:
        raise ExportError('the network gives no outputs: must give tensors')
    for place, value in enumerate(outputs):
        if not isinstance(value, Tensor):
            given = shorten(repr(value), 60)
            raise ExportError(f'the network gives {given} as output {place}: must be a tensor')


def check_run(network: nn.Module, example: Sequence[Tensor], names: Sequence[str]) -> list[Tensor]:
    """Run a network once, before the long work, and count its outputs.

    Args:
        network: Network to export.
        example: Its inputs.
        names: Names of its outputs.

    Returns:
        Its outputs.

    Raises:
        ExportError: If it has another number of outputs, one that is no tensor, or weights of
            another dtype.
    """
    with inference(network), dtypes_named(network, example):
        outputs = tree_leaves(network(*example))
    check_outputs(outputs)
    if len(outputs) != len(names):
        raise ExportError(
            f'the network gives {len(outputs)} outputs: its task has {len(names)}, '
            f'{", ".join(names)}'
        )
    return outputs
