"""Helpers that the readers of all families share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..checkpoints import misfits
from ..errors import MmesbnnError


class ConversionError(MmesbnnError):
    """A checkpoint that cannot be read or contradicts itself; says why."""


@dataclass(frozen=True)
class Conversion:
    """A converted checkpoint.

    Args:
        model_cfg: Config of the model, for OpenMMLab's ``MODELS.build``.
        state_dict: What that model loads, strictly.
        summary: What was recognised, label by label, for people to read.
        warning: What the user should know before trusting the model, or None.
    """

    model_cfg: dict[str, Any]
    state_dict: dict[str, Tensor]
    summary: dict[str, str]
    warning: str | None = None


@dataclass(frozen=True)
class Family:
    """One family of published checkpoints.

    Args:
        name: What to call it.
        hint: Keys that such files have, for the message about files that have not.
        recognises: Whether a state dict (without ``module.``) belongs to the family.
        convert: Turns such a state dict into a :class:`Conversion`; takes
            ``binarize`` and ``se_bits`` of :func:`load_published` by keyword.
    """

    name: str
    hint: str
    recognises: Callable[[Mapping[str, Tensor]], bool]
    convert: Callable[..., Conversion]


def shape_of(state: Mapping[str, Tensor], key: str, dims: int | None = None) -> torch.Size:
    """Shape of an entry.

    Args:
        state: A state dict.
        key: Name of the entry.
        dims: Number of axes that it must have. Default None: at least one.

    Raises:
        ValueError: If there is no such entry, or it has other axes.
    """
    if key not in state:
        raise ValueError(f'lacks the key {key}')
    shape = state[key].shape
    if len(shape) != dims if dims is not None else not shape:
        expected = 'an axis' if dims is None else f'{dims} axes'
        raise ValueError(f'{key} has shape {tuple(shape)}, not {expected}')
    return shape


def check_fit(
    state: Mapping[str, Tensor],
    shapes: Mapping[str, Sequence[int]],
    network: str,
    unused: re.Pattern[str] | None = None,
) -> None:
    """Check that a state dict has the entries of a network, and no others.

    Args:
        state: The state dict.
        shapes: Shapes of the entries that it must have.
        network: The network's name, for the message.
        unused: Matches names of entries that it may have as well. Default none.

    Raises:
        ValueError: If an entry is missing, unknown or of another shape.
    """
    used = {
        name: value
        for name, value in state.items()
        if name in shapes or unused is None or not unused.fullmatch(name)
    }
    differences = misfits(used, shapes)
    if differences:
        raise ValueError(f'does not fit {network}: of its entries {", ".join(differences)}')
