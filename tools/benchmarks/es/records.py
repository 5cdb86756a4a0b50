"""Trainings that are done, a line of JSON each, so that none is done twice."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from json_lines import read, write

from .forms import Form, Setting

Key = tuple[Setting, str, int]
#: Entries that every record has.
KEYS = (*asdict(Setting()), 'form', 'seed')


def key_of(record: dict[str, Any]) -> Key:
    """Return what a record is a training of."""
    setting = Setting(**{name: record[name] for name in asdict(Setting())})
    return setting, record['form'], record['seed']


@dataclass
class Records:
    """The file of records.

    Args:
        path: ``NAME.jsonl``; made with the first record.

    Raises:
        ValueError: If the file is damaged, or that of another command.
    """

    path: Path
    found: dict[Key, dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        self.found = {key_of(record): record for record in read(self.path, *KEYS)}

    def get(self, setting: Setting, form: Form, seed: int) -> dict[str, Any] | None:
        """Return the record of a training, None if it was not done."""
        return self.found.get((setting, str(form), seed))

    def add(self, record: dict[str, Any]) -> None:
        """Write a record, and those that another process wrote before.

        The file is not locked: of two processes that add at the same moment one loses its
        record, and its training is done again next time.
        """
        self.found |= {key_of(x): x for x in read(self.path, *KEYS)} | {key_of(record): record}
        write(self.path, self.found.values())
