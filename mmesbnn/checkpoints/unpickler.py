"""Interpreter of pickles with the few instructions that checkpoints need.

It imports nothing, and calls only objects that :mod:`.names` makes. A name in a pickle is
replaced by a :class:`Name`, never by the object of that name.
"""

from __future__ import annotations

import struct
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .limits import OBJECT_SIZE, Budget, CheckpointError, Source

#: Types of keys of a dict and elements of a set. Other types, such as tuples nested a million
#: times, can crash Python when they are hashed.
_KEYS = (str, bytes, int, float, complex, type(None))


@dataclass(frozen=True, eq=False)
class Name:
    """Meaning of a name in a pickle.

    Args:
        path: Dotted name.
        call: Function that checks the arguments in the pickle and makes the object.
            Default None: the name cannot be called.
    """

    path: str
    call: Callable[..., Any] | None = None


class Pending:
    """Object whose state comes later in the pickle."""

    result: Any = None
    is_built = False

    def build(self, state: Any) -> Any:
        """Check the state and make the object from it."""
        raise NotImplementedError


def is_key(value: Any) -> bool:
    """Return True if ``value`` may be a key of a dict."""
    if type(value) is tuple:
        return len(value) < 16 and all(type(v) in _KEYS for v in value)
    return type(value) in _KEYS or type(value) is bool


def _copy_size(value: Any) -> int:
    """Return about the bytes of a copy of ``value``, without the objects in it."""
    if isinstance(value, (str, bytes, bytearray)):
        return len(value)
    return OBJECT_SIZE * len(value) if isinstance(value, (list, tuple, set, dict)) else 0


class Unpickler:
    """Interpreter of one pickle.

    Args:
        source: Reader of the bytes.
        find: Function that returns the replacement of a dotted name.
        persistent: Function that returns the object of a persistent id, a tuple.
        budget: Counter of the objects.
        trusted: Classes and functions that the user lets torch trust.
    """

    def __init__(
        self,
        source: Source,
        find: Callable[[str], Any],
        persistent: Callable[[Any], Any],
        budget: Budget,
        trusted: Sequence[Any] = (),
    ) -> None:
        self.read, self.read_line = source.read, source.read_line
        self.find, self.persistent, self.budget = find, persistent, budget
        self.trusted = trusted
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def load(self) -> Any:
        """Run the pickle to its end.

        Raises:
            CheckpointError: If it holds anything unusual.
        """
        while True:
            code = self.read(1)
            if code == b'.':
                return self._value(self.stack.pop())
            step = _STEPS.get(code)
            if step is None:
                raise CheckpointError(f'holds the unusual instruction {code!r}')
            self.budget.take(OBJECT_SIZE)
            step(self)

    def _value(self, value: Any) -> Any:
        return value.result if isinstance(value, Pending) and value.is_built else value

    def _push(self, value: Any) -> None:
        self.stack.append(value)

    def _since_mark(self) -> list[Any]:
        values, self.stack = self.stack, self.marked.pop()
        return [self._value(value) for value in values]

    def _pop(self) -> Any:
        return self._value(self.stack.pop())

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self.read(struct.calcsize(form)))[0]

    def protocol(self) -> None:
        """Read the version of the format."""
        version = self.read(1)[0]
        if version > 2:
            raise CheckpointError(f'was written with pickle protocol {version}: write it with 2')

    def mark(self) -> None:
        """Begin a group of values."""
        self.marked.append(self.stack)
        self.stack = []

    def name(self) -> None:
        """Push the replacement of a dotted name."""
        module, name = self.read_line().decode(), self.read_line().decode()
        module = 'builtins' if module == '__builtin__' else module
        self._push(self.find(f'{module}.{name}'))

    def _is_trusted(self, value: Any) -> bool:
        return any(value is trusted for trusted in self.trusted)

    def call(self) -> None:
        """Call the replacement of a name."""
        arguments, function = self._pop(), self._pop()
        if type(arguments) is not tuple:
            raise CheckpointError('calls something with no tuple of arguments')
        self._take_copies(arguments)
        if isinstance(function, Name) and function.call is not None:
            self._push(function.call(*arguments))
        elif self._is_trusted(function):
            self._push(function(*arguments))
        else:
            path = getattr(function, 'path', type(function).__name__)
            raise CheckpointError(f'calls {path}, which cannot be called')

    def new(self) -> None:
        """Make an object of a class whose state comes later."""
        arguments, cls = self._pop(), self._pop()
        if self._is_trusted(cls) and isinstance(cls, type):
            self._push(cls.__new__(cls, *arguments))
        else:
            self.stack += [cls, arguments]
            self.call()

    def _take_copies(self, values: tuple[Any, ...]) -> None:
        """Count the memory of copies: a pickle can name the same values any number of times."""
        self.budget.take(sum(map(_copy_size, values)))

    def build(self) -> None:
        """Give an object its state."""
        state, target = self._pop(), self.stack[-1]
        self._take_copies(state if type(state) is tuple else (state,))
        if isinstance(target, Pending):
            if target.is_built:
                raise CheckpointError('builds an object twice')
            target.result, target.is_built = target.build(state), True
        elif type(target) is OrderedDict:
            _set_versions(target, state)
        elif self._is_trusted(type(target)):
            if hasattr(target, '__setstate__'):
                target.__setstate__(state)
            else:
                target.__dict__.update(state)
        else:
            raise CheckpointError(f'builds a {type(target).__name__}')

    def extend(self) -> None:
        """Append values to a list."""
        values, target = self._since_mark(), self.stack[-1]
        if type(target) is not list:
            raise CheckpointError(f'appends to a {type(target).__name__}')
        target.extend(values)

    def append(self) -> None:
        """Append one value to a list."""
        self._group(1)
        self.extend()

    def set_items(self) -> None:
        """Set items of a dict."""
        values, target = self._since_mark(), self.stack[-1]
        if type(target) not in (dict, OrderedDict, Counter) or len(values) % 2:
            raise CheckpointError(f'sets items of a {type(target).__name__}')
        for key, value in zip(values[::2], values[1::2]):
            if not is_key(key):
                raise CheckpointError(f'has a {type(key).__name__} as a key')
            target[key] = value

    def set_item(self) -> None:
        """Set one item of a dict."""
        self._group(2)
        self.set_items()

    def _group(self, count: int) -> None:
        """Treat the last values as values after a mark."""
        if len(self.stack) < count:
            raise CheckpointError('takes more values than there are')
        values = self.stack[-count:]
        del self.stack[-count:]
        self.marked.append(self.stack)
        self.stack = values

    def tuple(self, count: int | None = None) -> None:
        """Push a tuple of the last values, or of those after the mark."""
        if count is not None:
            self._group(count)
        self._push(tuple(self._since_mark()))

    def text(self) -> None:
        """Push a string."""
        data = self.read(self._number('<I'))
        self._push(data.decode('utf-8', 'surrogatepass'))

    def short_text(self) -> None:
        """Push a string of Python 2."""
        self._push(self.read(self.read(1)[0]).decode())

    def long(self) -> None:
        """Push an integer of up to 255 bytes."""
        self._push(int.from_bytes(self.read(self.read(1)[0]), 'little', signed=True))

    def by_id(self) -> None:
        """Push the object of a persistent id."""
        self._push(self.persistent(self._pop()))

    def get(self, form: str) -> None:
        """Push a memorised value."""
        self._push(self._value(self.memo[self._number(form)]))

    def put(self, form: str) -> None:
        """Memorise the last value."""
        self.memo[self._number(form)] = self.stack[-1]


