"""Conversion of stored configs and options of earlier versions.

Packed files, checkpoints and folders of diffusers store configs. They are converted here
before anything is built. No other module knows names of earlier versions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Registered names that changed. The registries keep the old one as an alias.
RENAMED = {'binary_transformer': 'BinaryTransformer'}


def current_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of binary layers with ``es_groups`` for the ES groups.

    Args:
        options: Options of ``binarize``, where ``groups`` once meant the ES groups.
    """
    return {'es_groups' if name == 'groups' else name: x for name, x in options.items()}


def _current_layer(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config of an ES layer with ``es_groups`` for the ES groups.

    ``groups`` once meant the ES groups, except for a depthwise convolution or together with
    ``es_groups``.
    """
    kind = config.get('type')
    name = kind.rpartition('.')[2] if isinstance(kind, str) else ''
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
