"""Mode that observes the operators of a network and the layer that runs each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..binary.functional import BINARY_CONV2D, BINARY_LINEAR, BINARY_MATMUL
from ..binary.modes import inference

__all__ = ['BINARY_OPERATORS', 'OperatorMode', 'Visit', 'inference', 'is_binary']

#: Binary operators. The first two operands are a signed input and an effective weight; in
#: the last operator they are two binary activations.
BINARY_OPERATORS = (BINARY_CONV2D, BINARY_LINEAR, BINARY_MATMUL)

#: Function of the operator, its arguments, its result and the name of the layer.
Visit = Callable[[Any, tuple[Any, ...], Any, str], None]


def is_binary(operator: Any) -> bool:
    """Return True if ``operator`` is binary arithmetic.

    Raises:
        NotImplementedError: If it is an operator of mmesbnn that this module does not
            know. Without the error it would be missing in a count or a check.
    """
    if operator in BINARY_OPERATORS:
        return True
    if getattr(operator, 'namespace', None) == 'mmesbnn':
        raise NotImplementedError(f'mmesbnn.analysis does not know the operator {operator}')
    return False


class OperatorMode(TorchDispatchMode):
    """Mode that calls ``visit`` after every operator that ``model`` runs.

    An operator belongs to the innermost module whose ``forward`` is running. The module is
    named as in ``model.named_modules()``. Operators that a module runs on the parameters of
    a child without calling the child belong to the parent. Operators are observed below
    autograd, so a convolution is one operator for every way of calling it.

    Args:
        model: Network; it has forward hooks while the mode is active.
        visit: Function to call with operator, arguments, result and the layer's name.
    """

    def __init__(self, model: nn.Module, visit: Visit) -> None:
        super().__init__()
        self.model = model
        self.visit = visit
        self._layers = ['']
        self._hooks = contextlib.ExitStack()

    def _watch(self, name: str, module: nn.Module) -> None:
        def enter(*_: Any) -> None:
            self._layers.append(name)

        def leave(*_: Any) -> None:
            self._layers.pop()

        self._hooks.enter_context(module.register_forward_pre_hook(enter, prepend=True))
        self._hooks.enter_context(module.register_forward_hook(leave, always_call=True))

    def __enter__(self) -> OperatorMode:
        for name, module in self.model.named_modules():
            self._watch(name, module)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._hooks.close()

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run ``operator``, then call ``visit``."""
        out = operator(*args, **(kwargs or {}))
        self.visit(operator, args, out, self._layers[-1])
        return out
