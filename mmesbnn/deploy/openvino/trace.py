"""Conversion of a torch model to an OpenVINO graph whose binary layers are binary.

The model runs once, and the operands of each binary operator are recorded. Then the model is
traced, and OpenVINO's frontend converts the trace. Recording and conversion visit the
operators in the same order, so they are matched by their position. The kind of operator and
the shape of the weight are checked each time.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import openvino as ov
import torch
from openvino import opset13 as ops
from openvino.frontend import FrontEndManager
from openvino.frontend.pytorch import ConversionExtension
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
from torch import Tensor, nn

from ...binary.modes import inference
from ...errors import sentence
from ..runtime.manifest import ExportError
from .calls import BinaryCall, ConvCall, LinearCall, MatmulCall, record
from .nodes import constant
from .ops import binary_conv, binary_linear, float_conv

Call = TypeVar('Call', bound=BinaryCall)


def _swap_last_axes(context: Any) -> list[ov.Output]:
    """Convert ``x.mT``, which OpenVINO's frontend does not support."""
    x = context.get_input(0)
    order = list(range(x.get_partial_shape().rank.get_length()))
    order[-2:] = order[:-3:-1]
    return ops.transpose(x, constant(order, np.int64)).outputs()


def _threshold(context: Any) -> list[ov.Output]:
    """Convert ``where(x <= limit, value, x)``, which the frontend does not support either."""
    x, *numbers = (context.get_input(i) for i in range(3))
    # a trace holds the whole number of nn.Threshold(0, 1) as int64, and OpenVINO converts nothing
    limit, value = (ops.convert_like(number, x) for number in numbers)
    return ops.select(ops.less_equal(x, limit), value, x).outputs()


def _softplus(context: Any) -> list[ov.Output]:
    """Convert ``log(1 + exp(beta x)) / beta``; the frontend leaves out ``beta``."""
    x, beta, threshold = (context.get_input(i) for i in range(3))
    beta, threshold = (ops.convert_like(number, x) for number in (beta, threshold))
    inner = ops.multiply(x, beta)
    smooth = ops.divide(ops.softplus(inner), beta)
    return ops.select(ops.greater(inner, threshold), x, smooth).outputs()


class _Converter:
    """Converter of the binary operators of a trace, for OpenVINO's frontend.

    Args:
        recorded: The calls of the model, in order.

    Attributes:
        converted: The calls that are already converted, with their final reasons.
        mismatch: The first difference between the trace and the recorded calls.
    """

    def __init__(self, recorded: Sequence[BinaryCall]) -> None:
        self._recorded = recorded
        self.converted: list[BinaryCall] = []
        self.mismatch: ExportError | None = None

    def extensions(self) -> list[ConversionExtension]:
        """Return the frontend's extensions."""
        converters: dict[str, Callable[[Any], list[ov.Output]]] = {
            f'mmesbnn::{ConvCall.operator}': self._convert_conv,
            f'mmesbnn::{LinearCall.operator}': self._convert_linear,
            f'mmesbnn::{MatmulCall.operator}': self._convert_matmul,
            'aten::mT': _swap_last_axes,
            'aten::softplus': _softplus,
            'aten::threshold': _threshold,
        }
        return [ConversionExtension(name, convert) for name, convert in converters.items()]

    def check_complete(self) -> None:
        """Raise an :class:`ExportError` unless every recorded call was converted once."""
        if self.mismatch is not None:
            raise self.mismatch
        if len(self.converted) != len(self._recorded):
            raise ExportError(
                f'the model ran {len(self._recorded)} binary operators, '
                f'its trace has {len(self.converted)}'
            )

    def _next(self, kind: type[Call], context: Any) -> Call:
        """Return the recorded call that belongs to an operator of the trace.

        Raises:
            ExportError: If it is another operator, or has a weight of another shape. The
                frontend replaces the message, so the error is also kept in ``mismatch``.
        """
        position = len(self.converted)
        call = self._recorded[position] if position < len(self._recorded) else None
        shape = context.get_input(1).get_partial_shape()
        if isinstance(call, kind) and (
            call.weight_shape is None or shape.compatible(ov.PartialShape(call.weight_shape))
        ):
            return call
        recorded = 'none' if call is None else f'{call.operator} of the layer {call.layer!r}'
        error = ExportError(
            f'binary operator {position} of the trace is {kind.operator} with an operand of '
            f'shape {shape}, and the model ran {recorded}: it must run the same operators '
            'every time'
        )
        self.mismatch = self.mismatch or error
        raise error

    def _convert_conv(self, context: Any) -> list[ov.Output]:
        call = self._next(ConvCall, context)
        self.converted.append(call)
        x = context.get_input(0)
        if call.reason is not None:
            return float_conv(x, call.weight, call.geometry).outputs()
        return binary_conv(
            x, call.weight, call.geometry, layer=call.layer, pad_first=call.pad_first
        ).outputs()

    def _convert_linear(self, context: Any) -> list[ov.Output]:
        call = self._next(LinearCall, context)
        x = context.get_input(0)
        if x.get_partial_shape().rank.is_dynamic:
            call = replace(call, reason='the number of axes of its input is not known')
        self.converted.append(call)
        if call.reason is not None:
            return ops.matmul(x, constant(call.weight), False, True).outputs()
        return binary_linear(x, call.weight, layer=call.layer).outputs()

    def _convert_matmul(self, context: Any) -> list[ov.Output]:
        self.converted.append(self._next(MatmulCall, context))
        return ops.matmul(context.get_input(0), context.get_input(1), False, False).outputs()


