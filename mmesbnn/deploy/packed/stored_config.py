"""Configs inside files: as JSON in packed files, as text in mmengine's checkpoints.

A file may come from an unknown source. Running its config, or building components from it,
can run any code. The text is therefore parsed and not run, and its length and depth are
limited. ``checked_config.py`` defines the components that a stored config may build.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ...errors import shorten
from ...old_forms import current_config
from ...plain_values import ConfigError, check_depth, check_length, check_plain, parse_json
from ...project import FACTS
from .stored_components import SCOPES

#: Keys of a config that are needed to use a trained model.
KEPT = ('default_scope', 'model', 'data_preprocessor', 'test_dataloader', FACTS)

#: Packages whose components are registered without a scope.
_ROOTS = ('mmcv', 'mmengine', 'mmesbnn', 'torch')

#: Name of the config in messages.
_WHAT = 'the stored config'

_TUPLE = '__tuple__'
_NAMES = {'inf': math.inf, 'nan': math.nan, 'True': True, 'False': False, 'None': None}


def parse_text(text: str) -> dict[str, Any]:
    """Parse the text of a config in an mmengine checkpoint, without running it.

    The text may hold assignments of literals and of ``dict(...)``.
    ``Config.pretty_text`` writes nothing else.

    Raises:
        ConfigError: If the text holds anything else, is too long or is nested too deeply.
    """
    check_length(text, _WHAT)
    try:
        statements = ast.parse(text).body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        reason = shorten(str(error), 80) or 'nested too deep'
        raise ConfigError(f'the stored config is not Python: {reason}') from error
    config = {}
    for statement in statements:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                config[name] = _value(value)
            case _:
                raise _unexpected(statement)
    check_plain(config, _WHAT)
    return current_config(config)


def _unexpected(node: ast.AST) -> ConfigError:
    try:
        text = ast.unparse(node)
    except RecursionError:
        text = type(node).__name__
    return ConfigError(f'the stored config holds {shorten(text, 80)!r}')


def _value(node: ast.expr, depth: int = 0) -> Any:
    check_depth(depth, _WHAT)
    depth += 1
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name) if name in _NAMES:
            return _NAMES[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            value = _value(operand, depth)
            if type(value) in (int, float):
                return -value
        case ast.List(elts=elements):
            return [_value(element, depth) for element in elements]
        case ast.Tuple(elts=elements):
            return tuple(_value(element, depth) for element in elements)
        case ast.Dict(keys=keys, values=values) if None not in keys:
            return {_key(k): _value(v, depth) for k, v in zip(keys, values)}
        case ast.Call(func=ast.Name(id='dict'), args=[], keywords=keywords) if all(
            keyword.arg for keyword in keywords
        ):
            return {k.arg: _value(k.value, depth) for k in keywords}
        case ast.Call(func=ast.Name(id='dict'), args=[ast.Dict() as first], keywords=[]):
            return _value(first, depth)
    raise _unexpected(node)


def _key(node: ast.expr | None) -> str | int:
    match node:
        case ast.Constant(value=str() | int() as value):
            return value
    raise _unexpected(node or ast.Constant(None))


def _tagged(value: Any) -> Any:
    """Convert ``value`` for JSON, which has no tuples."""
    if isinstance(value, Mapping):
        return {str(k): _tagged(v) for k, v in value.items()}
    if isinstance(value, tuple):
        return {_TUPLE: [_tagged(v) for v in value]}
    if isinstance(value, list):
        return [_tagged(v) for v in value]
    return value


def _untagged(value: dict[str, Any]) -> Any:
    content = value.get(_TUPLE)
    return tuple(content) if len(value) == 1 and isinstance(content, list) else value


def to_json(config: Mapping[str, Any], what: str = 'the config') -> str:
    """Return the config as JSON.

    Args:
        config: Config to store.
        what: Its name in messages. Default ``'the config'``.

    Raises:
        ConfigError: If it holds anything but plain values.
    """
    try:
        return json.dumps(_tagged(config), separators=(',', ':'))
    except TypeError as error:
        place, value = next(_strange(config), ('it', error))
        hint = ''
        if place.startswith('model.'):
            hint = '; mmdet changes some configs when it builds them, so read it again'
        raise ConfigError(
            f'{what} cannot be stored: {place} is a {type(value).__name__}, not a word or '
            f'number{hint}'
        ) from error


def _strange(value: Any, place: str = '') -> Iterator[tuple[str, Any]]:
    """Yield the places and values in a config that JSON cannot hold."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _strange(inner, f'{place}.{key}' if place else str(key))
    elif isinstance(value, (list, tuple)):
        for i, inner in enumerate(value):
            yield from _strange(inner, f'{place}[{i}]')
    elif not isinstance(value, (str, int, float, type(None))):
        yield shorten(place, 200), value


def from_json(text: str) -> dict[str, Any]:
    """Read a config from JSON, the inverse of :func:`to_json`, in this version's form.

    Raises:
        ConfigError: If the text is not JSON, is too long, or is nested too deeply.
    """
    return current_config(parse_json(text, _WHAT, _untagged))


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
    """Check that every ``type`` of a config is a registered name, with or without a scope.

    Args:
        config: Config to store.

    Raises:
        ConfigError: If a type is anything else, such as the path of a function.
    """
    for kind in _types(config):
        name = kind if isinstance(kind, str) else ''
        if not re.fullmatch(rf'(({"|".join(SCOPES)})\.)?[\w/]+', name):
            raise ConfigError(
                f'type={kind!r} in the config must be a registered name, such as '
                "'BNext' or 'mmdet.FPN'"
            )


def _short(config: Any) -> Any:
    """Replace paths of registered classes, which lazy configs have, by names."""
    if isinstance(config, Mapping):
        return {k: _short_type(v) if k == 'type' else _short(v) for k, v in config.items()}
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
    """Return the part of a config that is needed to use its model, as plain values.

    Raises:
        ConfigError: If a type in it is not a registered name.
    """
    part = {key: _short(config[key]) for key in KEPT if config.get(key)}
    check_types(part)
    return part
