"""Search for modules that multiply with a child's weight without calling the child.

Such a child cannot be replaced by a layer that binarizes its input. There are two ways to
find these modules: the bytecode of their methods reads ``self.proj.weight``, or a run of
the network shows the reading.
"""

from __future__ import annotations

import dis
import types
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode

from .trees import tensors_in

#: Prefixes of the names of methods that compute.
_COMPUTES = (
    'forward',
    '_forward',
    'loss',
    'predict',
    'extract_feat',
    'encode',
    'decode',
    '__call__',
)

_Chain = tuple[str, ...]


def _chains(code: types.CodeType, me: str) -> Iterator[_Chain]:
    """Yield the attributes that ``code`` reads of ``me``: ``self.a.b`` is ``('a', 'b')``."""
    chain: list[str] | None = None
    for step in dis.get_instructions(code):
        name = step.argval
        if 'LOAD_FAST' in step.opname and isinstance(name, tuple):
            name = name[-1]  # two loads in one step
        if step.opname.startswith(('LOAD_ATTR', 'LOAD_METHOD')) and chain is not None:
            chain.append(name)
            continue
        if chain:
            yield tuple(chain)
        loads = 'LOAD_FAST' in step.opname or 'LOAD_DEREF' in step.opname
        chain = [] if loads and name == me else None
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):  # a function within the function
            yield from _chains(constant, me)


def _method(kind: type, name: str) -> types.FunctionType | None:
    found: Any = getattr(kind, name, None)
    while hasattr(found, '__wrapped__'):
        found = found.__wrapped__
    return found if isinstance(found, types.FunctionType) else None


def _reads(kind: type) -> set[_Chain]:
    """Return the attributes of ``self`` that the computing methods of ``kind`` read."""
    names = [name for name in dir(kind) if name.startswith(_COMPUTES)]
    seen, chains = set(names), set()
    while names:
        method = _method(kind, names.pop())
        if method is None or not method.__code__.co_argcount:
            continue
        for chain in _chains(method.__code__, method.__code__.co_varnames[0]):
            chains.add(chain)
            if chain[0] not in seen:  # it may be another method of the class
                seen.add(chain[0])
                names.append(chain[0])
    return chains


def read_by_definition(model: nn.Module) -> dict[int, str]:
    """Map the id of each module whose weight another module reads to the reader's class."""
    of_kind: dict[type, set[_Chain]] = {}
    found: dict[int, str] = {}
    for module in model.modules():  # the nearest reader comes last and wins
        kind = type(module)
        if kind not in of_kind:
            of_kind[kind] = {x for x in _reads(kind) if 'weight' in x[1:]}
        for chain in of_kind[kind]:
            child: Any = module
            for name in chain[: chain.index('weight', 1)]:
                child = getattr(child, name, None)
            if isinstance(child, nn.Module) and child is not module:
                found[id(child)] = kind.__name__
    return found


class WeightReads(TorchFunctionMode):
    """Mode that finds, during a run, weights that are read outside their own layer.

    Args:
        layers: Layers to watch.

    Attributes:
        found: Maps the id of a layer to the class that read its weight.
    """

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers: Mapping[int, nn.Module] = {id(x.weight): x for x in layers}
        self.found: dict[int, str] = {}
        self._running: list[nn.Module] = []
        self._hooks: list[Any] = []

    def __enter__(self) -> WeightReads:
        hooks = nn.modules.module
        self._hooks = [
            hooks.register_module_forward_pre_hook(
                lambda module, args: self._running.append(module)
            ),
            hooks.register_module_forward_hook(lambda module, args, output: self._leave(module)),
        ]
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for hook in self._hooks:
            hook.remove()

    def _leave(self, module: nn.Module) -> None:
        # a forward that raised an error is still on the stack
        while self._running and self._running.pop() is not module:
            pass

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call ``func`` and record the watched weights among its arguments."""
        kwargs = kwargs or {}
        if getattr(func, '__name__', '') != '__get__':  # reading dtype, device or shape
            for value in tensors_in((args, kwargs)):
                layer = self.layers.get(id(value))
                if layer is not None and layer not in self._running:
                    reader = self._running[-1] if self._running else None
                    self.found[id(layer)] = type(reader).__name__
        return func(*args, **kwargs)
