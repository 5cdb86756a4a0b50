"""Mode that observes the operators of a network and the layer that runs each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from ..binary.forms import SIGNS_ONLY, InputForm
from ..binary.operators import BINARY_CONV2D, BINARY_LINEAR, BINARY_MATMUL
from ..binary.trees import tensors_in
from .counters import counter

__all__ = ['BINARY_OPERATORS', 'OperatorMode', 'Visit', 'is_binary', 'layer_name']

#: Binary operators. The first two operands are a signed input and an effective weight; in
#: the last operator they are two binary activations.
BINARY_OPERATORS = (BINARY_CONV2D, BINARY_LINEAR, BINARY_MATMUL)

#: Forms of the first two operands of a binary operator, as far as they are activations.
Forms = tuple[InputForm, InputForm]
#: Function of the operator, its arguments, its result, the name of the layer, and the forms of
#: its operands.
Visit = Callable[[Any, tuple[Any, ...], Any, str, Forms], None]


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


def layer_name(name: str, module: nn.Module) -> str:
    """Return the name of a layer in reports: a layer that is the whole model has its class's."""
    return name or type(module).__name__


class OperatorMode(TorchDispatchMode):
    """Mode that calls ``visit`` after every operator that ``model`` runs.

    An operator belongs to the innermost module whose ``forward`` is running. The module is
    named as in ``model.named_modules()``. Operators that a module runs on the parameters of
    a child without calling the child belong to the parent. Operators are observed below
    autograd, so a convolution is one operator for every way of calling it.

    The form of an operand is that of the sign it comes from, a module with a ``form``. Between
    them may be any operators but multiplications of the kind that is counted. Activations from
    anywhere else count as -1 and 1.

    Args:
        model: Network; it has forward hooks while the mode is active.
        visit: Function to call with operator, arguments, result, the layer's name, and the
            forms of the first two operands.
    """

    def __init__(self, model: nn.Module, visit: Visit) -> None:
        super().__init__()
        self.model = model
        self.visit = visit
        self._layers = ['']
        self._hooks = contextlib.ExitStack()
        self._forms = WeakTensorKeyDictionary()  # of tensors that are not -1 and 1

    def _watch(self, name: str, module: nn.Module) -> None:
        def enter(*_: Any) -> None:
            self._layers.append(name)

        form = getattr(module, 'form', None)

        def leave(_module: nn.Module, _args: Any, out: Any) -> None:
            self._layers.pop()
            if isinstance(form, InputForm) and isinstance(out, Tensor):
                self._mark(out, form)

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
        forms = (self._form_of(args[:1]), self._form_of(args[1:2]))
        self.visit(operator, args, out, self._layers[-1], forms)
        if self._forms and counter(operator) is None:
            form = self._form_of((args, kwargs))
            for result in tensors_in(out):
                self._mark(result, form)
        return out

    def _mark(self, x: Tensor, form: InputForm) -> None:
        if form.is_sign:
            self._forms.pop(x, None)
        else:
            self._forms[x] = form

    def _form_of(self, operands: Any) -> InputForm:
        """Return the form with the most bits among the operands'."""
        if not self._forms:
            return SIGNS_ONLY
        forms = [self._forms[x] for x in tensors_in(operands) if x in self._forms]
        return max(forms, key=lambda form: (form.bits, form.low), default=SIGNS_ONLY)
