"""Helpers that the readers of all families share."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..checkpoints import misfits
from ..errors import MmesbnnError, sentence


class ConversionError(MmesbnnError):
    """Error about a checkpoint that cannot be converted; the message says why."""


@dataclass(frozen=True)
class Conversion:
    """A converted checkpoint.

    Args:
        model_cfg: Config of the model, for OpenMMLab's ``MODELS.build``.
        state_dict: State dict that this model loads strictly.
        summary: Recognised properties by label, for people.
        warning: Warning for the user of the model, or None.
    """

    model_cfg: dict[str, Any]
    state_dict: dict[str, Tensor]
    summary: dict[str, str]
    warning: str | None = None


def _is_never_quantized(state: Mapping[str, Tensor]) -> bool:
    return False


@dataclass(frozen=True)
class Family:
    """One family of published checkpoints.

    Args:
        name: Name of the family.
        hint: Keys of such files, for the message about files that do not have them.
        recognises: Function that returns True if a state dict (without ``module.``)
            belongs to the family.
        convert: Function that turns such a state dict into a :class:`Conversion`. It has
            the keyword argument ``binarize`` of :func:`load_published`, and ``se_bits`` if
            the family has quantised files.
        is_quantized: Function that returns True if a state dict of the family comes from
            a quantised file. Default: there are none.
    """

    name: str
    hint: str
    recognises: Callable[[Mapping[str, Tensor]], bool]
    convert: Callable[..., Conversion]
    is_quantized: Callable[[Mapping[str, Tensor]], bool] = _is_never_quantized


def shape_of(state: Mapping[str, Tensor], key: str, dims: int | None = None) -> torch.Size:
    """Return the shape of an entry.

    Args:
        state: A state dict.
        key: Name of the entry.
        dims: Required number of axes. Default None: at least one.

    Raises:
        ValueError: If the entry is missing, or has another number of axes.
    """
    if key not in state:
        raise ValueError(f'lacks the key {key}')
    shape = state[key].shape
    if len(shape) != dims if dims is not None else not shape:
        expected = 'an axis' if dims is None else f'{dims} axes'
        raise ValueError(f'{key} has shape {tuple(shape)}, not {expected}')
    return shape


def replaced_prefix(key: str, prefixes: Mapping[str, str]) -> tuple[str, str]:
    """Return what replaces the prefix of ``key``, and the rest of ``key``.

    Args:
        key: A name of parts with dots between them.
        prefixes: Replacements of prefixes, which end with a dot or are whole keys. One of
            them must fit. The longest one is taken.
    """
    end = len(key)
    while key[:end] not in prefixes:
        end = key.rindex('.', 0, end - 1) + 1
    return prefixes[key[:end]], key[end:]


@contextlib.contextmanager
def without_memory() -> Iterator[None]:
    """Build networks without memory, where only their shapes are needed.

    Raises:
        ValueError: If a shape is too large for torch. A few names can describe such a network.
    """
    try:
        with torch.device('meta'):
            yield
    except RuntimeError as error:
        raise ValueError(f'describes a network that is too large: {sentence(error)}') from error


def check_count(state: Mapping[str, Tensor], count: int, what: str, least: int) -> None:
    """Refuse a few names that claim a network of many entries, which takes long to build.

    Args:
        state: A state dict.
        count: Number of parts that its names claim.
        what: Name of these parts, in the plural.
        least: Number of entries for each part, fewer than a part has: of a file that lacks a
            few entries :func:`check_fit` names them.

    Raises:
        ValueError: If there are fewer entries.
    """
    if count * least > len(state):
        raise ValueError(f'has {len(state)} entries, too few for {count} {what}')


def check_fit(
    state: Mapping[str, Tensor],
    shapes: Mapping[str, Sequence[int]],
    network: str,
    unused: re.Pattern[str] | None = None,
) -> None:
    """Check that a state dict has the entries of a network, and no others.

    Args:
        state: State dict to check.
        shapes: Shapes of the required entries.
        network: Name of the network, for the message.
        unused: Pattern of the names of allowed further entries. Default None.

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
