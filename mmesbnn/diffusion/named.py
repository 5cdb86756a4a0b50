"""Rules of the options that the config of a model stores.

A config may come from an unknown source, so names and lists have limited lengths.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..checks import Rule, either, integer, optional, sequence

#: Name of the method in the ``quantization_config`` of a model of diffusers.
METHOD = 'mmesbnn'

#: Largest number of characters of a name, of names in a list, and of options of a sign.
LONGEST, MOST, OPTIONS = 300, 2**16, 16


def _is_plain(value: Any) -> bool:
    """Return whether a value is a number, a short text, True, False or None."""
    if isinstance(value, str):
        return len(value) <= LONGEST
    return value is None or type(value) in (bool, int, float)


def _is_named(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= LONGEST and re.fullmatch(r'[\w.]+', value) is not None
    return (
        isinstance(value, Mapping)
        and len(value) <= OPTIONS
        and all(isinstance(key, str) and _is_plain(entry) for key, entry in value.items())
        and isinstance(value.get('type'), str)
        and _is_named(value['type'])
    )


#: A sign or weight binarizer that the config of a model can store.
NAMED = Rule('a name or a dict with type, which the config of the model can store', _is_named)
_NAME = Rule(
    f'a text of 1 to {LONGEST} characters',
    lambda value: isinstance(value, str) and 0 < len(value) <= LONGEST,
)
_SHORT = Rule(f'a list of at most {MOST} values', lambda value: len(value) <= MOST)


def _names(shortest: int, distinct: bool) -> Rule:
    listed = sequence(_NAME, shortest=shortest, distinct=distinct)
    return Rule(f'{listed.says}, {MOST} at most', lambda x: _SHORT.accepts(x) and listed.accepts(x))


#: Patterns of layers to keep.
KEEP = either(Rule('a text', lambda x: isinstance(x, str) and len(x) <= LONGEST), _names(0, False))
#: Names of layers.
LAYERS = optional(_names(1, True))
#: A factor or a number of groups.
FACTOR = integer(1, 2**16)


def is_ours(config: Any) -> bool:
    """Return whether a ``quantization_config`` is a ``BinaryConfig``, or a dict of one."""
    if isinstance(config, Mapping):
        return config.get('quant_method') == METHOD
    return getattr(config, 'quant_method', None) == METHOD
