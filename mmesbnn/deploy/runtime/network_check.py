"""Check that the network in an export's folder is the one that its manifest describes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .manifest import ExportError
from .manifest_schema import Manifest


def _sizes(port: Any) -> list[int] | None:
    """Shape of a port, -1 being any size; None: any shape."""
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


def check_network(network: Any, manifest: Manifest, path: Path) -> None:
    """Compare a network with a manifest.

    Args:
        network: An ``openvino.Model``.
        manifest: The manifest.
        path: The network's file, for the message.

    Raises:
        ExportError: If it has another number of inputs or outputs, or of other shapes
            or types. Sizes of inputs that are open in the one must be open in the
            other, those of outputs need not.
    """
    for name, ports, entries in (
        ('inputs', network.inputs, manifest.inputs),
        ('outputs', network.outputs, manifest.outputs),
    ):
        if len(ports) != len(entries):
            raise ExportError(
                f'{path}: has {len(ports)} {name}, its manifest describes {len(entries)}'
            )
        for port, entry in zip(ports, entries):
            if not _fits(_sizes(port), entry.shape, name == 'outputs'):
                raise ExportError(
                    f'{path}: of its {name}, {entry.name} has shape '
                    f'{_sizes(port)}, in its manifest {list(entry.shape)} (-1: any)'
                )
            kind = port.get_element_type().get_type_name()
            if name == 'inputs' and kind != 'f32':
                raise ExportError(f'{path}: its input {entry.name} has type {kind}, not f32')
