"""Layers of a block that are compiled on their own.

A block that holds many equal layers takes long to compile as one graph. Its equal layers share a
graph when they are compiled one by one.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import nn

_Forward = TypeVar('_Forward', bound=Callable[..., Any])
#: Takes the forward function of a part, the part, and the function's arguments.
Call = Callable[..., Any]

_call: ContextVar[Call | None] = ContextVar('call', default=None)


@contextlib.contextmanager
def parts_called_by(call: Call) -> Iterator[None]:
    """Let ``call`` run the parts inside the modules that run during this."""
    token = _call.set(call)
    try:
        yield
    finally:
        _call.reset(token)


def part(forward: _Forward) -> _Forward:
    """Let a layer with this ``forward`` be a part, see :func:`parts_called_by`."""

    @functools.wraps(forward)
    def wrapper(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        call = None if torch.compiler.is_compiling() else _call.get()
        if call is None:
            return forward(self, *args, **kwargs)
        # not the layer itself, which would come here again where torch does not compile it
        return call(forward, self, *args, **kwargs)

    return wrapper  # type: ignore[return-value]
