"""Strict reader of JSON from unknown sources, with limits."""

from __future__ import annotations

import json
import re
from typing import Any

from ...errors import shorten

#: Pattern of a string, which may lack its end, or of a bracket outside strings. No part of
#: it can match in two ways, so the time is linear.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL)


def _check_depth(text: str, deepest: int) -> None:
    depth = 0
    for match in _TOKEN.finditer(text):
        depth += {'[': 1, '{': 1, ']': -1, '}': -1}.get(match[0], 0)
        if depth > deepest:
            raise ValueError(f'nested more than {deepest} deep')


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f'the key {shorten(key, 40)!r} occurs twice')
        found[key] = value
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f'{name} is not a number in JSON')


def parse_strict_json(text: str, deepest: int) -> Any:
    """Parse JSON as ``json.loads`` does, but accept strict JSON only.

    Args:
        text: Text to parse.
        deepest: Largest depth of nested lists and dicts.

    Raises:
        ValueError: If the text is not JSON, is nested too deeply, has a key twice in a
            dict, or holds ``NaN`` or ``Infinity``.
    """
    _check_depth(text, deepest)
    return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
