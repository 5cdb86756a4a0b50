"""Reader of a bare state dict from a file or from the content of one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checkpoints import (
    CheckpointError,
    check_numbers,
    read_checkpoint,
    state_dict_of,
    strip_wrapper,
)
from ..errors import shorten
from .common import ConversionError

#: Keys under which the published scripts save the weights (BNext, ES-BNN and ReActNet;
#: BinaryViT; BiDet; BI-DiffSR).
STATE_KEYS = ('state_dict', 'model', 'weight', 'params')


def read_file(path: Path, max_bytes: int | None = None) -> Any:
    """Read the tensors and plain values of a file of ``torch.save`` or safetensors.

    Args:
        path: File to read.
        max_bytes: Largest memory of its content in bytes. Default None: four times the
            file's size plus 256 MB.

    Raises:
        OSError: If the file does not exist or cannot be read.
        ConversionError: If it is damaged, is not a checkpoint, or holds other objects.
    """
    if path.is_dir():
        raise IsADirectoryError(f'{path}: a folder, not a checkpoint file')
    if not path.exists():
        raise FileNotFoundError(f'{path}: no such file')
    try:
        return read_checkpoint(path, max_bytes=max_bytes)
    except CheckpointError as error:
        raise ConversionError(str(error)) from error


def published_state(content: Any, name: str) -> dict[str, Tensor]:
    """Return the weights of a published checkpoint, without ``module.``.

    Args:
        content: A training checkpoint or a bare state dict.
        name: Name of the source in messages.

    Raises:
        ConversionError: If it holds no state dict, or if a weight is not a finite number.
    """
    try:
        state = strip_wrapper(state_dict_of(content, _state_keys(content)))
        check_numbers(state)
    except CheckpointError as error:
        raise ConversionError(f'{name}: {error}') from error
    return {key: value.detach() for key, value in state.items()}


def read_published(
    source: str | os.PathLike[str] | Mapping[str, Any], max_bytes: int | None = None
) -> tuple[str, dict[str, Tensor]]:
    """Read the weights of a published checkpoint.

    Args:
        source: A file, or the content of one.
        max_bytes: As in :func:`read_file`.

    Returns:
        Name of the source in messages, and its weights.

    Raises:
        OSError: As :func:`read_file`.
        ConversionError: As :func:`read_file` and :func:`published_state`.
    """
    if isinstance(source, Mapping):
        name, content = 'the given dict', source
    elif isinstance(source, (str, os.PathLike)):
        name, content = os.fspath(source), read_file(Path(source), max_bytes)
    else:
        raise ConversionError(f'source={shorten(repr(source), 80)} must be a path or a dict')
    return name, published_state(content, name)


def _state_keys(content: Any) -> list[str]:
    """Return the keys of ``STATE_KEYS`` that hold a dict."""
    if not isinstance(content, Mapping):
        return []
    return [key for key in STATE_KEYS if isinstance(content.get(key), Mapping)]
