"""Reader of safetensors files: a JSON header and the bytes of the tensors."""

from __future__ import annotations

import json
import math
import sys
from typing import Any, BinaryIO

import torch
from torch import Tensor

from .arrays import are_sizes, is_shape
from .limits import Budget, CheckpointError

DTYPES = {
    'F64': torch.float64,
    'F32': torch.float32,
    'F16': torch.float16,
    'BF16': torch.bfloat16,
    'I64': torch.int64,
    'I32': torch.int32,
    'I16': torch.int16,
    'I8': torch.int8,
    'U8': torch.uint8,
    'BOOL': torch.bool,
}
#: Largest number of bytes in memory per byte of the header, after parsing.
_HEADER_COST = 32


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise CheckpointError('its header has one name twice')
    return entries


def _header(file: BinaryIO, size: int, budget: Budget) -> tuple[dict[str, Any], int]:
    """Return the header, and the position of the tensors."""
    length = int.from_bytes(file.read(8), 'little')
    if size < 10 or not 2 <= length <= size - 8:
        raise CheckpointError('is truncated, or no safetensors file')
    budget.take(_HEADER_COST * length)
    try:
        header = json.loads(file.read(length).decode(), object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError('its header is no JSON') from error
    if type(header) is not dict:
        raise CheckpointError('its header is not a dict')
    return header, 8 + length


def _entry(name: str, entry: Any) -> tuple[int, int, torch.dtype, list[int]]:
    """Return begin, end, dtype and shape of a tensor."""
    if type(entry) is not dict or set(entry) != {'dtype', 'shape', 'data_offsets'}:
        raise CheckpointError(f'the header entry {name[:100]!r} has an unknown form')
    shape, ends, kind = entry['shape'], entry['data_offsets'], entry['dtype']
    if type(kind) is not str or kind not in DTYPES:
        raise CheckpointError(f'{name[:100]!r} has the dtype {str(kind)[:40]!r}')
    plain = type(shape) is list and is_shape(tuple(shape))
    plain = plain and type(ends) is list and len(ends) == 2 and are_sizes(tuple(ends))
    if not plain or ends[1] - ends[0] != math.prod(shape) * DTYPES[kind].itemsize:
        raise CheckpointError(f'shape and offsets of {name[:100]!r} do not fit')
    return ends[0], ends[1], DTYPES[kind], shape


def read_metadata(file: BinaryIO, size: int, budget: Budget) -> dict[str, str]:
    """Read the metadata alone; arguments and error are those of :func:`read_safetensors`."""
    return _metadata(_header(file, size, budget)[0])


def _metadata(header: dict[str, Any]) -> dict[str, str]:
    """Take the metadata out of a header."""
    metadata = header.pop('__metadata__', None) or {}
    if type(metadata) is not dict or not all(type(value) is str for value in metadata.values()):
        raise CheckpointError('its __metadata__ is not a dict of strings')
    return metadata


def read_safetensors(
    file: BinaryIO, size: int, budget: Budget
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and metadata.

    Args:
        file: Open file at its beginning.
        size: Size of the file in bytes.
        budget: Counter of the memory.

    Raises:
        CheckpointError: If it is damaged.
    """
    header, start = _header(file, size, budget)
    metadata = _metadata(header)
    entries = [(*_entry(name, entry), name) for name, entry in header.items()]
    entries.sort(key=lambda entry: entry[:2])
    at, tensors = 0, {}
    for begin, end, dtype, shape, name in entries:
        if begin != at or end > size - start:
            raise CheckpointError(f'the offsets of {name[:100]!r} do not fit the file')
        data = torch.empty(end - begin, dtype=torch.uint8, device='cpu')  # not torch's default
        if end > begin and file.readinto(data.numpy()) != end - begin:  # type: ignore[attr-defined]
            raise CheckpointError('is truncated')
        if sys.byteorder == 'big' and dtype.itemsize > 1:
            data.untyped_storage().byteswap(dtype)
        tensors[name] = data.view(dtype).view(shape)
        at = end
    if at != size - start:
        raise CheckpointError('holds more bytes than tensors')
    return {name: tensors[name] for name in header}, metadata
