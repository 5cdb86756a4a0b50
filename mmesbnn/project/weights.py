"""Weights of a project, with errors that name the checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from .. import checkpoints
from ..checks import checked, optional, positive_int
from .config import MODEL
from .errors import InputError, explained


@checked(max_bytes=optional(positive_int))
def read_checkpoint(path: str | Path, max_bytes: int | None = None) -> Any:
    """Read a checkpoint; see :func:`mmesbnn.checkpoints.read_checkpoint`.

    Args:
        path: File of ``torch.save`` or safetensors.
        max_bytes: Largest memory of its content in bytes. Default None: four times the
            file's size plus 256 MB.

    Raises:
        InputError: If it cannot be read or holds anything else.
    """
    try:
        return checkpoints.read_checkpoint(path, max_bytes=max_bytes)
    except OSError as error:
        raise InputError(f'cannot read the checkpoint {path}: {error.strerror or error}') from error
    except checkpoints.CheckpointError as error:
        raise InputError(f'cannot read the checkpoint {error}') from error


@checked(model=MODEL)
def load_state(model: nn.Module, content: Any, name: str | Path) -> None:
    """Load the whole content of a checkpoint into ``model``, or raise an error.

    Args:
        model: Network to load into.
        content: A training checkpoint or a bare state dict.
        name: Name of the checkpoint in errors.

    Raises:
        InputError: If it holds no weights or belongs to another model, or if ``model`` is on the
            device meta.
    """
    try:
        state = checkpoints.strip_wrapper(checkpoints.state_dict_of(content))
    except checkpoints.CheckpointError as error:
        raise InputError(f'the checkpoint {name} {error}') from error
    reason = checkpoints.why_not_filled(model)
    if reason:
        raise InputError(f'{name} cannot be loaded into {type(model).__name__}: {reason}')
    own = model.state_dict()
    differences = checkpoints.misfits(checkpoints.read_by(model, state), own)
    if differences:
        raise InputError(
            f'{name} is not a checkpoint of this model: of its entries ' + ', '.join(differences)
        )
    with explained(f'cannot load the checkpoint {name}'):
        model.load_state_dict(checkpoints.with_versions(state, own))


@checked(model=MODEL, max_bytes=optional(positive_int))
def load_weights(model: nn.Module, path: str | Path, max_bytes: int | None = None) -> None:
    """Load a whole checkpoint into ``model``, or raise an error.

    Args:
        model: Network to load into.
        path: File of ``torch.save`` or safetensors.
        max_bytes: As in :func:`read_checkpoint`.

    Raises:
        InputError: If it cannot be read, or belongs to another model.
    """
    load_state(model, read_checkpoint(path, max_bytes), path)
