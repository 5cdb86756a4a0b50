"""From a file, or a dict that was read already, to a bare state dict."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..optional import require
from .common import ConversionError

#: Under these keys the published scripts save the weights (BNext, ES-BNN and ReActNet;
#: BinaryViT; BiDet; BI-DiffSR).
STATE_KEYS = ('state_dict', 'model', 'weight', 'params')

#: What ``DataParallel`` puts before every key.
WRAPPER = 'module.'


def _plain_values() -> list:
    """What arguments and accuracies in a training checkpoint are made of, no more."""
    scalar = np.float64(0).__reduce__()[0]
    kinds = (np.float64, np.float32, np.int64)
    return [
        argparse.Namespace,
        np.dtype,
        *(type(np.dtype(kind)) for kind in kinds),
        # numpy 2 moved it; files of both ages name it
        (scalar, 'numpy.core.multiarray.scalar'),
        (scalar, 'numpy._core.multiarray.scalar'),
    ]


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    safetensors = require('safetensors.torch', 'deploy', f'Reading {path}')
    return safetensors.load_file(path)


def _load(path: Path) -> Any:
    if path.suffix == '.safetensors':
        return _load_safetensors(path)
    # those that are allowed anyway would be forbidden at the end of the context
    allowed = torch.serialization.get_safe_globals()
    more = [value for value in _plain_values() if value not in allowed]
    with torch.serialization.safe_globals(more):
        return torch.load(path, map_location='cpu', weights_only=True)


def read_file(path: Path) -> Any:
    """Read a file of ``torch.save`` or safetensors, tensors and plain values only.

    Args:
        path: The file.

    Raises:
        OSError: If there is no such file or it may not be read.
        ImportError: If it is a safetensors file and safetensors is not installed.
        ConversionError: If it is damaged, no checkpoint, or holds other objects.
    """
    if path.is_dir():
        raise IsADirectoryError(f'{path}: a folder, not a checkpoint file')
    if not path.exists():
        raise FileNotFoundError(f'{path}: no such file')
    path.open('rb').close()  # what the system has to say comes from here
    try:
        return _load(path)
    except ImportError:
        raise
    except Exception as error:  # damaged bytes raise nearly anything, OSError too
        refused = re.search(r'GLOBAL ([\w.]+)', str(error))
        if refused:
            raise ConversionError(
                f'{path}: holds the object {refused[1]}, and only tensors and plain '
                'values are read, since anything else could run code; save its state '
                'dict alone'
            ) from error
        raise ConversionError(
            f'{path}: truncated, damaged or no file of torch.save or safetensors '
            f'({type(error).__name__})'
        ) from error


def _unwrap(content: Any) -> Any:
    """The state dict in a training checkpoint, or the content itself."""
    if isinstance(content, Mapping):
        for key in STATE_KEYS:
            if isinstance(content.get(key), Mapping):
                return content[key]
    return content


def read_published(source: str | os.PathLike | Mapping) -> tuple[str, dict]:
    """Read the weights of a published checkpoint.

    Args:
        source: A file, or what was read from one: a training checkpoint or a bare
            state dict.

    Returns:
        What to call the source in messages, and its state dict without ``module.``.

    Raises:
        OSError: If there is no such file or it may not be read.
        ImportError: If it is a safetensors file and safetensors is not installed.
        ConversionError: If there is no state dict in it.
    """
    if isinstance(source, Mapping):
        name, content = 'the given dict', source
    elif isinstance(source, (str, os.PathLike)):
        name, content = os.fspath(source), read_file(Path(source))
    else:
        raise ConversionError(f'source={source!r} must be a path or a dict')
    state = _unwrap(content)
    if not isinstance(state, Mapping) or not state:
        found = 'an empty dict' if state == {} else f'a {type(state).__name__}'
        raise ConversionError(f'{name}: holds no state dict but {found}')
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ConversionError(
                f'{name}: holds no state dict: {key!r} is a {type(value).__name__}, '
                'not a tensor'
            )
    if all(key.startswith(WRAPPER) for key in state):
        state = {key[len(WRAPPER) :]: value for key, value in state.items()}
    return name, {key: value.detach() for key, value in state.items()}
