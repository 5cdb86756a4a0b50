"""Transforms of torch that record or replace the operators of a network.

``torch.fx.symbolic_trace`` keeps some layers and functions whole. It calls a network with a
``Proxy``, which has no shape and no dtype. What asks for them becomes one node of the graph, as
torch's own layers do.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.fx import Proxy, Tracer

_Function = TypeVar('_Function', bound=Callable[..., Any])


def is_transformed() -> bool:
    """Return True inside ``torch.func`` transforms and forward-mode differentiation."""
    if torch.compiler.is_compiling():
        return False
    return forward_ad._current_level >= 0 or torch._C._functorch.maybe_current_level() is not None


def is_seen(*operands: Tensor) -> bool:
    """Return whether a mode, a trace or a subclass of tensors can see which operator runs."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()  # type: ignore[attr-defined]  # public, not in its __all__
        or torch._C._len_torch_dispatch_stack() > 0
        or not all(type(x) in (Tensor, nn.Parameter) for x in operands)
    )


def whole_function(function: _Function) -> _Function:
    """Let a function whose first argument is a tensor be one node of a symbolic trace."""

    @functools.wraps(function)
    def wrapper(x: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(x, Proxy):
            return x.tracer.create_proxy('call_function', wrapper, (x, *args), kwargs)
        return function(x, *args, **kwargs)

    return wrapper  # type: ignore[return-value]


def whole_layer(forward: _Function) -> _Function:
    """Let a module with this ``forward`` be one node of a symbolic trace.

    Raises:
        TypeError: In a trace of the module itself, which would hold nothing but itself.
    """

    @functools.wraps(forward)
    def wrapper(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        x = args[0] if args else kwargs.get('input')
        if not isinstance(x, Proxy):
            return forward(self, *args, **kwargs)
        root = getattr(x.tracer, 'root', None)
        if root is self:
            raise TypeError(
                f'{type(self).__name__} asks for the shape of its input, so torch.fx can '
                'trace the modules that hold it, but not the layer alone'
            )
        tracer = cast(Tracer, x.tracer)  # only a tracer of modules calls a module
        name = tracer.path_of_module(self)
        return tracer.create_proxy('call_module', name, args, kwargs)

    return wrapper  # type: ignore[return-value]
