"""Operations, sizes and representation capacity of a network, layer by layer.

Operations are counted at the operators, so the count needs no knowledge of the model:

- a binary operator (``mmesbnn::binary_conv2d``, ``mmesbnn::binary_linear``,
  ``mmesbnn::binary_matmul``) has *BOPs*, one per product of two signs. A product of
  activations with ``k`` bits and weights with ``b`` bits has ``k b`` BOPs, because kernels for
  bits multiply every pair of bits. Signs and weight binarizers say their bits, see
  :mod:`mmesbnn.binary.forms`;
- any other convolution, matrix product, recurrent layer or attention kernel has *MACs*, one
  per multiply-accumulate. They are full precision, or have ``b`` bits if the layer has an
  attribute ``mac_bits`` (:class:`mmesbnn.models.layers.minmax.MinMaxConv2d`).

``OPs = FP MACs + (b/64) b-bit MACs + BOPs/64``. An 8-bit MAC counts as 1/8, as published
for BNext's quantised variant. As in the papers, signs, norms, activations, pooling, biases
and element-wise products are not counted.

Source: Bi-Real Net (Liu et al., 2018) and later papers for ``BOPs/64``; BNext (Guo et al.,
2022) for 8-bit MACs; DoReFa-Net (Zhou et al., 2016) for ``k b`` BOPs.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.parameter import is_lazy
from torch.utils.weak import WeakTensorKeyDictionary

from ..binary.arguments import MODULE
from ..binary.forms import SIGNS_ONLY, InputForm
from ..binary.layers import BinaryLayer
from ..binary.modes import inference
from ..binary.operators import BINARY_CONV2D, BINARY_MATMUL
from ..binary.trees import tensors_in
from ..checks import check, checked, either, instance, natural, sequence
from .counters import ACTIVATION_PRODUCTS, CONVOLUTIONS, aten, check_visible, counter
from .operators import Forms, OperatorMode, is_binary, layer_name
from .report import PLAIN, LayerOps, OpsReport, representation_capacity

#: Modules whose weight multiplies. They have a row even if they did not run.
MULTIPLIERS = (nn.modules.conv._ConvNd, nn.Linear)

#: Operators that only reshape and are not views.
SAME_VALUES = {aten._unsafe_view.default, aten.clone.default}

#: Names of a latent weight: its own, and that of pruning of ``torch.nn.utils``.
LATENT = {'weight', 'weight_orig'}

#: Usual names of projection shortcuts. They affect the text of a reason, but no count.
SHORTCUTS = {'downsample', 'projection', 'shortcut', 'res_func'}


@dataclass
class _Tally:
    """Observations of one layer while the network runs.

    Attributes:
        output_shape: Shape of the first result.
        pointwise: True for a matrix product or a convolution with a 1x1 kernel.
        positions: Number of pixels or tokens per image at this layer.
        reads_input: True if the layer reads the network's input.
        of_activations: True if the layer multiplies two activations.
        macs: Number of multiplications that are not binary.
        products: Number of multiplications of binary operators.
        input_form: Form of the activations that they read.
        input_bits: Bits of a product's activations: those of one, or ``a b`` for two.
        taps: Number of binary products that an output entry sums.
    """

    output_shape: torch.Size
    pointwise: bool
    positions: int
    reads_input: bool
    of_activations: bool
    macs: int = 0
    products: int = 0
    input_form: InputForm = SIGNS_ONLY
    input_bits: int = 1
    taps: int | None = None


class _Census:
    """Collector of a tally per layer; :class:`OperatorMode` calls its :meth:`visit`.

    Args:
        inputs: Inputs of the network.
    """

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        self.tallies: dict[str, _Tally] = {}
        self.input_sizes = {x.numel() for x in inputs}
        self.batch = inputs[0].shape[0] if inputs[0].dim() else 1
        self.makers = WeakTensorKeyDictionary()
        #: Tensors made from the inputs (True), or from the result of a layer (False).
        self.of_inputs = WeakTensorKeyDictionary()
        for x in inputs:
            self.of_inputs[x] = True

    def visit(self, operator: Any, args: Any, out: Any, layer: str, forms: Forms) -> None:
        """Count ``operator`` for ``layer``; for a view, record the layer of its source."""
        binary, count = is_binary(operator), counter(operator)
        if count is None:
            check_visible(operator)
            self._follow_view(operator, args, out)
            self._follow_inputs(args, out)
            return
        result = out[0] if isinstance(out, tuple) else out
        self.makers[result] = layer
        if layer not in self.tallies:
            self.tallies[layer] = self._start(operator, args, result)
        tally = self.tallies[layer]
        if binary:
            tally.products += count(args, out)
            bits = forms[0].bits * (forms[1].bits if operator is BINARY_MATMUL else 1)
            tally.input_bits = max(tally.input_bits, bits)
            tally.input_form = max(tally.input_form, forms[0], key=lambda x: (x.bits, x.low))
            summed = args[0].shape[-1:] if operator is BINARY_MATMUL else None
            tally.taps = (summed or args[1].shape[1:]).numel()
        else:
            tally.macs += count(args, out)
        self.of_inputs[result] = False

    def _follow_inputs(self, args: Any, out: Any) -> None:
        """Record whether the results are made from the inputs, or from a layer's result."""
        known = [self.of_inputs[x] for x in tensors_in(args) if x in self.of_inputs]
        for x in tensors_in(out) if known else ():
            self.of_inputs[x] = all(known)

    def _reads_input(self, args: Any) -> bool:
        """Return True if an operand is an input, also after operators that keep its size."""
        return any(
            x.numel() in self.input_sizes and self.of_inputs.get(x, False) for x in tensors_in(args)
        )

    def _follow_view(self, operator: Any, args: Any, out: Any) -> None:
        if not (operator in SAME_VALUES or _is_view(operator)):
            return
        if isinstance(out, Tensor) and args[0] in self.makers:
            self.makers[out] = self.makers[args[0]]

    def _start(self, operator: Any, args: Any, result: Tensor) -> _Tally:
        is_conv = operator in (*CONVOLUTIONS, BINARY_CONV2D)
        if is_conv:
            positions = result.shape[2:].numel()
        else:
            positions = math.ceil(result.shape[:-1].numel() / max(self.batch, 1))
        return _Tally(
            output_shape=result.shape,
            pointwise=not is_conv or args[1].shape[2:].numel() == 1,
            positions=positions,
            reads_input=self._reads_input(args),
            of_activations=operator in ACTIVATION_PRODUCTS,
        )

    def outputs(self, result: Any) -> set[str]:
        """Return the layers whose result, or a view of it, is in the network's ``result``.

        If element-wise operators come after all of them, it is the layer that ran last.
        """
        found = {self.makers[x] for x in tensors_in(result) if x in self.makers}
        return found or set(list(self.tallies)[-1:])


