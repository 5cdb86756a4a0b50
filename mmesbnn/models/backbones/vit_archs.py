"""Sizes of BinaryViT."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from .base import are_widths, is_width, named_arch

ARCHS: dict[str, dict[str, Any]] = {
    'small': dict(
        dims=[64, 128, 256, 512],
        depths=[3, 4, 8, 4],
        heads=[1, 2, 4, 8],
        ffn_dims=[512, 1024, 1024, 2048],
        sr_ratios=[8, 4, 1, 1],
        patch_size=4,
        stem_norm=True,
    ),
    'deit-small': dict(
        dims=[384],
        depths=[12],
        heads=[6],
        ffn_dims=[1536],
        sr_ratios=[1],
        patch_size=16,
        stem_norm=False,
    ),
}


def resolve_arch(arch: Any) -> dict[str, Any]:
    """Check ``arch`` and return it as a dict with all its keys.

    Raises:
        ValueError: If it is neither a known name nor a valid dict.
    """
    arch = named_arch(arch, ARCHS)
    if not isinstance(arch, dict):
        raise ValueError(f'arch={arch!r} must be one of {list(ARCHS)} or a dict')
    lists = ('dims', 'depths', 'heads', 'ffn_dims', 'sr_ratios')
    options = dict(patch_size=4, stem_norm=True)
    arch = {**options, **arch}
    if set(arch) != {*lists, *options}:
        raise ValueError(
            f'arch has the keys {sorted(arch)}: {list(lists)} are needed, {list(options)} optional'
        )
    values = {name: arch[name] for name in lists}
    for name, value in values.items():
        if not are_widths(value) or len(value) != len(values['dims']):
            raise ValueError(
                f'arch: {name}={value} must be one positive number per stage of '
                f'dims={values["dims"]}'
            )
    if not isinstance(arch['stem_norm'], bool):
        raise ValueError(f'arch: stem_norm={arch["stem_norm"]!r} must be True or False')
    if not values['dims'] or not is_width(arch['patch_size']):
        raise ValueError(f'arch: patch_size={arch["patch_size"]} and dims must be > 0')
    for width, following in pairwise(values['dims']):
        if following % width:
            raise ValueError(
                f'arch: dims={values["dims"]}: {width} does not divide {following}, '
                'as the residual between the stages needs'
            )
    return {**arch, **{name: list(value) for name, value in values.items()}}
