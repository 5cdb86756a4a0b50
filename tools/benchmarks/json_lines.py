"""Files of one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmesbnn.whole_files import whole_file

Line = dict[str, Any]


def read(path: Path) -> list[Line]:
    """Read the lines of ``path``; there are none if the file does not exist."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path: Path, lines: Iterable[Line]) -> None:
    """Write the whole file."""
    with whole_file(path) as partial:
        partial.write_text(''.join(json.dumps(line) + '\n' for line in lines))
