"""Plain values from files of unknown sources, limited in size and depth."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import NoneType
from typing import Any

from .errors import MmesbnnError, shorten

#: Largest number of characters of a description, and largest depth of its values.
LONGEST, DEEPEST = 2**20, 40


class ConfigError(MmesbnnError):
    """Error about a config from a file that cannot be used; the message says why."""


def check_length(text: str, what: str) -> None:
    """Raise a :class:`ConfigError` if a text is too long."""
    if len(text) > LONGEST:
        raise ConfigError(f'{what} has {len(text)} characters, and {LONGEST} are allowed')


def check_depth(depth: int, what: str) -> None:
    """Raise a :class:`ConfigError` if a value is nested too deeply."""
    if depth > DEEPEST:
        raise ConfigError(f'{what} is nested more than {DEEPEST} levels deep')


def check_plain(value: Any, what: str, depth: int = 0) -> None:
    """Check that a value consists of numbers, strings, lists and dicts of limited depth.

    Args:
        value: Value to check.
        what: Name of the value in the message.
        depth: Depth of the value itself. Default 0.

    Raises:
        ConfigError: If it does not.
    """
    check_depth(depth, what)
    if isinstance(value, Mapping):
        for key, entry in value.items():
            if not isinstance(key, (str, int)):
                raise ConfigError(f'{what} has the key {shorten(repr(key), 80)}')
            check_plain(entry, what, depth + 1)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            check_plain(entry, what, depth + 1)
    elif isinstance(value, int):
        if abs(value) >= 2**63:
            raise ConfigError(f'{what} holds a number of more than 63 bits')
    elif not isinstance(value, (str, float, NoneType)):
        raise ConfigError(f'{what} holds a {type(value).__name__}')


def parse_json(
    text: str, what: str, object_hook: Callable[..., Any] | None = None
) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        text: JSON text.
        what: Name of the text in the message.
        object_hook: As ``json.loads``'s. Default None.

    Raises:
        ConfigError: If it is not JSON, is not an object, is too long, or is nested too
            deeply.
    """
    check_length(text, what)
    try:
        value = json.loads(text, object_hook=object_hook)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f'{what} is no JSON: {shorten(str(error), 80)}') from error
    if not isinstance(value, dict):
        raise ConfigError(f'{what} is not a dict')
    check_plain(value, what)
    return value


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        OSError: If the file does not exist.
        ConfigError: As :func:`parse_json`.
    """
    if not path.is_file():
        raise FileNotFoundError(f'{path}: no such file')
    with path.open('rb') as file:
        content = file.read(4 * LONGEST + 1)
    try:
        return parse_json(content.decode(), str(path))
    except UnicodeDecodeError as error:
        raise ConfigError(f'{path} is not text') from error
