"""Limit of the memory for building a network that a file describes.

A config of a few bytes can describe a network of any size. The memory that its constructors
request is therefore counted before it is allocated. (A first build on the meta device would
fail for valid networks, because many constructors read values of tensors.)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from .limits import SPARE, CheckpointError

#: Bytes that stand for one operation of a constructor. The tensor or module that it leaves takes
#: less, but it also takes time: 256 MB are 32,768 operations, which take up to half a minute.
_OPERATION = 2**13


def size_of(tensors: Iterable[Tensor]) -> int:
    """Return the number of bytes of ``tensors``."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _on_meta(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device='meta')


def _pieces(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Return the number of tensors into which an operation cuts its input, 1 if it does not.

    A loop over a tensor cuts it into rows. They are views without memory of their own, but
    each is an object of several hundred bytes.
    """
    if operation._schema.name.rpartition('::')[2] not in ('unbind', 'unbind_copy', 'split'):
        return 1
    names = (argument.name for argument in operation._schema.arguments)
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    length, step = given['self'].shape[given.get('dim', 0)], given.get('split_size', 1)
    return -(-length // max(step, 1))


def _result_size(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Return the bytes that an operation of torch will allocate."""
    schema = operation._schema
    if not schema.returns or all(value.alias_info for value in schema.returns):
        return 0  # a view, or in place
    args, kwargs = tree_map_only(Tensor, _on_meta, (args, kwargs))
    names = {argument.name for argument in schema.arguments}
    kwargs.update({'device': torch.device('meta')} if 'device' in names else {})
    kwargs.update({'generator': None} if 'generator' in kwargs else {})
    try:
        results = tree_flatten(operation(*args, **kwargs))[0]
    except Exception:  # the result depends on values, or is a number
        return 0
    return size_of(result for result in results if isinstance(result, Tensor))


class _Counted(TorchDispatchMode):
    """Mode that counts the memory of operations before they allocate it."""

    def __init__(self, limit: int, sentence: str) -> None:
        super().__init__()
        self.limit, self.sentence, self.used = limit, sentence, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        self._use(_OPERATION * _pieces(func, args, kwargs))
        self._use(_result_size(func, args, dict(kwargs)))
        return func(*args, **kwargs)

    def _use(self, size: int) -> None:
        self.used += size
        if self.used > self.limit:
            raise CheckpointError(self.sentence)


def _sentence(limit: int, weights: int) -> str:
    return (
        f'its config describes a network of more than {limit} bytes, but its weights are '
        f'{weights} bytes'
    )


def bounded_build(
    weights: int, max_bytes: int | None = None
) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which building a network may take limited memory only.

    Args:
        weights: Bytes of the weights in the network.
        max_bytes: Largest memory for building in bytes. Default None: four times
            ``weights`` plus 256 MB.

    Raises:
        CheckpointError: In the context, before the limit is exceeded.
    """
    limit = max(4 * weights + SPARE, max_bytes or 0)
    sentence = f'{_sentence(limit, weights)}; if you trust it, raise max_bytes (--max-bytes)'
    return _Counted(limit, sentence)


def bounded_load(weights: int, growth: int) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which other code may build a network and load it, in limited memory.

    Args:
        weights: Bytes of the files of the weights.
        growth: Largest number of bytes of memory for one of these bytes; 256 MB are added.

    Raises:
        CheckpointError: In the context, before the limit is exceeded.
    """
    limit = growth * weights + SPARE
    return _Counted(limit, _sentence(limit, weights))
