"""Weights of a checkpoint, and comparison of them with a network's entries."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import shorten
from .limits import CheckpointError

#: Prefix that ``DataParallel`` adds to every key.
WRAPPER = 'module.'

_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def listed(names: Iterable[Any], limit: int = 3, longest: int = 100) -> str:
    """List ``names`` in one short phrase: ``'a, b, c and 4 more'``.

    Args:
        names: Names to list.
        limit: Number of names to show. Default 3.
        longest: Number of characters of a name to show. Default 100.
    """
    names = list(names)
    more = f' and {len(names) - limit} more' if len(names) > limit else ''
    return ', '.join(shorten(str(name), longest) for name in names[:limit]) + more


def strip_wrapper(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state dict without the prefix ``module.``, if all of its keys have it."""
    if state and all(key.startswith(WRAPPER) for key in state):
        return {key[len(WRAPPER) :]: value for key, value in state.items()}
    return dict(state)


def read_by(model: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of ``state`` by the names in which ``model`` loads them.

    mmdet's semi-supervised detectors load a plain detector into student and teacher.
    """
    is_plain = not any('student' in key or 'teacher' in key for key in state)
    if is_plain and any(cls.__name__ == 'SemiBaseDetector' for cls in type(model).__mro__):
        return {f'{x}.{key}': value for x in ('student', 'teacher') for key, value in state.items()}
    return dict(state)


def why_not_filled(model: nn.Module) -> str | None:
    """Return why a network cannot take weights, or None.

    torch copies them into tensors on the device meta without an error, and they are lost.
    """
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if value.is_meta:
            return f'its {_short(name)} is on the device meta, without values; build it on another'
    return None


def with_versions(state: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``state`` with the versions of modules that the network's state dict ``own`` has.

    Files and copies do not keep them. Without a version a module can take its entries for
    those of its oldest form: it renames them, or raises an error as torchvision's MNASNet.

    Args:
        state: Entries with the names and shapes of ``own``.
        own: State dict of the network.
    """
    result = OrderedDict(state)
    result._metadata = getattr(own, '_metadata', None)  # type: ignore[attr-defined]
    return result


def state_dict_of(content: Any, keys: Iterable[str] = ('state_dict',)) -> dict[str, Tensor]:
    """Return the weights in a checkpoint.

    Args:
        content: Content of the file: a training checkpoint or a bare state dict.
        keys: Keys of the weights in a training checkpoint. Default ``('state_dict',)``.

    Raises:
        CheckpointError: If there are no weights, or if an entry is not a dense tensor of
            plain numbers with a string as its key.
    """
    state = content
    if isinstance(content, Mapping):
        state = next((content[key] for key in keys if key in content), content)
    if not isinstance(state, Mapping) or not state:
        found = 'an empty dict' if state == {} else f'a {type(state).__name__}'
        raise CheckpointError(f'holds no state dict but {found}')
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f'holds no state dict: {shorten(repr(key), 100)} is a '
                f'{type(value).__name__}, not a tensor'
            )
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            raise CheckpointError(f'{shorten(key, 100)} is not a dense tensor with data')
    return dict(state)


def check_finite(state: Mapping[str, Tensor]) -> None:
    """Check that no weight is NaN or infinite.

    Raises:
        CheckpointError: If a weight is; the message names the first one.
    """
    for key, value in state.items():
        is_number = value.is_floating_point() or value.is_complex()
        if is_number and not torch.isfinite(value).all():
            raise CheckpointError(f'{shorten(key, 100)} holds NaN or infinity')


def check_numbers(state: Mapping[str, Tensor]) -> None:
    """Check that all weights are plain finite numbers.

    Integers are allowed for counters and indices only, which have no gradient.

    Raises:
        CheckpointError: If a weight is complex, of eight bits, NaN or infinite, or if a
            ``weight`` or ``bias`` is an integer; the message names the first one.
    """
    for key, value in state.items():
        is_weight = key.rpartition('.')[2] in ('weight', 'bias')
        allowed = _FLOATS if is_weight else (*_FLOATS, *_WHOLE)
        if value.dtype not in allowed:
            raise CheckpointError(
                f'{shorten(key, 100)} holds numbers of {value.dtype}, not of float32'
            )
    check_finite(state)


def _same_kind(value: Tensor, own: Tensor) -> bool:
    """Return True if a network's entry can hold ``value`` without changing its meaning."""
    for kinds in (_FLOATS, _WHOLE):
        if value.dtype in kinds and own.dtype in kinds:
            return True
    return value.dtype == own.dtype


def misfits(state: Mapping[str, Any], network: Mapping[str, Tensor | Sequence[int]]) -> list[str]:
    """Return the differences between a checkpoint's entries and a network's, as phrases.

    Args:
        state: State dict of the checkpoint.
        network: State dict of the network; a shape stands for an entry of any type.
    """
    kinds: dict[str, list[str]] = {
        'are missing': [_short(name) for name in network if name not in state],
        'are unknown': [_short(name) for name in state if name not in network],
        'are not tensors': [],
        'have another shape': [],
        'have another type': [],
    }
    for name, slot in network.items():
        is_slot = isinstance(slot, (Tensor, Sequence))  # extra states can be anything
        if name in state and is_slot:
            kind, phrase = _misfit(name, state[name], slot)
            if kind:
                kinds[kind].append(phrase)
    return [f'{len(v)} {kind} ({listed(v, longest=200)})' for kind, v in kinds.items() if v]


def _short(name: str) -> str:
    return shorten(name, 100)


def _misfit(name: str, value: Any, slot: Tensor | Sequence[int]) -> tuple[str, str]:
    """Return the kind of a mismatch and its details; both are empty if ``value`` fits."""
    if not isinstance(value, Tensor):
        return 'are not tensors', _short(name)
    shape = tuple(slot.shape if isinstance(slot, Tensor) else slot)
    if value.shape != shape:
        return 'have another shape', f'{_short(name)}: {tuple(value.shape)} for {shape}'
    if isinstance(slot, Tensor) and not _same_kind(value, slot):
        return 'have another type', f'{_short(name)}: {value.dtype} for {slot.dtype}'
    return '', ''
