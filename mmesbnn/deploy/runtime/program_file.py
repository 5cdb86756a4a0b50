"""The file of a program, ``model.native``.

It begins with ``MMESBNN`` and a line end, and the number of bytes of a header, 8 bytes,
lowest first. The header is JSON: a :class:`~mmesbnn.deploy.runtime.program.Program`, and the
sha256 of the data. Zeros fill up to a multiple of 64 bytes. The data begin there.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...errors import MmesbnnError, sentence
from ...native.engine import aligned
from ...plain_files import open_plain
from ...whole_files import whole_file
from .program import Program
from .program_maps import ALIGNMENT
from .schema import Digits, Unfit
from .strict_json import parse_strict_json

MAGIC = b'MMESBNN\n'
#: Largest size of a header in bytes, about 50 times the header of our largest network.
_LARGEST = 2**25
#: Largest depth of nested lists and dicts; a header has 9.
_DEEPEST = 12


class ProgramError(MmesbnnError):
    """Error about a file that is not a program; the message gives the reason."""


def write_program(path: str | os.PathLike[str], program: Program, data: np.ndarray) -> None:
    """Write a program and its data, uint8.

    Raises:
        OSError: If it cannot be written.
    """
    content = {'sha256': hashlib.sha256(data.data).hexdigest(), **program.to_dict()}
    header = json.dumps(content, separators=(',', ':')).encode()
    header += b' ' * (-(len(MAGIC) + 8 + len(header)) % ALIGNMENT)
    with whole_file(Path(path)) as partial, partial.open('wb') as file:
        file.write(MAGIC + len(header).to_bytes(8, 'little') + header)
        file.write(data.data)


def read_program(path: str | os.PathLike[str]) -> tuple[Program, np.ndarray]:
    """Read a program and its data, and check every number.

    Args:
        path: The file. Files from unknown sources are safe to read.

    Raises:
        ProgramError: If it cannot be read, is not a program, or was changed.
    """
    try:
        with open_plain(path) as file:
            return _read(file)
    except (OSError, ValueError, MemoryError) as error:
        reason = getattr(error, 'strerror', None) or sentence(error)
        raise ProgramError(f'{path}: cannot be read ({reason})') from error


def _read(file: BinaryIO) -> tuple[Program, np.ndarray]:
    start = file.read(len(MAGIC) + 8)
    size = int.from_bytes(start[len(MAGIC) :], 'little')
    if start[: len(MAGIC)] != MAGIC or size > _LARGEST:
        raise ValueError('it does not begin as a program does')
    header = file.read(size)
    content: Any = parse_strict_json(header.decode('utf-8'), _DEEPEST)
    if not isinstance(content, dict):
        raise Unfit('header', content, 'a dict')
    digest = content.pop('sha256', None)
    Digits(64).check(digest, 'sha256')
    program = Program.from_dict(content)
    left = os.fstat(file.fileno()).st_size - len(start) - size
    if left != program.nbytes:
        raise Unfit('nbytes', program.nbytes, f'{left}, which follow')
    data = aligned(program.nbytes)
    if file.readinto(data.data) != program.nbytes:  # type: ignore[attr-defined]
        raise ValueError('it became shorter')
    if hashlib.sha256(data.data).hexdigest() != digest:
        raise ValueError('its data is not that of its sha256')
    return program, data