def _is_view(operator: Any) -> bool:
    return getattr(operator, 'is_view', False)


def _binarizes(module: nn.Module) -> bool:
    """Return True if ``module`` has a weight that it binarizes."""
    return isinstance(module, BinaryLayer) and not module.has_real_weights


def _has_real_weights(module: nn.Module) -> bool:
    return isinstance(module, BinaryLayer) and module.has_real_weights


def _weight_bits(module: nn.Module) -> int:
    """Return the bits of a weight of a binary operator."""
    return module.weight_form.bits if isinstance(module, BinaryLayer) else 1


def _kind(module: nn.Module, tally: _Tally | None, bits: int) -> str:
    signed = tally.products > 0 if tally else _binarizes(module)
    if signed and not _has_real_weights(module):
        if tally and tally.macs:
            return 'mixed'
        of_bits = ((tally.input_bits if tally else 1), _weight_bits(module))
        return 'binary' if of_bits == (1, 1) else f'{of_bits[0]}x{of_bits[1]}-bit'
    return 'full precision' if bits >= 32 else f'{bits}-bit'


def _why(name: str, module: nn.Module, tally: _Tally | None, is_output: bool) -> str:
    """Return the reason why a layer is not binary, as far as the network shows it."""
    if tally is None:
        return 'its forward did not run'
    if _has_real_weights(module):
        return 'its weights are real'
    if tally.reads_input:
        return 'first layer, reads the input'
    if is_output:
        return 'last layer, gives the output'
    if tally.of_activations and not isinstance(module, nn.Linear):
        return 'product of two activations'
    if tally.positions == 1:
        return '1x1 map (gate, embedding)'
    if tally.pointwise and SHORTCUTS & set(name.split('.')):
        return 'projection shortcut'
    groups = getattr(module, 'groups', 1)
    if groups > 1:
        return 'depthwise' if groups == module.in_channels else f'grouped, {groups}'
    return f'{PLAIN}: {type(module).__name__}'


def _own_parameters(module: nn.Module, seen: set[int]) -> tuple[int, int, int]:
    """Count binary and other parameters of ``module`` itself, and the bytes of its scales.

    Parameters in ``seen`` are skipped and all others are added to it, so that shared
    parameters are counted once.
    """
    binary = other = scales = 0
    for name, parameter in module.named_parameters(recurse=False):
        if id(parameter) in seen:
            continue
        seen.add(id(parameter))
        if name not in LATENT or not isinstance(module, BinaryLayer) or module.has_real_weights:
            other += parameter.numel()
            continue
        binary = parameter.numel()
        if module.has_scales:
            scales = 4 * parameter.shape[0]
    return binary, other, scales


def _layer(
    name: str, module: nn.Module, tally: _Tally | None, is_output: bool, seen: set[int]
) -> LayerOps:
    """Return the entry of one layer."""
    bits = getattr(module, 'mac_bits', 32)
    kind = _kind(module, tally, bits)
    macs, products, taps = (tally.macs, tally.products, tally.taps) if tally else (0, 0, None)
    if _has_real_weights(module):
        macs, products, taps = macs + products, 0, None
    weight_bits = _weight_bits(module)
    bops = products * weight_bits * (tally.input_bits if tally else 1)
    binary, other, scales = _own_parameters(module, seen)
    return LayerOps(
        name=layer_name(name, module),
        type=type(module).__name__,
        kind=kind,
        why='' if bops and not macs else _why(name, module, tally, is_output),
        output_shape=list(tally.output_shape) if tally else None,
        fp_macs=macs if bits >= 32 else 0,
        int_macs=macs if bits < 32 else 0,
        bits=bits,
        bops=bops,
        fp_params=other,
        binary_params=binary,
        bytes_fp32=4 * (binary + other),
        bytes_packed=math.ceil(binary * weight_bits / 8) + scales + 4 * other,
        taps=taps,
        capacity=_capacity(module, tally, taps),
    )


