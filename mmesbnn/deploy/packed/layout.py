"""Layout of the tensors in a packed file, and the checksum of its content."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import warnings
import zlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...checkpoints import CheckpointError
from ...checkpoints.arrays import is_shape
from ...errors import shorten

#: Name of the checksum in the metadata.
CHECKSUM = 'sha256'
#: Largest number of bytes in memory per byte of a layout, after parsing.
_COST = 32
#: Largest layout in bytes, about 20,000 tensors. Repeated text takes a thousandth of its size in
#: the file, so with a larger limit a small file could cost much memory and time.
_LARGEST = 2**21


def flatten(content: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Join the tensors to one tensor per dtype, and return the layout of their content."""
    flat: dict[str, list[Tensor]] = {}
    layout = []
    for key, value in content.items():
        kind = str(value.dtype).removeprefix('torch.')
        flat.setdefault(kind, []).append(value.flatten())
        layout.append([key, kind, list(value.shape)])
    text = json.dumps(layout, separators=(',', ':')).encode()
    tensors = {kind: torch.cat(values) for kind, values in flat.items()}
    return tensors, base64.b64encode(zlib.compress(text, 9)).decode()


def unflatten(
    flat: Mapping[str, Tensor], layout: str, max_bytes: int | None = None
) -> dict[str, Tensor]:
    """Split tensors by a layout, the inverse of :func:`flatten`.

    Args:
        flat: One tensor per dtype.
        layout: Layout of their content.
        max_bytes: Largest memory of the layout in bytes. Default None: 64 MB.

    Raises:
        CheckpointError: If tensors and layout do not match.
    """
    for kind, value in flat.items():
        if value.dim() != 1 or kind != str(value.dtype).removeprefix('torch.'):
            raise CheckpointError(f'damaged, its tensor {shorten(kind, 60)} is not flat')
    content: dict[str, Tensor] = {}
    at = dict.fromkeys(flat, 0)
    for entry in _entries(layout, max_bytes):
        key, kind, shape = _entry(entry)
        if kind not in flat or key in content:
            raise CheckpointError(
                f'damaged, its layout does not fit: {shorten(key, 100)} is there twice '
                f'or of the unknown type {shorten(kind, 60)}'
            )
        end = at[kind] + math.prod(shape)
        if end > len(flat[kind]):
            raise CheckpointError(
                f'damaged, its layout does not fit: {shorten(key, 100)} lies beyond the data'
            )
        content[key] = flat[kind][at[kind] : end].view(shape)
        at[kind] = end
    if any(at[kind] != len(flat[kind]) for kind in flat):
        raise CheckpointError('damaged, its layout does not fit: there are more data')
    return content


def _entries(layout: str, max_bytes: int | None) -> list[Any]:
    largest = _LARGEST if max_bytes is None else max(1, max_bytes // _COST)
    machine = zlib.decompressobj()
    try:
        text = machine.decompress(base64.b64decode(layout, validate=True), largest)
        if machine.unconsumed_tail:
            raise CheckpointError(
                f'its layout is larger than {largest} bytes; if you trust it, raise '
                'max_bytes (--max-bytes)'
            )
        if not machine.eof or machine.unused_data:
            raise CheckpointError('damaged, its layout is cut')
        entries = json.loads(text)
    except (zlib.error, binascii.Error, RecursionError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f'damaged, its layout does not fit ({type(error).__name__})'
        ) from error
    if type(entries) is not list:
        raise CheckpointError('damaged, its layout does not fit: it is no list')
    return entries


def _entry(entry: Any) -> tuple[str, str, list[int]]:
    """Return key, dtype and shape of an entry of the layout, checked."""
    is_plain = (
        type(entry) is list
        and [type(part) for part in entry] == [str, str, list]
        and is_shape(tuple(entry[2]))
    )
    if not is_plain:
        raise CheckpointError(
            'damaged, its layout does not fit: an entry is not [key, dtype, shape]'
        )
    return entry[0], entry[1], entry[2]


def checksum(flat: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return the SHA-256 of all tensors and of all metadata except the checksum itself."""
    total = hashlib.sha256()
    others = {key: value for key, value in metadata.items() if key != CHECKSUM}
    total.update(json.dumps(others, sort_keys=True).encode())
    for kind in sorted(flat):
        values = flat[kind].detach().cpu().contiguous()
        total.update(f'{kind}:{values.numel()};'.encode())
        if values.numel():
            total.update(values.view(torch.uint8).numpy().data)
    return total.hexdigest()


def check_checksum(flat: Mapping[str, Tensor], metadata: Mapping[str, str], name: str) -> None:
    """Compare the checksum of a file with its content.

    It warns if there is no checksum, as in files of earlier versions.

    Args:
        flat: Tensors of the file.
        metadata: Metadata of the file.
        name: Name of the file in the message.

    Raises:
        CheckpointError: If the checksum differs.
    """
    if CHECKSUM not in metadata:
        warnings.warn(
            f'{name}: packed without a checksum, by an earlier version; damage in its '
            'weights cannot be noticed: pack the checkpoint again',
            stacklevel=5,
        )
    elif any(value.dim() != 1 for value in flat.values()):
        raise CheckpointError('damaged, a tensor in it is not flat')
    elif checksum(flat, metadata) != metadata[CHECKSUM]:
        raise CheckpointError('damaged: its content does not have its checksum')