def conversion_error(error: Exception) -> ExportError:
    """Return the error for one of OpenVINO: a sentence that names what it cannot convert."""
    text = ' '.join(str(error).split())
    rule = re.search(r'No conversion rule found for operations: (.+)', text)
    return ExportError(f'OpenVINO cannot convert the model: {rule[0] if rule else text}'[:400])


def _convert(
    traced: Any, example: Sequence[Tensor], converter: _Converter, shapes: Sequence[Sequence[int]]
) -> ov.Model:
    """Convert a trace by OpenVINO's frontend, for inputs of ``shapes`` if there are any."""
    frontend = FrontEndManager().load_by_framework('pytorch')
    for extension in converter.extensions():
        frontend.add_extension(extension)
    decoder = TorchScriptPythonDecoder(traced, example_input=tuple(example))
    try:
        loaded = frontend.load(decoder)
        for place, shape in zip(loaded.get_inputs(), shapes):
            loaded.set_partial_shape(place, ov.PartialShape(shape))
        return frontend.convert(loaded)
    except Exception as error:  # the frontend raises its own exceptions
        raise (converter.mismatch or conversion_error(error)) from error


def trace(
    model: nn.Module, example: Sequence[Tensor], *, dynamic_batch: bool = False
) -> tuple[ov.Model, list[BinaryCall]]:
    """Trace ``model`` on ``example`` and convert the trace.

    Args:
        model: Takes the tensors of ``example``, returns a tensor or a tuple of them.
        example: Real inputs. The trace must also be valid for all later inputs.
        dynamic_batch: Whether the first axis of the inputs can have any size. Default False.

    Returns:
        The graph, with shapes as general as the trace allows, and its binary calls.

    Raises:
        ExportError: If a layer's weights should be signs and are not, if OpenVINO cannot
            convert the trace, or if the trace runs other binary operators than the model. Also
            if torch cannot trace the model, such as one with outputs that are no tensors.
    """
    recorded = record(model, example)
    converter = _Converter(recorded)
    with warnings.catch_warnings(), inference(model):
        # torch warns of branches on shapes and settings, which are fixed in this trace
        warnings.simplefilter('ignore')
        try:
            traced = torch.jit.trace(model, tuple(example), check_trace=False, strict=False)
        except RuntimeError as error:  # such as outputs that are no tensors
            text = f'torch cannot trace the model: {sentence(error)}'
            raise ExportError(text[:400]) from error
        try:
            graph = _convert(traced, example, converter, ())
        except ExportError:
            if converter.mismatch is not None:
                raise
            # the window of a pooling must be a constant, and it can be the size of a map
            converter = _Converter(recorded)
            shapes = [[-1 if dynamic_batch else len(x), *x.shape[1:]] for x in example]
            graph = _convert(traced, example, converter, shapes)
    converter.check_complete()
    return graph, converter.converted
