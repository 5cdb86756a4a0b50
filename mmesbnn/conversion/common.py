"""What the readers of all families share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..checkpoints import listed
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

    model_cfg: dict
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


def check_names(
    state: Mapping[str, Tensor], wanted: Iterable[str], unused: re.Pattern, what: str
) -> None:
    """Check that a state dict has the keys of a network, and no others.

    Args:
        state: The state dict.
        wanted: Keys that it must have.
        unused: Matches keys that it may have besides.
        what: The network, for the message.

    Raises:
        ValueError: If it has not, or has others.
    """
    wanted = dict.fromkeys(wanted)
    missing = [name for name in wanted if name not in state]
    if missing:
        raise ValueError(f'lacks {len(missing)} keys of a {what}: {listed(missing)}')
    surplus = [name for name in state if name not in wanted]
    surplus = [name for name in surplus if not unused.fullmatch(name)]
    if surplus:
        raise ValueError(f'has {len(surplus)} keys foreign to a {what}: {listed(surplus)}')


def check_shapes(
    state: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]], what: str
) -> None:
    """Check that a state dict has the shapes of a network.

    Args:
        state: The state dict, with all keys of ``shapes``.
        shapes: The network's shapes.
        what: The network, for the message.

    Raises:
        ValueError: If one differs.
    """
    for name, shape in shapes.items():
        found, wanted = tuple(state[name].shape), tuple(shape)
        if found != wanted:
            raise ValueError(f'{name} has shape {found}, not {wanted} as in a {what}')
