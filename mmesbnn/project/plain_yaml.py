"""Reader of YAML and JSON configs as data, with limits.

mmengine's own reader of YAML runs code that tags name.
"""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Iterator
from typing import IO, Any

import yaml
from mmengine.fileio import BaseFileHandler
from mmengine.fileio.handlers import file_handlers

from ..errors import MmesbnnError, shorten

_swapping = threading.RLock()
#: Values of a file, each counted as often as an alias repeats it.
_MOST_VALUES = 100_000
#: The same, each counted once for every list or dict around it: mmengine copies it as often.
_MOST_COPIES = 10 * _MOST_VALUES


class TagError(MmesbnnError):
    """Error about a YAML file with a tag that would build an object."""


class AliasError(MmesbnnError):
    """Error about a file of too many or too deep values, or of an alias in itself."""


class _PlainLoader(yaml.SafeLoader):
    """YAML loader of plain values, and of the tuples that mmengine itself writes."""

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            _count(node, {})
        return node


def _count(node: yaml.Node, counts: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Return the numbers of values of ``node`` and of their copies, with aliases written out.

    Args:
        node: Node to count.
        counts: Numbers of the nodes that were counted, by id; 0 while a node is counted.
    """
    known = counts.get(id(node))
    if known == (0, 0):
        raise AliasError('it or a YAML file it builds on has an alias that contains itself')
    if known:
        return known
    counts[id(node)] = 0, 0
    children = node.value if isinstance(node, yaml.CollectionNode) else []
    flat = (x for child in children for x in (child if isinstance(child, tuple) else (child,)))
    counts[id(node)] = _total([_count(child, counts) for child in flat])
    return counts[id(node)]


def _count_plain(value: Any) -> tuple[int, int]:
    """Return the numbers of :func:`_count` for a value of JSON, which has no aliases."""
    children = value.values() if isinstance(value, dict) else value
    return _total([_count_plain(x) for x in children] if isinstance(value, (dict, list)) else [])


def _total(inner: list[tuple[int, int]]) -> tuple[int, int]:
    """Return the numbers of a value that holds those with the numbers ``inner``."""
    values = 1 + sum(count for count, _ in inner)
    copies = values + sum(count for _, count in inner)
    _check_counts(values, copies)
    return values, copies


def _check_counts(values: int, copies: int) -> None:
    if values > _MOST_VALUES:
        raise AliasError(
            f'it or a file it builds on has more than {_MOST_VALUES} values, with aliases '
            'written out'
        )
    if copies > _MOST_COPIES:
        raise AliasError(
            'it or a file it builds on has too many values in too many lists and dicts '
            f'around them: more than {_MOST_COPIES} copies would be made'
        )


def _tuple(loader: _PlainLoader, node: yaml.SequenceNode) -> tuple[Any, ...]:
    return tuple(loader.construct_sequence(node, deep=True))


def _refuse(loader: _PlainLoader, node: yaml.Node) -> None:
    tag = node.tag.replace('tag:yaml.org,2002:', '!!')
    raise TagError(
        f'it or a YAML file it builds on holds the tag {shorten(tag, 80)}, which could '
        'run code: only plain values and !!python/tuple are read'
    )


_PlainLoader.add_constructor('tag:yaml.org,2002:python/tuple', _tuple)
_PlainLoader.add_constructor(None, _refuse)


class _PlainHandler(BaseFileHandler):
    """File handler of mmengine that reads YAML as data and writes it unchanged."""

    def __init__(self, usual: BaseFileHandler) -> None:
        self.usual = usual
        self.known: dict[str, Any] = {}

    def load_from_fileobj(self, file: IO[Any], **kwargs: Any) -> Any:
        # mmengine reads a config several times, and PyYAML is slow
        text = file.read()
        if text not in self.known:
            # this loader makes plain values only
            self.known[text] = yaml.load(text, Loader=_PlainLoader)
        return copy.deepcopy(self.known[text])

    def dump_to_fileobj(self, obj: Any, file: IO[Any], **kwargs: Any) -> None:
        self.usual.dump_to_fileobj(obj, file, **kwargs)

    def dump_to_str(self, obj: Any, **kwargs: Any) -> str:
        return self.usual.dump_to_str(obj, **kwargs)


class _LimitedHandler(_PlainHandler):
    """File handler of mmengine that reads JSON of limited size and depth."""

    def load_from_fileobj(self, file: IO[Any], **kwargs: Any) -> Any:
        content = self.usual.load_from_fileobj(file, **kwargs)
        _count_plain(content)
        return content


_HANDLERS = {'yaml': _PlainHandler, 'yml': _PlainHandler, 'json': _LimitedHandler}


@contextlib.contextmanager
def plain_yaml() -> Iterator[None]:
    """Make mmengine read YAML files as data in this block, also those in ``_base_``.

    Files in JSON have the same limits.

    Raises:
        TagError: If a file has a tag that would build an object.
        AliasError: If a file has more than 100,000 values, with aliases written out, or more
            than a million if each counts once for every list or dict around it, or an alias
            that contains itself.
    """
    with _swapping:
        usual = {name: file_handlers[name] for name in _HANDLERS}
        file_handlers.update({name: _HANDLERS[name](usual[name]) for name in usual})
        try:
            yield
        finally:
            file_handlers.update(usual)
