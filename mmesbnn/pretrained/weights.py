"""Loading of pretrained weights into a network that may have another head, or none."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..binary.layers import binary_layers
from ..checkpoints import CheckpointError, metadata_of, state_dict_of, strip_wrapper
from ..checkpoints.bits import PACKED, PARTS
from ..deploy.packed.file import PackError, read_packed
from ..deploy.packed.unpacking import fill
from ..errors import sentence
from ..project import InputError, load_state, read_checkpoint
from .errors import PretrainedError
from .files import read_folder
from .loading import local_folder

_BACKBONE, _HEAD = 'backbone.', 'head.'


def _entries(model: nn.Module) -> set[str]:
    """Return the names under which files hold the weights of ``model``."""
    parts = (f'{name}.{part}' for name in binary_layers(model, every_name=True) for part in PARTS)
    return {*model.state_dict(), *parts}


def _fitting(stored: Mapping[str, Tensor], model: nn.Module, new_head: bool) -> dict[str, Tensor]:
    """Return the stored weights with the names of ``model``.

    Args:
        stored: Weights of a classifier or of a backbone.
        model: Classifier or backbone to load them into.
        new_head: Whether a head of another shape is replaced by the model's own.
    """
    own = model.state_dict()
    is_classifier = any(key.startswith(_BACKBONE) for key in own)
    of_classifier = any(key.startswith(_BACKBONE) for key in stored)
    if not is_classifier:
        known = _entries(model)
        return {
            name: value
            for key, value in stored.items()
            # a norm or an activation behind a stage that is not returned is left out
            if not of_classifier or key.startswith(_BACKBONE)
            if (name := key.removeprefix(_BACKBONE)) in known
        }
    head = {key: value for key, value in own.items() if key.startswith(_HEAD)}
    if not of_classifier:
        return {**{_BACKBONE + key: value for key, value in stored.items()}, **head}
    if new_head and any(k in stored and stored[k].shape != v.shape for k, v in head.items()):
        body = {key: value for key, value in stored.items() if not key.startswith(_HEAD)}
        return {**body, **head}
    return dict(stored)


def _is_packed(path: Path, max_bytes: int | None) -> bool:
    """Return True if the metadata of a file name the format of packed files."""
    metadata = metadata_of(path, max_bytes=max_bytes) or {}
    return metadata.get('format', '').startswith(PACKED)


def load_into(
    model: nn.Module,
    source: str | os.PathLike[str],
    *,
    new_head: bool = False,
    max_bytes: int | None = None,
    **hub: Any,
) -> None:
    """Load pretrained weights into a classifier or a backbone.

    Args:
        model: Network to load into.
        source: Folder of :func:`~mmesbnn.save_pretrained`, its name on a hub, packed file or
            checkpoint.
        new_head: Whether a head of another shape in the file is left out. Default False.
        max_bytes: Largest memory of the content of a file in bytes. Default None: four
            times its size plus 256 MB.
        **hub: Arguments of :func:`~mmesbnn.pretrained.hub.download`.

    Raises:
        PretrainedError: If the hub does not have the weights, or if they do not fit or are damaged.
        OSError: If there is no such file or folder.
    """
    try:
        path = Path(source) if Path(source).is_file() else local_folder(source, **hub)
    except FileNotFoundError as error:
        raise FileNotFoundError(f'pretrained={str(source)!r}: no such file or folder') from error
    try:
        if path.is_dir() or _is_packed(path, max_bytes):
            read: Any = read_folder if path.is_dir() else read_packed
            stored, metadata = read(path, max_bytes)
            fill(model, _fitting(stored, model, new_head), metadata, path)
        else:
            content = state_dict_of(read_checkpoint(path, max_bytes))
            load_state(model, _fitting(strip_wrapper(content), model, new_head), path)
    except (CheckpointError, InputError, PackError) as error:
        raise PretrainedError(f'pretrained: {sentence(error)}') from error
