"""Checks of arguments that several parts make."""

from __future__ import annotations

from typing import Any


def check_positive(**numbers: Any) -> None:
    """Raise a ``ValueError`` that names a number which is no integer >= 1."""
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f'{name}={value!r} must be an integer >= 1')