def _capacity(module: nn.Module, tally: _Tally | None, taps: int | None) -> int | None:
    """Return the capacity of sums of ``taps`` products, None if weights are no signs."""
    if taps is None or tally is None or _weight_bits(module) > 1:
        return None
    return representation_capacity(taps, tally.input_form.bits, tally.input_form.low)


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    disabled, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = disabled


def _run(
    model: nn.Module, inputs: Sequence[Tensor], kwargs: dict[str, Any]
) -> tuple[_Census, set[str]]:
    """Run ``model``; return the tallies and the names of its output layers."""
    census = _Census(inputs)
    with inference(model), OperatorMode(model, census.visit):
        result = model(*inputs, **kwargs)
    return census, census.outputs(result)


def _run_fake(
    model: nn.Module, inputs: Sequence[Tensor], kwargs: dict[str, Any]
) -> tuple[_Census, set[str]]:
    """Run a copy of ``model`` on fake tensors, without arithmetic and memory."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        tensors = itertools.chain(model.parameters(), model.buffers())
        memo = {id(x): mode.from_tensor(x) for x in tensors}
        twin = copy.deepcopy(model, memo)
        fakes = [mode.from_tensor(x) for x in inputs]
        return _run(twin, fakes, kwargs)


def _as_input(model: nn.Module, given: Tensor | Sequence[int]) -> Tensor:
    """Return a tensor; for a shape zeros with the device and the dtype of ``model``'s weights."""
    if isinstance(given, Tensor):
        # a tensor of inference mode, with weights of it, would not reach the counted operators
        return given.clone() if given.is_inference() else given
    like = next(model.parameters(), torch.empty(()))
    return torch.zeros(1, *given, device=like.device, dtype=like.dtype)


def _buffer_bytes(model: nn.Module) -> int:
    seen: dict[int, int] = {}
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                seen[id(buffer)] = buffer.numel() * buffer.element_size()
    return sum(seen.values())


#: An input: a tensor, or its shape without the batch.
INPUT = either(instance(Tensor, 'a tensor'), sequence(natural))


@torch.inference_mode(False)  # in it convolutions do not become the operators that are counted
@checked(model=MODULE)
def count_ops(model: nn.Module, *inputs: Tensor | Sequence[int], **kwargs: Any) -> OpsReport:
    """Count operations, parameters and capacities of ``model``.

    The network runs in eval mode on fake tensors. These have shapes only, so there is no
    arithmetic and a large network takes about a second. If an operator needs values, such
    as non-maximum suppression, the network runs on real tensors. ``model`` does not change.
    A layer that runs several times is counted several times. Parameters that layers share
    are counted once.

    Args:
        model: Any module.
        *inputs: Inputs of the model: tensors, or shapes without the batch, such as ``(3,
            224, 224)``, for an input of zeros with batch 1. If a tensor has a larger
            batch, the count is for the whole batch.
        **kwargs: Passed to ``model``.

    Returns:
        Report, see :class:`OpsReport`.

    Raises:
        ValueError: If there is no input.
        NotImplementedError: If the network runs an mmesbnn operator that this module
            does not know, or a layer of ``torch.ao.nn.quantized``.
    """
    if not inputs:
        raise ValueError('count_ops needs an input, or its shape such as (3, 224, 224)')
    for x in inputs:
        check('inputs', x, INPUT)
    tensors = [_as_input(model, x) for x in inputs]
    if any(map(is_lazy, itertools.chain(model.parameters(), model.buffers()))):
        model = copy.deepcopy(model)  # because the run gives it its weights
    try:
        with _quiet('torch._subclasses.fake_tensor'):
            census, outputs = _run_fake(model, tensors, kwargs)
    except Exception:
        # a real error occurs again in the run with real values
        census, outputs = _run(model, tensors, kwargs)
    return _report(model, tensors, census, outputs)


def _report(
    model: nn.Module, inputs: Sequence[Tensor], census: _Census, outputs: set[str]
) -> OpsReport:
    modules = dict(model.named_modules())
    names = list(census.tallies)
    names += [
        name
        for name, module in modules.items()
        if isinstance(module, MULTIPLIERS) and name not in census.tallies
    ]
    seen: set[int] = set()
    layers = [
        _layer(name, modules[name], census.tallies.get(name), name in outputs, seen)
        for name in names
    ]
    others = {id(x): x.numel() for x in model.parameters() if id(x) not in seen}
    return OpsReport(
        layers, [list(x.shape) for x in inputs], sum(others.values()), _buffer_bytes(model)
    )
