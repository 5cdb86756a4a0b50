"""Conversion of stored configs and options of earlier versions.

Packed files, checkpoints and folders of diffusers store configs. They are converted here
before anything is built. No other module knows names of earlier versions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Registered names that changed. The registries keep the old one as an alias.
RENAMED = {'binary_transformer': 'BinaryTransformer'}


#: Layers of Transformers that once took only the value of sign(0).
_TRANSFORMERS = ('BinaryFeedForward', 'BinaryMultiheadAttention', 'BinaryTransformer')


def current_transformer(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of a binary Transformer with its sign and weight binarizer.

    Args:
        options: Options, where ``sign_zero`` was once the value of sign(0) in both.
    """
    if 'sign_zero' not in options:
        return dict(options)
    zero = options['sign_zero']
    kinds = dict(
        sign=dict(type='quadratic', zero=zero),
        weight_binarizer=dict(type='centred_sign', zero=zero),
    )
    return {**kinds, **{name: x for name, x in options.items() if name != 'sign_zero'}}


def current_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of binary layers with ``es_groups`` for the ES groups.

    Args:
        options: Options of ``binarize``, where ``groups`` once meant the ES groups.
    """
    return {'es_groups' if name == 'groups' else name: x for name, x in options.items()}


def _current_layer(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config of a layer in the form of this version.

    ``groups`` of an ES layer once meant the ES groups, except for a depthwise convolution
    or together with ``es_groups``.
    """
    kind = config.get('type')
    name = kind.rpartition('.')[2] if isinstance(kind, str) else ''
    if name in _TRANSFORMERS:
        return current_transformer(config)
    groups = config.get('groups')
    if name not in ('ESConv2d', 'ESLinear') or groups is None or 'es_groups' in config:
        return config
    if name == 'ESConv2d' and groups == config.get('in_channels'):
        return config
    return current_options(config)


def current_config(config: Any) -> Any:
    """Return a stored config in the form of this version.

    Args:
        config: Plain values: mappings, lists, tuples, strings and numbers.
    """
    if isinstance(config, Mapping):
        current = {key: current_config(value) for key, value in config.items()}
        kind = current.get('type')
        if isinstance(kind, str) and kind in RENAMED:
            current['type'] = RENAMED[kind]
        return _current_layer(current)
    if isinstance(config, (list, tuple)):
        return type(config)(current_config(value) for value in config)
    return config
