"""Changes of a config on a command line."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any

from mmengine.config import DictAction

from .errors import shorten

#: Spaces inside a text. Those beside a comma or inside the ends of brackets separate values.
INNER = re.compile(r'(?<=[^ ,(\[]) +(?=[^ ,)\]])')
#: Stands for a space, because no argument of a command line can hold it.
KEPT = '\0'


def _with_spaces(value: Any) -> Any:
    """Return a value, or a list of them, with the spaces that ``KEPT`` stands for."""
    if isinstance(value, str):
        return value.replace(KEPT, ' ')
    if isinstance(value, (list, tuple)):
        return type(value)(map(_with_spaces, value))
    return value


class ConfigChanges(DictAction):
    """Read ``KEY=VALUE`` as mmengine does, but keep the spaces in a text.

    mmengine removes them, so that a path with a space names another file.
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        changes = dict(getattr(namespace, self.dest, None) or {})
        for given in values or ():
            key, equals, text = given.partition('=')
            said = shorten(repr(given), 100)
            if not key or not equals:
                raise argparse.ArgumentError(self, f'{said} must have the form KEY=VALUE')
            inner = INNER.sub(lambda found: KEPT * len(found[0]), text)
            try:
                changes[key] = _with_spaces(self._parse_iterable(inner))
            except AssertionError:
                raise argparse.ArgumentError(self, f'{said} must close its brackets') from None
        setattr(namespace, self.dest, changes)
