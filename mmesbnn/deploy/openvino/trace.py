"""From a torch model to an OpenVINO graph whose binary layers are binary.

The model runs once to see what each of its binary operators multiplies, and is traced;
OpenVINO's frontend converts the trace, and asks here what the binary operators become.
Both meet the operators in the same order.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino import opset13 as ops
from openvino.frontend import FrontEndManager
from openvino.frontend.pytorch import ConversionExtension
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
from torch import Tensor, nn

from ...analysis.binary_check import check_weight
from ...analysis.operators import OperatorMode, inference, is_binary
from ...binary.functional import BINARY_CONV2D, BINARY_LINEAR, BINARY_MATMUL
from ...binary.weights import RealWeight
from ..runtime.manifest import ExportError
from . import ops as binary_ops
from .kernel import Geometry, pads_rightly

NAMES = {
    BINARY_CONV2D: 'binary_conv2d',
    BINARY_LINEAR: 'binary_linear',
    BINARY_MATMUL: 'binary_matmul',
}


@dataclass
class BinaryCall:
    """One run of a binary operator.

    Attributes:
        layer: Name of the layer that ran it.
        operator: ``'binary_conv2d'``, ``'binary_linear'`` or ``'binary_matmul'``.
        weight: Effective weight; None in a product of activations.
        geometry: How a convolution looks at its input, None otherwise.
        macs: Multiplications for one run of the example.
        reason: Why it stays in full precision; None if it becomes binary.
        exact_signs: Whether the input was exactly +-1 on the example.
        pad_first: Whether to pad before the kernel, which would not do it rightly.
    """

    layer: str
    operator: str
    weight: np.ndarray | None
    geometry: Geometry | None
    macs: int
    reason: str | None
    exact_signs: bool
    pad_first: bool = False


def _refused(layer: str, module: nn.Module, why: str) -> ExportError | None:
    """The error about weights that are not binary, None if they are not meant to be."""
    binarizer = getattr(module, 'weight_binarizer', None)
    if isinstance(binarizer, RealWeight):
        return None
    temperature = getattr(binarizer, 'temperature', None)
    if temperature is None:
        return ExportError(f'{layer}: {why}')
    value = temperature.flatten()[0].item()
    return ExportError(
        f'{layer}: its temperature is {value:.3g}, so its weights are not signs yet '
        f'({why}); train on until they are'
    )


class _Recorder:
    """Collects the calls; its :meth:`visit` is for :class:`OperatorMode`."""

    def __init__(self, model: nn.Module) -> None:
        self.layers = dict(model.named_modules())
        self.calls: list[BinaryCall] = []

    def visit(self, operator: Any, args: Any, out: Any, layer: str) -> None:
        """Note a binary operator and what it multiplies."""
        if not is_binary(operator):
            return
        x, other = args[:2]
        call = BinaryCall(
            layer,
            NAMES[operator],
            None,
            None,
            out.numel() * x.shape[-1],
            None,
            bool((x.abs() == 1).all()),
        )
        self.calls.append(call)
        if operator is BINARY_MATMUL:
            call.reason = 'OpenVINO has no binary product of two activations'
            return
        call.weight = other.detach().float().numpy().copy()
        if operator is BINARY_CONV2D:
            stride, padding, dilation, groups, pad_value = args[2:7]
            call.geometry = Geometry(
                tuple(stride), tuple(padding), tuple(dilation), groups, int(pad_value)
            )
            call.pad_first = not pads_rightly(
                call.geometry, other.shape[2:], x.shape[2], out.shape[3]
            )
            call.macs = out.numel() * other[0].numel()
        self._check(call, other)

    def _check(self, call: BinaryCall, weight: Tensor) -> None:
        why = check_weight(weight)
        if why is None and not (weight != 0).all():
            why = 'weights are 0'
        if why is None:
            return
        if error := _refused(call.layer, self.layers[call.layer], why):
            raise error
        call.reason = 'its weight_binarizer is "real"'


def record(model: nn.Module, example: Sequence[Tensor]) -> list[BinaryCall]:
    """Run ``model`` on ``example`` and list the binary operators in order.

    Raises:
        ExportError: If a layer's weights should be signs and are not.
    """
    recorder = _Recorder(model)
    with inference(model), OperatorMode(model, recorder.visit):
        model(*example)
    return recorder.calls


def _swap_last_axes(context: Any) -> list[ov.Output]:
    """``x.mT``, which OpenVINO's frontend does not know."""
    x = context.get_input(0)
    order = list(range(x.get_partial_shape().rank.get_length()))
    order[-2:] = order[:-3:-1]
    return ops.transpose(x, binary_ops.constant(order, np.int64)).outputs()


