"""Our networks, computed as the research code computes them, to compare with.

:func:`published_style` copies a network and replaces its layers by ones with the same
parameters and the same results, but composed of torch's plain operations as the papers' code
does: a sign is ``(sign(x) - s(x)).detach() + s(x)`` with a surrogate ``s`` in torch's
operations, weights are binarized likewise in every forward, copies are repeated before the
norm, and BNext's gate takes the mean of a full mixed map.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmesbnn.binary import (
    BinaryConv2d,
    BinaryLinear,
    CentredSignWeight,
    HardTanhSign,
    QuadraticSign,
    RPReLU,
    ScaledSignWeight,
    TemperatureWeight,
    TiledBatchNorm2d,
    tile,
)
from mmesbnn.binary.prelus import ChannelPReLU
from mmesbnn.models.layers import RecoupledConv, SqueezeExcite
from mmesbnn.models.layers.pooling import AveragePool, MaxPool


def through(value: Tensor, surrogate: Tensor) -> Tensor:
    """The value, with the surrogate's gradient."""
    return (value - surrogate).detach() + surrogate


class HardTanh(nn.Module):
    """BNext's sign."""

    def __init__(self, layer: HardTanhSign) -> None:
        super().__init__()
        self.clip = layer.clip

    def forward(self, x: Tensor) -> Tensor:
        """Take signs."""
        clipped = x.clamp(-self.clip, self.clip)
        return through(torch.sign(clipped), clipped)


class Quadratic(nn.Module):
    """The sign of Bi-Real Net and ReActNet: one parabola on either side of 0."""

    def __init__(self, layer: QuadraticSign) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """Take signs."""
        left = ((x >= -1) & (x < 0)).to(x.dtype)
        right = ((x >= 0) & (x < 1)).to(x.dtype)
        outside = (x >= 1).to(x.dtype) - (x < -1).to(x.dtype)
        surrogate = left * (2 * x + x * x) + right * (2 * x - x * x) + outside
        return through(torch.sign(x), surrogate)


class Temperature(nn.Module):
    """BNext's weights."""

    def __init__(self, layer: TemperatureWeight) -> None:
        super().__init__()
        self.temperature, self.binary_below = float(layer.temperature), layer.binary_below

    def forward(self, weight: Tensor) -> Tensor:
        """Harden the weight."""
        if self.temperature < self.binary_below:
            return through(torch.sign(weight), weight)
        return through((weight / max(self.temperature, 1e-8)).clamp(-1, 1), weight)


class Scaled(nn.Module):
    """ReActNet's weights."""

    def __init__(self, layer: ScaledSignWeight) -> None:
        super().__init__()

    def forward(self, weight: Tensor) -> Tensor:
        """Scale the signs of the weight."""
        scale = weight.abs().mean(tuple(range(1, weight.dim())), keepdim=True).detach()
        return through(scale * torch.sign(weight), weight.clamp(-1, 1))


class Centred(nn.Module):
    """BinaryViT's weights."""

    def __init__(self, layer: CentredSignWeight) -> None:
        super().__init__()

    def forward(self, weight: Tensor) -> Tensor:
        """Scale the signs of the centred weight."""
        scale = weight.abs().mean(1, keepdim=True).detach()
        centred = weight - weight.mean(1, keepdim=True)
        return through(scale * torch.sign(centred), centred.clamp(-1, 1))


class Conv(nn.Module):
    """A binary convolution: the sign, the weight, and a plain convolution."""

    def __init__(self, layer: BinaryConv2d) -> None:
        super().__init__()
        self.weight, self.sign, self.binarizer = layer.weight, layer.sign, layer.weight_binarizer
        self.geometry = (layer.stride, layer.padding, layer.dilation, layer.groups)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        return F.conv2d(self.sign(x), self.binarizer(self.weight), None, *self.geometry)


