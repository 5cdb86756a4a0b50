"""Records of the binary operators that a model runs on an example."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from ...analysis.operators import Forms, OperatorMode, is_binary
from ...binary.layers import BinaryLayer
from ...binary.modes import inference
from ...binary.operators import BINARY_CONV2D, BINARY_LINEAR, BINARY_MATMUL
from ...binary.weight_values import check_weight
from ..runtime.manifest import ExportError
from .kernel import Geometry, pads_rightly


@dataclass(frozen=True, kw_only=True, eq=False)
class BinaryCall:
    """One run of a binary operator.

    Attributes:
        operator: Name of the operator in the namespace ``mmesbnn``.
        layer: Name of the layer that ran it.
        macs: Multiplications for one run of the example.
        exact_signs: Whether the input was exactly +-1 on the example.
        reason: Reason why it stays in full precision; None if it becomes binary.
    """

    operator: ClassVar[str]

    layer: str
    macs: int
    exact_signs: bool
    reason: str | None = None

    @property
    def weight_shape(self) -> tuple[int, ...] | None:
        """Shape of the weight; None in a product of activations."""
        return None

    @property
    def pads_zeros_itself(self) -> bool:
        """True if zeros are padded before the kernel, as the mean of -1 and 1."""
        return False


class MatmulCall(BinaryCall):
    """One product of two binary activations."""

    operator = 'binary_matmul'


@dataclass(frozen=True, kw_only=True, eq=False)
class WeightedCall(BinaryCall):
    """One run of an operator that has a weight.

    Attributes:
        weight: Effective weight.
    """

    weight: np.ndarray

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return self.weight.shape


class LinearCall(WeightedCall):
    """One binary product with a weight ``(C_o, C_i)``."""

    operator = 'binary_linear'


@dataclass(frozen=True, kw_only=True, eq=False)
class ConvCall(WeightedCall):
    """One binary convolution with a weight ``(C_o, C_i / groups, k_h, k_w)``.

    Attributes:
        geometry: Stride, padding, dilation, groups and padded value.
        pad_first: Whether to pad before the kernel, because the kernel would pad wrongly.
    """

    operator = 'binary_conv2d'

    geometry: Geometry
    pad_first: bool

    @property
    def pads_zeros_itself(self) -> bool:
        """True if zeros are padded before the kernel, as the mean of -1 and 1."""
        return self.pad_first and not self.geometry.pad_value


def _array(weight: Tensor) -> np.ndarray:
    return weight.detach().float().numpy().copy()


def _conv_call(args: Sequence[Any], out: Tensor, **common: Any) -> ConvCall:
    x, weight, stride, padding, dilation, groups, pad_value = args[:7]
    geometry = Geometry(
        stride=tuple(stride),
        padding=tuple(padding),
        dilation=tuple(dilation),
        groups=groups,
        pad_value=int(pad_value),
    )
    does_pad = pads_rightly(geometry, weight.shape[2:], rows=x.shape[2], columns=out.shape[3])
    return ConvCall(
        macs=out.numel() * weight[0].numel(),
        weight=_array(weight),
        geometry=geometry,
        pad_first=not does_pad,
        **common,
    )


def _linear_call(args: Sequence[Any], out: Tensor, **common: Any) -> LinearCall:
    x, weight = args[:2]
    return LinearCall(macs=out.numel() * x.shape[-1], weight=_array(weight), **common)


def _matmul_call(args: Sequence[Any], out: Tensor, **common: Any) -> MatmulCall:
    return MatmulCall(macs=out.numel() * args[0].shape[-1], **common)


#: Constructor of the record of every operator.
_CALLS: dict[Any, Callable[..., BinaryCall]] = {
    BINARY_CONV2D: _conv_call,
    BINARY_LINEAR: _linear_call,
    BINARY_MATMUL: _matmul_call,
}


def _reason(layer: str, module: nn.Module, weight: Tensor) -> str | None:
    """Return the reason why a weight stays in full precision, or None if it is binary.

    Raises:
        ExportError: If it should be binary but is not.
    """
    why = check_weight(weight)
    if why is None and not (weight != 0).all():
        why = 'weights are 0'
    if why is None:
        return None
    if isinstance(module, BinaryLayer):
        if module.has_real_weights:
            return f'its weight_binarizer is {module.binarizer_name}'
        why = module.why_not_binary() or why
    raise ExportError(f'{layer}: {why}')


class _Recorder:
    """Collector of calls; :class:`OperatorMode` calls its :meth:`visit`."""

    def __init__(self, model: nn.Module) -> None:
        self.layers = dict(model.named_modules())
        self.calls: list[BinaryCall] = []

    def visit(self, operator: Any, args: Any, out: Any, layer: str, forms: Forms) -> None:
        """Record a binary operator and its operands."""
        if not is_binary(operator):
            return
        x, other = args[:2]
        if operator is BINARY_MATMUL:
            reason: str | None = 'OpenVINO has no binary product of two activations'
        else:
            reason = _reason(layer, self.layers[layer], other)
            if reason is None and not forms[0].is_sign:
                reason = f'its inputs are {forms[0]}, and the kernels multiply -1 and 1 only'
        exact_signs = bool((x.abs() == 1).all())
        self.calls.append(
            _CALLS[operator](args, out, layer=layer, exact_signs=exact_signs, reason=reason)
        )


def record(model: nn.Module, example: Sequence[Tensor]) -> list[BinaryCall]:
    """Run ``model`` on ``example`` and list the binary operators in order.

    Raises:
        ExportError: If a layer's weights should be signs and are not.
    """
    recorder = _Recorder(model)
    with inference(model), OperatorMode(model, recorder.visit):
        model(*example)
    return recorder.calls