def _threshold(context: Any) -> list[ov.Output]:
    """``where(x <= limit, value, x)``, which the frontend does not know either."""
    x, limit, value = (context.get_input(i) for i in range(3))
    return ops.select(ops.less_equal(x, limit), value, x).outputs()


class _Converter:
    """Says to OpenVINO's frontend what the binary operators become."""

    def __init__(self, calls: list[BinaryCall]) -> None:
        self.calls = calls
        self.position = 0

    def extensions(self) -> list[ConversionExtension]:
        ours = [
            ConversionExtension(f'mmesbnn::{name}', getattr(self, f'_{name}'))
            for name in NAMES.values()
        ]
        return [
            *ours,
            ConversionExtension('aten::mT', _swap_last_axes),
            ConversionExtension('aten::threshold', _threshold),
        ]

    def _next(self, operator: str) -> BinaryCall:
        call = self.calls[self.position]
        assert call.operator == operator, f'{operator} met where {call} was expected'
        self.position += 1
        return call

    def _binary_conv2d(self, context: Any) -> list[ov.Output]:
        call = self._next('binary_conv2d')
        x = context.get_input(0)
        if call.reason is not None:
            return binary_ops.float_conv(x, call.weight, call.geometry).outputs()
        return binary_ops.binary_conv(
            x, call.weight, call.geometry, call.layer, call.pad_first
        ).outputs()

    def _binary_linear(self, context: Any) -> list[ov.Output]:
        call = self._next('binary_linear')
        x = context.get_input(0)
        if x.get_partial_shape().rank.is_dynamic:
            call.reason = 'the number of axes of its input is not known'
        if call.reason is not None:
            weight = binary_ops.constant(call.weight)
            return ops.matmul(x, weight, False, True).outputs()
        return binary_ops.binary_linear(x, call.weight, call.layer).outputs()

    def _binary_matmul(self, context: Any) -> list[ov.Output]:
        self._next('binary_matmul')
        return ops.matmul(context.get_input(0), context.get_input(1), False, False).outputs()


def trace(model: nn.Module, example: Sequence[Tensor]) -> tuple[ov.Model, list[BinaryCall]]:
    """Convert ``model`` as it runs on ``example``.

    Args:
        model: Takes the tensors of ``example``, returns a tensor or a tuple of them.
        example: Real inputs, which stand for all later ones.

    Returns:
        The graph, with shapes as general as the trace allows, and its binary calls.

    Raises:
        ExportError: If a layer's weights should be signs and are not, or if OpenVINO
            cannot convert the trace.
    """
    calls = record(model, example)
    converter = _Converter(calls)
    frontend = FrontEndManager().load_by_framework('pytorch')
    for extension in converter.extensions():
        frontend.add_extension(extension)
    with warnings.catch_warnings(), inference(model):
        # branches on shapes and on settings, which the trace is made for
        warnings.simplefilter('ignore')
        traced = torch.jit.trace(model, tuple(example), check_trace=False, strict=False)
        decoder = TorchScriptPythonDecoder(traced, example_input=tuple(example))
        try:
            graph = frontend.convert(frontend.load(decoder))
        except Exception as error:  # the frontend has exceptions of its own
            text = ' '.join(str(error).split())
            rule = re.search(r'No conversion rule found for operations: (.+)', text)
            raise ExportError(
                f'OpenVINO cannot convert the model: {rule[0] if rule else text}'[:400]
            ) from error
    if converter.position != len(calls):
        raise ExportError(
            f'the model ran {len(calls)} binary operators, its trace has {converter.position}'
        )
    return graph, calls
