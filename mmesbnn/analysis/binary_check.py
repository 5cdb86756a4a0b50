"""Check that a trained network is really binary, by the operands of its operators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..binary.arguments import MODULE
from ..binary.layers import BinaryLayer
from ..binary.modes import inference
from ..binary.operators import BINARY_MATMUL
from ..binary.weight_values import check_weight
from ..checks import check, checked, instance, one_of
from .operators import Forms, OperatorMode, is_binary, layer_name

TENSOR = instance(Tensor, 'a tensor')
_NO_VALUES = 'inputs are on the device meta, without values'
#: Arguments of ``forward``. An array of NumPy, say, would be unpacked into its images.
_ARGUMENTS = instance((list, tuple), 'a tensor, or a mapping, list or tuple of arguments')


@dataclass(frozen=True)
class Finding:
    """One reason why a network is not binary.

    Attributes:
        layer: Name of the layer; empty if the finding concerns the whole network.
        what: ``'weight'``, ``'input'`` or ``'network'``.
        message: Sentence about the values that were found.
    """

    layer: str
    what: str
    message: str

    def __str__(self) -> str:
        return f'{self.layer}: {self.message}' if self.layer else self.message


@checked(x=TENSOR, low=one_of(-1, 0))
def check_input(x: Tensor, low: int = -1) -> str | None:
    """Return a sentence that says why a binary operator's input is not binary, else None.

    Every entry must be exactly one of the two values. Padding is added inside the operator,
    so it is not checked.

    Args:
        x: Input of the operator, of any shape.
        low: The smaller value: -1, or 0 behind a sign that gives 0 and 1. The other is 1.
            Default -1.
    """
    if x.is_meta:
        return _NO_VALUES
    found = x.detach()
    other = found[found.abs() != 1] if low else found[(found != 0) & (found != 1)]
    if other.numel() == 0:
        return None
    share = 100 * other.numel() / x.numel()
    return (
        f'inputs take values other than {"+-1" if low else "0 and 1"}, e.g. {other[0].item():g} '
        f'({share:.2g} % of the entries)'
    )


@checked(x=TENSOR)
def check_activation(x: Tensor) -> str | None:
    """Return a sentence that says why a factor of ``binary_matmul`` is not binary, else None.

    Its entries must be ``-a`` and ``+a``, or 0 and ``a`` as for attention probabilities.

    Args:
        x: Factor of any shape.
    """
    if x.is_meta:
        return _NO_VALUES
    values = x.detach().unique()
    if not torch.isfinite(values).all():
        return 'a factor of binary_matmul is not finite'
    if len(values) > 2:
        return f'a factor of binary_matmul takes {len(values)} values'
    if len(values) == 2 and 0 not in values and values[0] != -values[1]:
        low, high = values.tolist()
        return f'a factor of binary_matmul takes the values {low:g} and {high:g}'
    return None


def _hint(layer: nn.Module) -> str:
    """Return the reason why weights are not binary, if ``layer`` shows one."""
    if not isinstance(layer, BinaryLayer):
        return ''
    if layer.temperature is not None:
        return f' (temperature {layer.temperature:.3g})'
    if layer.has_real_weights:
        return f' (its weight_binarizer is {layer.binarizer_name})'
    values = layer.weight_form.values or 2
    return f' ({layer.binarizer_name} gives {values} values)' if values > 2 else ''


class _Inspector:
    """Collector of findings; :class:`OperatorMode` calls its :meth:`visit`.

    Args:
        model: Network to check.
    """

    def __init__(self, model: nn.Module) -> None:
        self.layers = dict(model.named_modules())
        self.findings: dict[tuple[str, str], Finding] = {}
        self.checked: set[str] = set()

    def visit(self, operator: Any, args: Any, out: Any, layer: str, forms: Forms) -> None:
        """Check the operands of ``operator`` if it is a binary one."""
        if not is_binary(operator):
            return
        self.checked.add(layer)
        if operator is BINARY_MATMUL:
            for factor in args[:2]:
                self._note(layer, 'input', check_activation(factor))
            return
        form = forms[0]
        message = check_input(args[0], low=form.low) if form.bits == 1 else check_input(args[0])
        if message is not None and form.bits > 1:
            message += f': its sign gives {form}'
        self._note(layer, 'input', message)
        self._check_weight(layer, args[1])

    def check_idle(self) -> None:
        """Check the weights of binary layers that did not run on this batch."""
        for name, layer in self.layers.items():
            if isinstance(layer, BinaryLayer) and name not in self.checked:
                self._check_weight(name, layer.effective_weight())

    def _check_weight(self, layer: str, weight: Tensor) -> None:
        message = check_weight(weight)
        if message is not None:
            message += _hint(self.layers[layer])
        self._note(layer, 'weight', message)

    def _note(self, layer: str, what: str, message: str | None) -> None:
        if message is not None:
            name = layer_name(layer, self.layers[layer])
            self.findings.setdefault((layer, what), Finding(name, what, message))


def _run(model: nn.Module, batch: Any) -> None:
    """Run ``model`` on ``batch`` as a test loop does."""
    if isinstance(batch, Tensor):
        model(batch)
    elif callable(test_step := getattr(model, 'test_step', None)):
        # an mmengine model: preprocessing, forward and all other steps of a prediction
        test_step(batch)
    elif isinstance(batch, Mapping):
        model(**batch)
    else:
        check('batch', batch, _ARGUMENTS)
        model(*batch)


@checked(model=MODULE)
def check_binary(model: nn.Module, batch: Any) -> list[Finding]:
    """Check that every binary layer of ``model`` multiplies signs with signs.

    The network runs on ``batch`` in eval mode. The operands of its binary operators are
    checked: inputs must be exactly +-1 (0 and 1 behind a sign that says so), weights must be
    ``-a`` or ``+a`` per output channel. Latent weights are not inspected. The weights of
    binary layers that do not run on this batch are checked, too. A network without a binary
    operator is a finding.

    Args:
        model: Any module.
        batch: A tensor; for mmengine models a batch of the test dataloader; or the
            arguments of ``forward`` as a mapping, list or tuple.

    Returns:
        Findings in the order in which the layers run, at most one about inputs and one
        about weights per layer. The list is empty if the network is binary.

    Raises:
        ValueError: If ``batch`` is none of these.
        NotImplementedError: If the network runs an mmesbnn operator that this module
            does not know.
    """
    inspector = _Inspector(model)
    with inference(model):
        with OperatorMode(model, inspector.visit):
            _run(model, batch)
        if not inspector.checked:
            return [Finding('', 'network', 'no binary layer ran')]
        inspector.check_idle()
    return list(inspector.findings.values())
