"""Error about a project that cannot be used, and conversion of other errors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ..errors import MmesbnnError


class InputError(MmesbnnError):
    """Error about a config, a checkpoint or data that cannot be used; it says why."""


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn any error into an :class:`InputError` ``what: first line of the error``."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f'{what}: {_first_line(error)}') from error


def _first_line(error: Exception) -> str:
    text = str(error)
    if isinstance(error, KeyError) and error.args:
        text = str(error.args[0])  # str() of a KeyError is the repr of its message
    elif isinstance(error, OSError) and error.strerror:
        text = f'{error.strerror}: {error.filename}'
    return next(iter(text.strip().splitlines()), type(error).__name__)
