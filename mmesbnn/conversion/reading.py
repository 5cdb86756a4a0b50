"""From a file, or a dict that was read already, to a bare state dict."""

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

#: Under these keys the published scripts save the weights (BNext, ES-BNN and ReActNet;
#: BinaryViT; BiDet; BI-DiffSR).
STATE_KEYS = ('state_dict', 'model', 'weight', 'params')


def read_file(path: Path, max_bytes: int | None = None) -> Any:
    """Read a file of ``torch.save`` or safetensors, tensors and plain values only.

    Args:
        path: The file.
        max_bytes: How much memory its content may take up. Default None: 256 MB more
            than four times the file's size.

    Raises:
        OSError: If there is no such file or it may not be read.
        ConversionError: If it is damaged, no checkpoint, or holds other objects.
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
    """The weights of a published checkpoint, without ``module.``.

    Args:
        content: A training checkpoint or a bare state dict.
        name: What to call it in messages.

    Raises:
        ConversionError: If there is no state dict in it, or a weight is no finite
            number.
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
        source: A file, or what was read from one.
        max_bytes: As in :func:`read_file`.

    Returns:
        What to call the source in messages, and its weights.

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
    """Those of ``STATE_KEYS`` under which there is a dict."""
    if not isinstance(content, Mapping):
        return []
    return [key for key in STATE_KEYS if isinstance(content.get(key), Mapping)]
