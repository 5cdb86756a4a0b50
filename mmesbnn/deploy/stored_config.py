"""Configs inside files: as JSON in packed files, as text in mmengine's checkpoints.

A file may come from anywhere, and both running a config and building from one can run
any code. So text is parsed, not run, and what a stored config builds must be a
registered name.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import MmesbnnError

#: Keys of a config that using a trained model needs.
KEPT = ('default_scope', 'model', 'data_preprocessor', 'test_dataloader')

#: What may stand before the dot of a type.
SCOPES = ('mmdet', 'mmpretrain')

#: Packages whose components are registered without a scope.
_ROOTS = ('mmcv', 'mmengine', 'mmesbnn', 'torch')

_TUPLE = '__tuple__'
_NAMES = {'inf': math.inf, 'nan': math.nan, 'True': True, 'False': False, 'None': None}


class ConfigError(MmesbnnError):
    """A stored config that cannot be used; the message says why."""


def parse_text(text: str) -> dict[str, Any]:
    """Read the text of a config as mmengine's checkpoints have it, without running it.

    Assignments of literals and ``dict(...)``, which is all that
    ``Config.pretty_text`` writes.

    Raises:
        ConfigError: If there is anything else in it.
    """
    try:
        statements = ast.parse(text).body
    except (SyntaxError, ValueError) as error:
        raise ConfigError(f'the stored config is no Python: {error}') from error
    config = {}
    for statement in statements:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                config[name] = _value(value)
            case _:
                raise ConfigError(f'the stored config holds {ast.unparse(statement)!r}')
    return config


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name) if name in _NAMES:
            return _NAMES[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.List(elts=elements):
            return [_value(element) for element in elements]
        case ast.Tuple(elts=elements):
            return tuple(_value(element) for element in elements)
        case ast.Dict(keys=keys, values=values) if None not in keys:
            return {_value(k): _value(v) for k, v in zip(keys, values)}
        case ast.Call(func=ast.Name(id='dict'), args=[], keywords=keywords):
            return {keyword.arg: _value(keyword.value) for keyword in keywords}
        case ast.Call(func=ast.Name(id='dict'), args=[first], keywords=[]):
            return dict(_value(first))
    raise ConfigError(f'the stored config holds {ast.unparse(node)[:80]!r}')


def _tagged(value: Any) -> Any:
    """``value`` for JSON, which knows no tuples."""
    if isinstance(value, Mapping):
        return {str(k): _tagged(v) for k, v in value.items()}
    if isinstance(value, tuple):
        return {_TUPLE: [_tagged(v) for v in value]}
    if isinstance(value, list):
        return [_tagged(v) for v in value]
    return value


def _untagged(value: dict[str, Any]) -> Any:
    return tuple(value[_TUPLE]) if set(value) == {_TUPLE} else value


def to_json(config: Mapping[str, Any]) -> str:
    """The config as JSON.

    Raises:
        ConfigError: If it holds something that is no plain value.
    """
    try:
        return json.dumps(_tagged(config), separators=(',', ':'))
    except TypeError as error:
        raise ConfigError(f'the config cannot be stored: {error}') from error


def from_json(text: str) -> dict[str, Any]:
    """What :func:`to_json` was given, tuples included.

    Raises:
        ConfigError: If it is no JSON, or builds what is no registered name.
    """
    try:
        config = json.loads(text, object_hook=_untagged)
    except ValueError as error:
        raise ConfigError(f'the stored config is no JSON: {error}') from error
    if not isinstance(config, dict):
        raise ConfigError('the stored config is no dict')
    check_types(config)
    return config


def _types(config: Any) -> Iterator[Any]:
    if isinstance(config, Mapping):
        for key, value in config.items():
            if key in ('type', '_scope_'):
                yield value
            else:
                yield from _types(value)
    elif isinstance(config, (list, tuple)):
        for value in config:
            yield from _types(value)


def check_types(config: Any) -> None:
    """Check that every ``type`` of a config is a registered name, with a scope or not.

    mmengine imports any other name that has dots, such as ``os.system``, and calls it.

    Raises:
        ConfigError: If one is something else.
    """
    for kind in _types(config):
        name = kind if isinstance(kind, str) else ''
        if not re.fullmatch(rf'(({"|".join(SCOPES)})\.)?[\w/]+', name):
            raise ConfigError(
                f'type={kind!r} in the config must be a registered name, such as '
                "'BNext' or 'mmdet.FPN'"
            )


def _short(config: Any) -> Any:
    """The config with paths of registered classes (lazy configs) as names."""
    if isinstance(config, Mapping):
        return {
            k: _short_type(v) if k == 'type' else _short(v) for k, v in config.items()
        }
    if isinstance(config, (list, tuple)):
        return type(config)(_short(v) for v in config)
    return config


def _short_type(kind: Any) -> Any:
    if isinstance(kind, type):
        kind = f'{kind.__module__}.{kind.__qualname__}'
    if not isinstance(kind, str):
        return kind
    package, name = kind.partition('.')[0], kind.rpartition('.')[2]
    if package in SCOPES:
        return f'{package}.{name}'
    return name if package in _ROOTS else kind


def kept_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a config that using its trained model needs, as plain values.

    Raises:
        ConfigError: If a type in it is no registered name.
    """
    part = {key: _short(config[key]) for key in KEPT if config.get(key)}
    check_types(part)
    return part
