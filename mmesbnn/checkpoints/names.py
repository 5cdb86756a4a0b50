"""Functions that replace the names in a checkpoint's pickle.

They accept the arguments that mmengine, the published scripts and ``torch.save`` write, and
raise an error for all others.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from torch import Tensor, nn

from . import arrays
from .arrays import are_sizes, is_shape
from .limits import CheckpointError
from .unpickler import Name, Pending, is_key

_STATISTICS = ('min', 'max', 'current', 'mean')
#: Functions of numbers, by name, that the state of mmengine's ``OneCycleLR`` holds.
ANNEALING = {
    name: getattr(OneCycleParamScheduler, name)
    for name in ('_annealing_cos', '_annealing_linear')
    if hasattr(OneCycleParamScheduler, name)  # private in mmengine
}
_TENSOR_CLASSES = (
    Name('torch._tensor.Tensor'),
    Name('torch.Tensor'),
    Name('torch.nn.parameter.Parameter'),
)
#: Objects that ``torch.save`` can write but no network of this package holds.
_REFUSED = {
    'torch._utils._rebuild_sparse_tensor': 'a sparse tensor',
    'torch._utils._rebuild_qtensor': 'a quantized tensor',
    'torch._utils._rebuild_meta_tensor_no_storage': 'a tensor without data',
    'torch._utils._rebuild_nested_tensor': 'a nested tensor',
    'torch._utils._rebuild_wrapper_subclass': 'a tensor of another class',
    'torch._utils._rebuild_device_tensor_from_numpy': 'a tensor of another device',
    'torch._utils._rebuild_device_tensor_from_cpu_tensor': 'a tensor of another device',
}
_STORAGES = {
    'Double': torch.float64,
    'Float': torch.float32,
    'Half': torch.float16,
    'BFloat16': torch.bfloat16,
    'Long': torch.int64,
    'Int': torch.int32,
    'Short': torch.int16,
    'Char': torch.int8,
    'Byte': torch.uint8,
    'Bool': torch.bool,
    'ComplexDouble': torch.complex128,
    'ComplexFloat': torch.complex64,
    'Untyped': torch.uint8,
}


@dataclass(frozen=True, eq=False)
class StorageClass:
    """Class of storages that a persistent id names.

    Args:
        dtype: Dtype of the entries.
    """

    dtype: torch.dtype


@dataclass(frozen=True, eq=False)
class Storage:
    """Memory of tensors.

    Args:
        data: Bytes of the memory.
        dtype: Dtype of the entries.
    """

    data: torch.UntypedStorage
    dtype: torch.dtype


def _refuse(words: str) -> Any:
    def call(*_: Any) -> Any:
        raise CheckpointError(f'holds {words}')

    return call


def _extent(size: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """Return the number of entries of its storage that a tensor spans."""
    if 0 in size:
        return 0
    return 1 + sum((n - 1) * step for n, step in zip(size, stride))


def _tensor(
    storage: Any, offset: Any, size: Any, stride: Any, dtype: torch.dtype | None = None
) -> Tensor:
    if type(storage) is not Storage:
        raise CheckpointError('holds a tensor without data')
    dtype = storage.dtype if dtype is None else dtype
    wrong = not (is_shape(size) and are_sizes(stride) and are_sizes((offset,)))
    if wrong or len(size) != len(stride):
        raise CheckpointError('holds a tensor with a wrong shape')
    end = (offset + _extent(size, stride)) * dtype.itemsize
    if end > storage.data.nbytes():
        raise CheckpointError(
            f'holds a tensor of shape {tuple(size)}, which reaches beyond its data'
        )
    return torch.empty(0, dtype=dtype, device=storage.data.device).set_(
        storage.data, offset, size, stride
    )


def _with_grad(tensor: Tensor, requires_grad: Any) -> Tensor:
    if type(requires_grad) is not bool:
        raise CheckpointError('holds a tensor of an unknown form')
    return tensor.requires_grad_(requires_grad)


def _tensor_v2(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any = False,
    hooks: Any = None,
    metadata: Any = None,
) -> Tensor:
    if hooks or metadata:
        raise CheckpointError('holds a tensor of an unknown form')
    return _with_grad(_tensor(storage, offset, size, stride), requires_grad)


def _tensor_v3(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any,
    hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> Tensor:
    if hooks or metadata or not isinstance(dtype, torch.dtype):
        raise CheckpointError('holds a tensor of an unknown form')
    return _with_grad(_tensor(storage, offset, size, stride, dtype), requires_grad)


def _parameter(data: Any, requires_grad: Any = True, *_: Any) -> nn.Parameter:
    if type(data) is not Tensor or type(requires_grad) is not bool:
        raise CheckpointError('holds a parameter of an unknown form')
    return nn.Parameter(data.detach(), requires_grad)


def _from_type(function: Any, cls: Any, arguments: Any, state: Any) -> Tensor:
    """Make a tensor without the attributes that it had."""
    is_rebuild = isinstance(function, Name) and function.path in _REBUILDS
    if not is_rebuild or cls not in _TENSOR_CLASSES or type(arguments) is not tuple:
        raise CheckpointError('holds a tensor of another class')
    return _REBUILDS[function.path](*arguments)


_REBUILDS: dict[str, Callable[..., Tensor]] = {
    'torch._utils._rebuild_tensor': _tensor,
    'torch._utils._rebuild_tensor_v2': _tensor_v2,
    'torch._utils._rebuild_tensor_v3': _tensor_v3,
    'torch._utils._rebuild_parameter': _parameter,
    'torch._utils._rebuild_parameter_with_state': _parameter,
}


def _size(size: Any) -> torch.Size:
    size = tuple(size) if type(size) is list else size
    if not is_shape(size):
        raise CheckpointError('holds a wrong shape')
    return torch.Size(size)


def _device(kind: Any, index: Any = None) -> torch.device:
    if type(kind) is not str or type(index) not in (int, type(None)):
        raise CheckpointError('holds an unknown device')
    return torch.device(kind) if index is None else torch.device(kind, index)


def _ordered_dict(items: Any = ()) -> OrderedDict[Any, Any]:
    if isinstance(items, dict):
        items = list(items.items())
    pairs = [tuple(pair) for pair in items if type(pair) in (list, tuple)]
    if len(pairs) != len(items) or any(len(pair) != 2 for pair in pairs):
        raise CheckpointError('holds an OrderedDict of an unknown form')
    return OrderedDict((_checked_key(key), value) for key, value in pairs)


def _checked_key(key: Any) -> Any:
    if not is_key(key):
        raise CheckpointError(f'has a {type(key).__name__} as a key')
    return key


def _counter(counts: Any = ()) -> Counter[Any]:
    # the keys of a dict were checked when it was made
    if counts != () and type(counts) is not dict:
        raise CheckpointError('holds a Counter of an unknown form')
    return Counter(counts)


def _set(values: Any = ()) -> set[Any]:
    if type(values) not in (list, tuple):
        raise CheckpointError('holds a set of an unknown form')
    return {_checked_key(value) for value in values}


def _encode(text: Any, encoding: Any = 'latin1') -> bytes:
    """Make bytes. Pickles of protocol 2 write them as text."""
    if type(text) is not str or encoding not in ('latin1', 'latin-1'):
        raise CheckpointError('holds bytes of an unknown form')
    return text.encode('latin1')


def _bytes(*arguments: Any) -> bytes:
    if arguments:
        raise CheckpointError('holds bytes of an unknown form')
    return b''


def _bytearray(*arguments: Any) -> bytearray:
    if not arguments:
        return bytearray()
    # with a number as argument it would allocate that many bytes
    if len(arguments) == 1 and type(arguments[0]) is bytes:
        return bytearray(arguments[0])
    return bytearray(_encode(*arguments))


def _complex(real: Any, imaginary: Any) -> complex:
    if type(real) is not float or type(imaginary) is not float:
        raise CheckpointError('holds a complex number of an unknown form')
    return complex(real, imaginary)


class _History(Pending):
    """Log history whose arrays come later in the pickle."""

    def build(self, state: Any) -> HistoryBuffer:
        wanted = {'max_length', '_log_history', '_count_history', 'statistics_methods'}
        if type(state) is not dict or not set(state) <= wanted:
            raise CheckpointError('holds a HistoryBuffer of an unknown form')
        values = [state.get('_log_history'), state.get('_count_history')]
        if not all(isinstance(v, np.ndarray) and v.ndim == 1 for v in values):
            raise CheckpointError('holds a HistoryBuffer without arrays')
        methods = state.get('statistics_methods', {})
        is_plain = type(methods) is dict and all(
            name in _STATISTICS and method == getattr(HistoryBuffer, name)
            for name, method in methods.items()
        )
        if not is_plain or type(state.get('max_length')) is not int:
            raise CheckpointError('holds a HistoryBuffer of an unknown form')
        history = HistoryBuffer(max_length=state['max_length'])
        history._log_history, history._count_history = values
        return history


class _Namespace(Pending):
    """Arguments of a published script."""

    def build(self, state: Any) -> argparse.Namespace:
        if type(state) is not dict or not all(type(key) is str for key in state):
            raise CheckpointError('holds a Namespace of an unknown form')
        return argparse.Namespace(**state)


def _method(owner: Any, name: Any) -> Any:
    """Return a function that mmengine writes, the only allowed use of ``getattr``.

    With the real ``getattr`` a file could reach ``os.system`` from any class.
    """
    if type(name) is str:
        if owner is _HISTORY and name in _STATISTICS:
            return getattr(HistoryBuffer, name)
        if owner is _ONE_CYCLE and name in ANNEALING:
            return ANNEALING[name]
    raise CheckpointError('uses getattr for something else than a log history or a schedule')


_HISTORY = Name('mmengine.logging.history_buffer.HistoryBuffer', _History)
_ONE_CYCLE = Name('mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler')


def _table() -> dict[str, Any]:
    calls = {
        'builtins.getattr': _method,
        'builtins.set': _set,
        'builtins.bytearray': _bytearray,
        'builtins.bytes': _bytes,
        'builtins.complex': _complex,
        '_codecs.encode': _encode,
        'collections.OrderedDict': _ordered_dict,
        'collections.Counter': _counter,
        'argparse.Namespace': _Namespace,
        'torch.Size': _size,
        'torch.device': _device,
        'torch._tensor._rebuild_from_type_v2': _from_type,
        **_REBUILDS,
        **{path: _refuse(words) for path, words in _REFUSED.items()},
    }
    table: dict[str, Any] = {path: Name(path, call) for path, call in calls.items()}
    table |= arrays.NAMES
    table |= {name.path: name for name in (_HISTORY, _ONE_CYCLE, *_TENSOR_CLASSES)}
    for kind, dtype in _STORAGES.items():
        storage = StorageClass(dtype)
        table[f'torch.{kind}Storage'] = table[f'torch.storage.{kind}Storage'] = storage
    return table


_TABLE = _table()


def _dtype(path: str) -> torch.dtype | None:
    module, _, name = path.partition('.')
    value = getattr(torch, name, None) if module == 'torch' else None
    return value if isinstance(value, torch.dtype) else None


def find(path: str, trusted: dict[str, Any]) -> Any:
    """Return the replacement of the name ``path``.

    Args:
        path: Dotted name in a pickle.
        trusted: Objects that the user lets torch trust, by name.

    Raises:
        CheckpointError: If the name is unknown.
    """
    for known in (_TABLE.get(path), _dtype(path), trusted.get(path)):
        if known is not None:
            return known
    shown = path if re.fullmatch(r'[\w.]{1,100}', path) else ascii(path[:100])
    raise CheckpointError(
        f'holds the object {shown.removeprefix("builtins.")}, and only tensors and '
        'plain values are read, since anything else could run code: save its '
        'state_dict alone'
    )
