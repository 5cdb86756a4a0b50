"""Check that the network in an export's folder matches its manifest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .manifest import ExportError
from .manifest_schema import Output


def _sizes(port: Any) -> list[int] | None:
    """Return the shape of a port, with -1 for any size; None is any shape."""
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic:
        return None
    return [-1 if size.is_dynamic else size.get_length() for size in shape]


def _fits(found: list[int] | None, described: Sequence[int], open_fits: bool) -> bool:
    if found is None:
        return open_fits
    return len(found) == len(described) and all(
        a == b or (open_fits and -1 in (a, b)) for a, b in zip(found, described)
    )


def check_network(
    network: Any, inputs: Sequence[Output], outputs: Sequence[Output], path: Path
) -> None:
    """Compare a network with a manifest.

    Args:
        network: An ``openvino.Model``.
        inputs: Its inputs in the manifest.
        outputs: Its outputs in the manifest.
        path: File of the network, for the message.

    Raises:
        ExportError: If numbers, shapes or types of inputs and outputs differ. An open size
            of an input must be open in both; an open size of an output need not be.
    """
    for name, ports, entries in (
        ('inputs', network.inputs, inputs),
        ('outputs', network.outputs, outputs),
    ):
        if len(ports) != len(entries):
            raise ExportError(
                f'{path}: has {len(ports)} {name}, but its manifest describes {len(entries)}'
            )
        for port, entry in zip(ports, entries):
            if not _fits(_sizes(port), entry.shape, name == 'outputs'):
                raise ExportError(
                    f'{path}: {entry.name} of its {name} has shape {_sizes(port)}, but '
                    f'{list(entry.shape)} in its manifest (-1: any)'
                )
            kind = port.get_element_type().get_type_name()
            if name == 'inputs' and kind != 'f32':
                raise ExportError(f'{path}: its input {entry.name} has type {kind}, not f32')
