"""Error about a project that cannot be used, and conversion of other errors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ..errors import MmesbnnError, sentence


class InputError(MmesbnnError):
    """Error about a config, a checkpoint or data that cannot be used; it says why."""


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn any error into an :class:`InputError` ``what: sentence of the error``."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f'{what}: {sentence(error)}') from error