class Linear(nn.Module):
    """A binary linear layer: the sign, the weight, and a plain product."""

    def __init__(self, layer: BinaryLinear) -> None:
        super().__init__()
        self.weight, self.sign, self.binarizer = layer.weight, layer.sign, layer.weight_binarizer

    def forward(self, x: Tensor) -> Tensor:
        """Multiply."""
        return F.linear(self.sign(x), self.binarizer(self.weight))


class Shifted(nn.Module):
    """A PReLU between two shifts."""

    def __init__(self, layer: RPReLU) -> None:
        super().__init__()
        self.before, self.after, self.slope = layer.shift_in, layer.shift_out, layer.slope

    def forward(self, x: Tensor) -> Tensor:
        """Activate."""
        x = self.before(x)
        if self.slope.dim() == 1:  # tokens: channels go to the axis that torch expects
            x = F.prelu(x.transpose(-1, -2), self.slope).transpose(-1, -2)
        else:
            x = F.prelu(x, self.slope.flatten())
        return self.after(x)


class Gate(nn.Module):
    """Squeeze-excite of a map."""

    def __init__(self, layer: SqueezeExcite) -> None:
        super().__init__()
        self.squeeze, self.excite, self.copies = layer.squeeze, layer.excite, layer.copies

    def forward(self, x: Tensor) -> Tensor:
        """Compute the gate."""
        x = tile(self.squeeze(F.adaptive_avg_pool2d(x, 1)), self.copies).relu()
        return tile(self.excite(x), self.copies).sigmoid()


class Recoupled(nn.Module):
    """BNext's module. All that has a replacement was replaced before."""

    def __init__(self, layer: RecoupledConv) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Compute the module's output."""
        layer = self.layer
        residual = layer.act_in(x)
        if layer.projection is not None:
            residual, pooled = layer.projection(residual), None
        else:
            residual, pooled = layer.pool(residual), layer.pool(x)
        y = layer.conv(layer.shift(x))
        y = layer.act(layer.norm1(tile(y, layer.copies)))
        source = residual if layer.mix_residual else pooled
        y = layer.se(layer.mix * source + (1 - layer.mix) * y) * y
        if layer.elementwise:
            y = y * residual
        return residual + layer.norm2(y)


def _plain_norm(norm: TiledBatchNorm2d) -> nn.BatchNorm2d:
    """A norm of the tiled map, which makes other blocks tile before it."""
    plain = nn.BatchNorm2d(norm.num_features, norm.eps, norm.momentum)
    plain.weight, plain.bias = norm.weight, norm.bias
    for name, buffer in norm.named_buffers():
        plain.register_buffer(name, buffer)
    return plain


def _plain_prelu(layer: ChannelPReLU) -> nn.PReLU:
    plain = nn.PReLU(layer.num_parameters)
    plain.weight = layer.weight
    return plain


def _plain_average(layer: AveragePool) -> nn.AvgPool2d:
    return nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)


def _plain_max(layer: MaxPool) -> nn.MaxPool2d:
    return nn.MaxPool2d(layer.kernel_size, layer.stride, layer.padding)


#: Inner layers first: the outer ones take them over.
REPLACEMENTS: dict[type[nn.Module], Callable[..., nn.Module]] = {
    HardTanhSign: HardTanh,
    QuadraticSign: Quadratic,
    TemperatureWeight: Temperature,
    ScaledSignWeight: Scaled,
    CentredSignWeight: Centred,
    RPReLU: Shifted,
    ChannelPReLU: _plain_prelu,
    TiledBatchNorm2d: _plain_norm,
    AveragePool: _plain_average,
    MaxPool: _plain_max,
    SqueezeExcite: Gate,
    BinaryConv2d: Conv,
    BinaryLinear: Linear,
    RecoupledConv: Recoupled,
}


def published_style(model: nn.Module) -> nn.Module:
    """Return a copy of ``model`` that computes as the published code does.

    Mode and parameters are those of ``model``.
    """
    model = copy.deepcopy(model)
    for kind, replacement in REPLACEMENTS.items():
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, kind):
                    setattr(parent, name, replacement(child).train(child.training))
    return model
