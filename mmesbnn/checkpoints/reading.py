"""The one reader of checkpoints: of ``torch.save`` and of safetensors."""

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
from .limits import Budget, CheckpointError, check_max_bytes
from .safetensors_files import read_safetensors
from .torch_files import MapLocation, read_archive, read_legacy, trusted_names

#: Values that hold no others.
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
#: How deep lists and dicts may be nested, against recursion without end.
DEEPEST = 64
_ZIP = b'PK\x03\x04'
#: The first bytes of a pickle of protocol 2.
_PICKLE = b'\x80\x02'


def read_checkpoint(
    path: str | os.PathLike[str], *, max_bytes: int | None = None, map_location: MapLocation = 'cpu'
) -> Any:
    """Read a checkpoint: tensors, plain values and mmengine's log history, no others.

    Nothing in the file is run. Checksums are compared, lengths are checked before
    memory is asked for, and no FIFO is waited for. What the user allowed with
    ``torch.serialization.add_safe_globals`` is made, too.

    Args:
        path: A file of ``torch.save`` or safetensors.
        max_bytes: How much memory its content may take up. Default None: 256 MB more
            than four times the file's size.
        map_location: As in ``torch.load``. Default ``'cpu'``.

    Returns:
        What was saved.

    Raises:
        CheckpointError: If it is damaged, too large, or holds something else.
        OSError: If there is no such file, it may not be read, or it is not a regular
            file.
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
    """As :func:`read_checkpoint`, from an open file.

    Args:
        file: A binary file that can seek.
        size: Its size.
        name: What to call it in errors.
        max_bytes: As in :func:`read_checkpoint`.
        map_location: As in :func:`read_checkpoint`.

    Raises:
        CheckpointError: As :func:`read_checkpoint`.
    """
    budget = Budget(max_bytes, size)
    with _explained(name):
        content = _read(file, size, name, budget, map_location)
        _Walk(budget).check(content)
    return content


def read_tensors(
    path: str | os.PathLike[str], *, max_bytes: int | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and metadata of a safetensors file, whatever its name.

    Args:
        path: The file.
        max_bytes: As in :func:`read_checkpoint`.

    Raises:
        CheckpointError: If it is damaged or too large.
        OSError: As :func:`read_checkpoint`.
    """
    check_max_bytes(max_bytes)
    name = os.fspath(path)
    with open_plain(name) as file, _explained(name):
        size = os.fstat(file.fileno()).st_size
        return read_safetensors(file, size, Budget(max_bytes, size))


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn all errors but a lack of memory into a CheckpointError with the name."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f'{shorten(name, 200)}: {error}') from error
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes raise nearly anything
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
        return read_safetensors(file, size, budget)[0]
    if start == _ZIP:
        return read_archive(file, size, budget, map_location)
    if start[:2] == _PICKLE:
        return read_legacy(file, size, budget, map_location)
    raise CheckpointError('truncated, damaged or no file of torch.save or safetensors')


class _Walk:
    """Checks what was read: its types, its depth, and its size if it were unfolded.

    A list can hold another one ten times, and that one a third: a few hundred bytes
    then unfold to more than any memory. The same goes for a tensor of stride 0.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.known: dict[int, tuple[int, int]] = {}
        self.trusted = tuple(value for value in trusted_names().values() if isinstance(value, type))

    def check(self, content: Any) -> None:
        """Check all of ``content``."""
        self.budget.take(self._measure(content, 0)[0])

    def _measure(self, value: Any, depth: int) -> tuple[int, int]:
        """Number of objects in ``value``, unfolded, in bytes, and its height."""
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
        """Bytes of a tensor once it is copied."""
        return value.numel() * value.element_size()


def _is_trusted(value: Any, trusted: tuple[type, ...]) -> bool:
    """Return whether ``value`` is an object, or a class, that the user lets torch trust."""
    return isinstance(value, trusted) or any(value is kind for kind in trusted)


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return [*value, *value.values()]
    if isinstance(value, (list, tuple, set)):
        return value
    if isinstance(value, argparse.Namespace):
        return vars(value).values()
    raise CheckpointError(f'holds a {type(value).__name__} with nothing in it')
