"""Single reader of checkpoints, for files of ``torch.save`` and of safetensors."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor

from ..errors import shorten
from ..plain_files import open_plain
from .bits import PACKED
from .limits import Budget, CheckpointError, check_max_bytes
from .names import ANNEALING
from .safetensors_files import read_metadata, read_safetensors
from .torch_files import MapLocation, read_archive, read_legacy, trusted_names

#: Types of values that hold no other values.
_LEAVES = (
    str,
    bytes,
    bytearray,
    int,
    float,
    complex,
    type(None),
    np.ndarray,
    np.generic,
    torch.dtype,
    torch.device,
    HistoryBuffer,
)
#: Largest depth of nested lists and dicts, against endless recursion.
DEEPEST = 64
_ZIP = b'PK\x03\x04'
#: First bytes of a pickle of protocol 2.
_PICKLE = b'\x80\x02'


def read_checkpoint(
    path: str | os.PathLike[str], *, max_bytes: int | None = None, map_location: MapLocation = 'cpu'
) -> Any:
    """Read a checkpoint of tensors, plain values and mmengine's log history only.

    Nothing in the file is run. Checksums are compared. Lengths are checked before memory is
    allocated. The function never waits for a FIFO. Objects that the user allowed with
    ``torch.serialization.add_safe_globals`` are read, too.

    Args:
        path: File of ``torch.save`` or safetensors.
        max_bytes: Largest memory of its content in bytes. Default None: four times the
            file's size plus 256 MB.
        map_location: As in ``torch.load``. Default ``'cpu'``.

    Returns:
        Content of the file.

    Raises:
        CheckpointError: If it is damaged, is too large, or holds anything else.
        OSError: If the file does not exist, cannot be read, or is not a regular file.
        ValueError: If ``max_bytes`` is not a positive number.
    """
    check_max_bytes(max_bytes)
    name = os.fspath(path)
    with open_plain(name) as file:
        size = os.fstat(file.fileno()).st_size
        return read_open(file, size, name, max_bytes=max_bytes, map_location=map_location)


def read_open(
    file: BinaryIO,
    size: int,
    name: str,
    *,
    max_bytes: int | None = None,
    map_location: MapLocation = 'cpu',
) -> Any:
    """Read a checkpoint from an open file, as :func:`read_checkpoint`.

    Args:
        file: Binary file that can seek.
        size: Size of the file in bytes.
        name: Name of the file in errors.
        max_bytes: As in :func:`read_checkpoint`.
        map_location: As in :func:`read_checkpoint`.

    Raises:
        CheckpointError: As :func:`read_checkpoint`.
    """
    budget = Budget(max_bytes, size)
    with explained(name):
        content = _read(file, size, name, budget, map_location)
        _Walk(budget).check(content)
    return content


def read_tensors(
    path: str | os.PathLike[str], *, max_bytes: int | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and metadata of a safetensors file with any name.

    Args:
        path: File to read.
        max_bytes: As in :func:`read_checkpoint`.

    Raises:
        CheckpointError: If it is damaged or too large.
        OSError: As :func:`read_checkpoint`.
    """
    check_max_bytes(max_bytes)
    name = os.fspath(path)
    with open_plain(name) as file, explained(name):
        size = os.fstat(file.fileno()).st_size
        return read_safetensors(file, size, Budget(max_bytes, size))


def metadata_of(
    path: str | os.PathLike[str], *, max_bytes: int | None = None
) -> dict[str, str] | None:
    """Read the metadata of a safetensors file with any name; return None for another file.

    Args:
        path: File to read.
        max_bytes: As in :func:`read_checkpoint`.

    Raises:
        OSError: As :func:`read_checkpoint`.
    """
    check_max_bytes(max_bytes)
    with open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            return read_metadata(file, size, Budget(max_bytes, size))
        except CheckpointError:
            return None


def lacks_memory(error: Exception) -> bool:
    """Return whether an error of torch says that there is not enough memory. It is of no kind."""
    return 'DefaultCPUAllocator' in str(error)


@contextlib.contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn all errors except a lack of memory into a CheckpointError with the name."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f'{shorten(name, 200)}: {error}') from error
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes raise many kinds of errors
        if lacks_memory(error):
            raise MemoryError(f'{shorten(name, 200)}: not enough memory to read it') from error
        raise CheckpointError(
            f'{shorten(name, 200)}: truncated, damaged or no file of torch.save or '
            f'safetensors ({type(error).__name__})'
        ) from error


def _read(file: BinaryIO, size: int, name: str, budget: Budget, map_location: MapLocation) -> Any:
    start = file.read(4)
    file.seek(0)
    if size == 0:
        raise CheckpointError('is empty')
    if name.endswith('.safetensors'):
        tensors, metadata = read_safetensors(file, size, budget)
        if metadata.get('format', '').startswith(PACKED):
            raise CheckpointError(
                'is a packed network, not a checkpoint: use the checkpoint that was packed, or '
                'mmesbnn.deploy.load_packed'
            )
        return tensors
    if start == _ZIP:
        return read_archive(file, size, budget, map_location)
    if start[:2] == _PICKLE:
        return read_legacy(file, size, budget, map_location)
    raise CheckpointError('truncated, damaged or no file of torch.save or safetensors')


class _Walk:
    """Check of the types, the depth and the unfolded size of the content.

    A list can hold another list ten times, and that list a third one ten times. A few
    hundred bytes can then unfold to more than any memory. A tensor of stride 0 can, too.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.known: dict[int, tuple[int, int]] = {}
        self.trusted = tuple(value for value in trusted_names().values() if isinstance(value, type))

    def check(self, content: Any) -> None:
        """Check all of ``content``."""
        self.budget.take(self._measure(content, 0)[0])

    def _measure(self, value: Any, depth: int) -> tuple[int, int]:
        """Return the bytes of ``value`` if it were unfolded, and its depth."""
        if depth > DEEPEST:
            raise CheckpointError(f'is nested deeper than {DEEPEST} times')
        if isinstance(value, Tensor):
            return self._tensor(value), 0
        if isinstance(value, _LEAVES) or _is_trusted(value, self.trusted):
            return 1, 0
        if id(value) not in self.known:
            size, height = 1, 0
            for inner in _inside(value):
                more, inner_height = self._measure(inner, depth + 1)
                size, height = size + more, max(height, inner_height + 1)
            if depth + height > DEEPEST:
                raise CheckpointError(f'is nested deeper than {DEEPEST} times')
            self.known[id(value)] = size, height
        size, height = self.known[id(value)]
        if depth + height > DEEPEST:
            raise CheckpointError(f'is nested deeper than {DEEPEST} times')
        return size, height

    @staticmethod
    def _tensor(value: Tensor) -> int:
        """Return the bytes of a copy of a tensor."""
        return value.numel() * value.element_size()


def _is_trusted(value: Any, trusted: tuple[type, ...]) -> bool:
    """Return True if ``value`` is of a schedule, or an object or class that torch may trust."""
    known = (*trusted, *ANNEALING.values())
    return isinstance(value, trusted) or any(value is one for one in known)


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return [*value, *value.values()]
    if isinstance(value, (list, tuple, set)):
        return value
    if isinstance(value, argparse.Namespace):
        return vars(value).values()
    raise CheckpointError(f'holds a {type(value).__name__} with nothing in it')