def _set_versions(target: OrderedDict[Any, Any], state: Any) -> None:
    """Restore ``_metadata``, with the versions of a state dict's modules.

    Another attribute could hide a method such as ``items``.
    """
    versions = state.get('_metadata') if isinstance(state, Mapping) else None
    if versions is None:
        return
    is_plain = isinstance(versions, Mapping) and all(
        isinstance(key, str)
        and isinstance(value, Mapping)
        and isinstance(value.get('version', 1), (int, type(None)))
        for key, value in versions.items()
    )
    if not is_plain:
        raise CheckpointError('its _metadata holds no versions of modules')
    target._metadata = versions  # type: ignore[attr-defined]


_STEPS: dict[bytes, Callable[[Unpickler], None]] = {
    b'\x80': Unpickler.protocol,
    b'(': Unpickler.mark,
    b'c': Unpickler.name,
    b'R': Unpickler.call,
    b'\x81': Unpickler.new,
    b'b': Unpickler.build,
    b'a': Unpickler.append,
    b'e': Unpickler.extend,
    b's': Unpickler.set_item,
    b'u': Unpickler.set_items,
    b't': Unpickler.tuple,
    b'\x85': lambda machine: machine.tuple(1),
    b'\x86': lambda machine: machine.tuple(2),
    b'\x87': lambda machine: machine.tuple(3),
    b'N': lambda machine: machine._push(None),
    b'\x88': lambda machine: machine._push(True),
    b'\x89': lambda machine: machine._push(False),
    b')': lambda machine: machine._push(()),
    b']': lambda machine: machine._push([]),
    b'}': lambda machine: machine._push({}),
    b'\x8f': lambda machine: machine._push(set()),
    b'J': lambda machine: machine._push(machine._number('<i')),
    b'K': lambda machine: machine._push(machine._number('<B')),
    b'M': lambda machine: machine._push(machine._number('<H')),
    b'G': lambda machine: machine._push(machine._number('>d')),
    b'X': Unpickler.text,
    b'U': Unpickler.short_text,
    b'\x8a': Unpickler.long,
    b'Q': Unpickler.by_id,
    b'h': lambda machine: machine.get('<B'),
    b'j': lambda machine: machine.get('<I'),
    b'q': lambda machine: machine.put('<B'),
    b'r': lambda machine: machine.put('<I'),
}
