"""Files of one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmesbnn.plots.curves import json_record
from mmesbnn.whole_files import whole_file

Line = dict[str, Any]


def read(path: Path, *keys: str) -> list[Line]:
    """Read the lines of ``path``; there are none if the file does not exist.

    Args:
        path: File to read.
        *keys: Entries that each line must have.

    Raises:
        ValueError: If a line is damaged, or lacks one of ``keys``.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().splitlines()
    return [_parsed(line, f'line {i} of {path}', keys) for i, line in enumerate(lines, 1)]


def _parsed(line: bytes, name: str, keys: Iterable[str]) -> Line:
    found = json_record(line, name)
    missing = next((key for key in keys if key not in found), None)
    if missing is not None:
        raise ValueError(f'{name} has no {missing!r}: is the file that of another command?')
    return found


def write(path: Path, lines: Iterable[Line]) -> None:
    """Write the whole file."""
    with whole_file(path) as partial:
        partial.write_text(''.join(json.dumps(line) + '\n' for line in lines))
