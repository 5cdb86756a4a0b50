"""Signs and binary weights as quantizers of QONNX.

QONNX is ONNX with nodes for quantizers. Its arithmetic is that of the package qonnx::

    BipolarQuant(x, a) = a if x >= 0, else -a
    Quant(x, a, 0, k)  = a round(clamp(x / a, low, high)), levels of k bits

``BipolarQuant`` maps 0 to 1, and a sign of mmesbnn maps 0 to -1. A sign therefore becomes
``BipolarQuant(x - t, 1)`` with ``t = 2^-126``, the smallest normal number: it is 1 where
``x >= t``. This is the sign of every number but the positive subnormal ones, below ``t``,
which count as 0. A smaller ``t`` would itself be subnormal. Arithmetic that replaces
subnormal numbers by 0, as FPGAs have it, would lose it, and with it the sign of 0.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..binary.elastic import ElasticBinarizer
from ..binary.entries import SIGNS
from ..binary.forms import InputForm, WeightForm, input_form
from ..binary.layers import BinaryLayer, RSign, binary_layers
from ..binary.levels import DoReFa, Heaviside
from ..binary.signs import Sign
from ..checkpoints.bits import scales_of
from .runtime.manifest import ExportError

#: Domain of QONNX's nodes.
DOMAIN = 'qonnx.custom_op.general'


def _constant(g: Any, value: float) -> Any:
    return g.op('Constant', value_t=torch.tensor(value))


class _BipolarQuant(torch.autograd.Function):
    """Node ``BipolarQuant`` with scale 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)

    @staticmethod
    def symbolic(g: Any, x: Any) -> Any:
        return g.op(f'{DOMAIN}::BipolarQuant', x, _constant(g, 1.0)).setType(x.type())


