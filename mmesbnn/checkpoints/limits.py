"""Limit of the memory for reading a file, and the error about refused files."""

from __future__ import annotations

from typing import BinaryIO

from ..errors import MmesbnnError

#: Bytes of memory that any file may use beyond four times its own size.
SPARE = 2**28
#: Approximate memory of one object of a pickle in bytes.
OBJECT_SIZE = 128


class CheckpointError(MmesbnnError):
    """Error about a file that is damaged, is too large, or holds other data."""


class Budget:
    """Counter of the memory for reading a file.

    Args:
        max_bytes: Limit in bytes. None is four times the file's size plus ``SPARE``.
        size: Size of the file.
    """

    def __init__(self, max_bytes: int | None, size: int) -> None:
        self.limit = 4 * size + SPARE if max_bytes is None else max_bytes
        self.used = 0

    def take(self, size: int) -> None:
        """Count ``size`` bytes more.

        Raises:
            CheckpointError: If the limit is exceeded.
        """
        self.used += size
        if self.used > self.limit:
            raise CheckpointError(
                f'its content takes up more than {self.limit} bytes in memory; if you '
                'trust it, raise max_bytes (--max-bytes)'
            )


def check_max_bytes(max_bytes: int | None) -> None:
    """Check the argument ``max_bytes``.

    Raises:
        ValueError: If it is not a positive number.
    """
    is_number = isinstance(max_bytes, int) and not isinstance(max_bytes, bool)
    if max_bytes is not None and not (is_number and max_bytes > 0):
        raise ValueError(f'max_bytes={max_bytes!r} must be a positive int or None')


class Source:
    """Reader of a range of bytes of an open file, in order.

    Args:
        file: Open file.
        start: Position of the first byte.
        end: Position after the last byte.
    """

    def __init__(self, file: BinaryIO, start: int, end: int) -> None:
        self.file, self.at, self.end = file, start, end
        file.seek(start)

    def read(self, size: int) -> bytes:
        """Read exactly ``size`` bytes.

        Raises:
            CheckpointError: If fewer bytes are left.
        """
        if not 0 <= size <= self.end - self.at:
            raise CheckpointError('ends too early')
        data = self.file.read(size)
        if len(data) != size:
            raise CheckpointError('ends too early')
        self.at += size
        return data

    def read_line(self, longest: int = 512) -> bytes:
        """Read up to a line feed, which is not part of the result."""
        line = self.file.readline(min(longest, self.end - self.at))
        self.at += len(line)
        if not line.endswith(b'\n'):
            raise CheckpointError('a name in it is too long')
        return line[:-1]