class _Quant(torch.autograd.Function):
    """Node ``Quant`` of the levels 0 and 1 (1 bit), or -1, 0 and 1 (2 bits), times a scale.

    It rounds to the nearest level, an exact half to the even one; or, with ``up``, away from 0.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, bits: int, up: bool) -> Tensor:
        levels = (x / scale).clamp(1 - bits, 1)
        return scale * (levels.abs().ceil() * levels.sign() if up else levels.round())

    @staticmethod
    def symbolic(g: Any, x: Any, scale: Any, bits: int, up: bool) -> Any:
        return g.op(
            f'{DOMAIN}::Quant',
            x,
            scale,
            _constant(g, 0.0),
            _constant(g, float(bits)),
            signed_i=bits - 1,
            narrow_i=bits - 1,
            rounding_mode_s='UP' if up else 'ROUND',
        ).setType(x.type())


class BipolarSign(nn.Module):
    """Sign with the values -1 and 1."""

    def forward(self, x: Tensor) -> Tensor:
        """Compute the signs of ``x``, a tensor of any shape."""
        return _BipolarQuant.apply(x + -torch.finfo(x.dtype).tiny)


class LevelSign(nn.Module):
    """Activation with the levels 0 and 1 (1 bit), or -1, 0 and 1 (2 bits).

    Args:
        bits: 1 or 2.
        up: Whether to round away from 0. If not, a half is rounded to the even level.
    """

    def __init__(self, bits: int, up: bool) -> None:
        super().__init__()
        self.bits, self.up = bits, up

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        """Quantize ``x``, a tensor of any shape, to levels times ``scale``. Default 1."""
        scale = torch.ones((), dtype=x.dtype) if scale is None else scale
        return _Quant.apply(x, scale, self.bits, self.up)


class CheckedSign(nn.Module):
    """Sign of another package, followed by a ``BipolarQuant`` that changes nothing.

    Args:
        sign: The sign.
        name: Its name in the network, for messages.
    """

    def __init__(self, sign: nn.Module, name: str) -> None:
        super().__init__()
        self.sign, self.name = sign, name

    def forward(self, x: Tensor) -> Tensor:
        """Compute the signs of ``x``.

        Raises:
            ExportError: If they are not -1 and 1.
        """
        y = self.sign(x)
        signs = _BipolarQuant.apply(y)
        if not torch.equal(y, signs):
            raise ExportError(
                f'{self.name}: its outputs must be -1 and 1 for BipolarQuant, and are not'
            )
        return signs


class BipolarWeight(nn.Module):
    """Weight binarizer for weights that are -1 and 1 already."""

    form = WeightForm(scaled=False)

    def forward(self, weight: Tensor) -> Tensor:
        """Return ``weight``."""
        return _BipolarQuant.apply(weight)


def _quantizer(sign: nn.Module, name: str) -> nn.Module:
    """Return the module that computes ``sign``, or activations of other levels, by a quantizer.

    Raises:
        ExportError: If no quantizer computes exactly the same values.
    """
    own = type(sign) in SIGNS.own.values()
    if own and isinstance(sign, Sign):
        return LevelSign(bits=2, up=True) if sign.zero == 0 else BipolarSign()
    if own and isinstance(sign, Heaviside):
        return LevelSign(bits=1, up=True)
    if isinstance(sign, ElasticBinarizer) or (own and isinstance(sign, DoReFa) and sign.bits == 1):
        return LevelSign(bits=1, up=False)
    if own:
        raise ExportError(
            f'{name}: its outputs are {input_form(sign)}, and a Quant node would divide by a '
            'step that is rounded, so that some inputs would get another level'
        )
    if not input_form(sign).is_sign:
        raise ExportError(
            f'{name}: its outputs are {input_form(sign)}, and only the signs of mmesbnn.binary '
            'can have other values than -1 and 1'
        )
    return CheckedSign(sign, name)


def _is_sign(parent: nn.Module, name: str, child: nn.Module | None) -> bool:
    if isinstance(getattr(child, 'form', None), InputForm) or isinstance(child, ElasticBinarizer):
        return True
    of_layer = name == 'sign' and isinstance(parent, (BinaryLayer, RSign))
    return of_layer and not isinstance(child, nn.Identity)


class OutputScale(nn.Module):
    """Scales of a weight's output channels, and the bias that follows them.

    Args:
        scale: Scale per channel.
        bias: Bias per channel, or None.
        shape: Shape that broadcasts with the output.
    """

    scale: Tensor

    def __init__(self, scale: Tensor, bias: Tensor | None, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer('scale', scale.view(shape))
        self.bias = None if bias is None else nn.Parameter(bias.view(shape), requires_grad=False)

    def forward(self, y: Tensor) -> Tensor:
        """Multiply the output ``y`` of a layer with the signs of its weight."""
        y = y * self.scale
        return y if self.bias is None else y + self.bias


def _scale_output(layer: Any, scale: Tensor) -> None:
    """Let a layer multiply its output by a scale per channel, before its bias."""
    shape = (-1,) if isinstance(layer, nn.Linear) else (1, -1, 1, 1)
    output = OutputScale(scale, layer.bias, shape)
    layer.bias, layer.output = None, output
    layer.register_forward_hook(lambda _layer, _args, y: output(y))


def use_quantizers(model: nn.Module) -> None:
    """Let a network with constant weights compute signs and binary weights by QONNX's nodes.

    Raises:
        ExportError: If no node computes exactly the values of a sign.
    """
    for layer in binary_layers(model, every_name=True).values():
        if layer.has_real_weights or isinstance(layer.weight_binarizer, BipolarWeight):
            continue
        scales = scales_of(layer.weight)
        layer.weight.copy_(torch.where(layer.weight > 0, 1.0, -1.0))
        layer.weight_binarizer = BipolarWeight()
        if scales is not None:
            _scale_output(layer, scales)
    for path, parent in list(model.named_modules()):
        for name, child in parent._modules.items():
            if _is_sign(parent, name, child):
                setattr(parent, name, _quantizer(child, f'{path}.{name}'.lstrip('.')))
