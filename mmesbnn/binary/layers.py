"""Binary convolution, binary linear layer, and the element-wise layers around them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.common_types import _size_2_t

from ..checks import checked
from .arguments import MODULE, checked_layer
from .forms import WeightForm, input_form, weight_form
from .functional import binary_conv2d, binary_linear
from .inputs import check_channels, check_maps, check_tokens
from .native_conv import native_signed_conv, native_signed_linear, settings_of
from .precision import KeepsSigns
from .prelus import prelu
from .signs import build_sign, compiles_for_speed
from .tracing import whole_layer
from .weight_values import NO_VALUES, check_weight
from .weights import RealWeight, build_weight_binarizer


def channel_shape(channels: int, channels_last: bool) -> tuple[int, ...]:
    """Return a shape that broadcasts over ``(N, C, H, W)``, or over ``(..., C)`` if last."""
    return (channels,) if channels_last else (1, channels, 1, 1)


class LearnableShift(nn.Module):
    """Layer ``y = x + b`` with one learnable ``b`` per channel, initially 0.

    In ``sign(x + b)`` the threshold of the sign is ``-b``.

    Args:
        channels: Number of channels.
        channels_last: Whether the channel is the last axis (tokens). If not, it is the
            second axis (maps). Default False.

    Shape:
        ``(N, C, H, W)``, or ``(..., C)`` with ``channels_last``; the same out.
    """

    @checked_layer()
    def __init__(self, channels: int, channels_last: bool = False) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channel_shape(channels, channels_last)))

    @whole_layer
    def forward(self, x: Tensor) -> Tensor:
        """Add the shift to ``x``."""
        check_channels(self, x, self.bias.numel(), last=self.bias.dim() == 1)
        return x + self.bias


class RSign(nn.Module):
    """Layer ``y = sign(x + b)``: a sign with a learnable threshold per channel.

    Args:
        channels: Number of channels.
        sign: Sign and surrogate gradient, see :func:`mmesbnn.binary.build_sign`.
            Default ``'quadratic'``.
        channels_last: Whether the channel is the last axis. Default False.

    Raises:
        ValueError: If ``sign`` is unknown.

    Shape:
        ``(N, C, H, W)``, or ``(..., C)`` with ``channels_last``; the same out.

    Source: Liu et al., "ReActNet" (2020), eq. 3. The threshold there is ``-b``.
    """

    @checked_layer()
    def __init__(self, channels: int, sign: Any = 'quadratic', channels_last: bool = False) -> None:
        super().__init__()
        self.shift = LearnableShift(channels, channels_last)
        self.sign = build_sign(sign)

    @whole_layer
    def forward(self, x: Tensor) -> Tensor:
        """Shift and binarize ``x``."""
        check_channels(self, x, self.shift.bias.numel(), last=self.shift.bias.dim() == 1)
        return self.sign(self.shift(x))


class RPReLU(nn.Module):
    """Layer ``y = prelu(x + b_0) + b_1`` with learnable parameters per channel.

    ``b_0`` and ``b_1`` start at 0, the slope of the PReLU starts at 0.25.

    Args:
        channels: Number of channels.
        channels_last: Whether the channel is the last axis. Default False.

    Shape:
        ``(N, C, H, W)``, or ``(..., C)`` with ``channels_last``; the same out.

    Source: Liu et al., "ReActNet" (2020), eq. 4. The shift there is ``-b_0``.
    """

    @checked_layer()
    def __init__(self, channels: int, channels_last: bool = False) -> None:
        super().__init__()
        self.shift_in = LearnableShift(channels, channels_last)
        self.slope = nn.Parameter(torch.full(channel_shape(channels, channels_last), 0.25))
        self.shift_out = LearnableShift(channels, channels_last)

    @whole_layer
    def forward(self, x: Tensor) -> Tensor:
        """Apply the shifted PReLU to ``x``."""
        check_channels(self, x, self.slope.numel(), last=self.slope.dim() == 1)
        return self.shift_out(prelu(self.shift_in(x), self.slope))


def _bounds(latent_clip: float | None) -> dict[str, tuple[float, float]]:
    """Return the bounds that ``ParameterBoundsHook`` applies to a latent weight."""
    if latent_clip is None:
        return {}
    return {'weight': (-latent_clip, latent_clip)}


class BinaryLayer(KeepsSigns):
    """Base of the layers that multiply with a binarized weight.

    Packing, exports, counting and hooks find these layers with :func:`binary_layers` and
    read their properties.

    Attributes:
        weight: Latent weight, ``(C_o, ...)``.
        weight_binarizer: Module that computes the effective weight from the latent one.
        parameter_bounds: Bounds that ``ParameterBoundsHook`` applies, by parameter name.
    """

    weight_binarizer: nn.Module
    parameter_bounds: dict[str, tuple[float, float]]

    def effective_weight(self) -> Tensor:
        """Return the weight of the multiplication, of the latent weight's shape."""
        return self.weight_binarizer(self.weight)

    @property
    def only_binarizes(self) -> bool:
        """True if the effective weight is what the binarizer makes of the latent one."""
        return type(self).effective_weight is BinaryLayer.effective_weight

    @property
    def weight_form(self) -> WeightForm:
        """Values of the effective weight, as the binarizer says them."""
        return weight_form(self.weight_binarizer)

    @property
    def has_real_weights(self) -> bool:
        """True if the layer is meant to multiply with its real latent weight."""
        return self.weight_form.is_real

    @property
    def known_scaled(self) -> bool | None:
        """True or False if the effective weight has scales or none; None if its values show it.

        Only compiled code asks. Elsewhere it is None, because torch 2.5 cannot trace a form.
        """
        if not compiles_for_speed() or not self.only_binarizes:
            return None
        return self.weight_form.scaled

    @property
    def has_scales(self) -> bool:
        """True if the effective weight has a scale per output channel."""
        scaled = self.weight_form.scaled
        if scaled is None:
            return not bool((self.effective_weight().detach().abs() == 1).all())
        return scaled

    @property
    def temperature(self) -> float | None:
        """Temperature of the weight binarizer, None if it has none."""
        temperature = getattr(self.weight_binarizer, 'temperature', None)
        return float(temperature.flatten()[0]) if isinstance(temperature, Tensor) else None

    @property
    def binarizer_name(self) -> str:
        """Weight binarizer, as messages name it."""
        kind = type(self.weight_binarizer)
        return '"real"' if kind is RealWeight else kind.__name__

    def why_not_binary(self) -> str | None:
        """Return a sentence that says why the effective weight is not binary, else None.

        It is binary if every output channel holds only ``-a`` and ``+a``. Each channel
        can have another ``a``. A weight binarizer with a method ``why_not_binary()`` gives
        reasons of its own.
        """
        if self.has_real_weights:
            return f'its weights are real (weight_binarizer={self.binarizer_name})'
        if self.weight.is_meta:
            return NO_VALUES
        if self.weight.dtype.itemsize == 1:
            kind = str(self.weight.dtype).removeprefix('torch.')
            return f'its weights are {kind}, with which torch cannot compute'
        if not torch.isfinite(self.weight).all():
            return 'its weights hold NaN or infinity'
        own_reason = getattr(self.weight_binarizer, 'why_not_binary', None)
        reason = own_reason() if callable(own_reason) else None
        return reason or check_weight(self.effective_weight())


@checked(model=MODULE)
def binary_layers(model: nn.Module, every_name: bool = False) -> dict[str, BinaryLayer]:
    """Return the layers of ``model`` that binarize their weight, by name.

    Args:
        model: Any module.
        every_name: Whether a layer that the model holds under several names is returned
            under each of them. Default False.
    """
    return {
        name: layer
        for name, layer in model.named_modules(remove_duplicate=not every_name)
        if isinstance(layer, BinaryLayer)
    }


class BinaryConv2d(BinaryLayer, nn.Conv2d):
    """Convolution of binarized inputs with binarized weights.

    ``y = conv2d(sign(x), binarize(w)) + bias``. The state dict has the keys of
    ``nn.Conv2d``, plus the binarizer's temperature if it has one.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Size of the kernel in pixels.
        stride: Stride in pixels. Default 1.
        padding: Zeros (or ``pad_value``) added on each side, in pixels. Default 0.
        dilation: Distance of the kernel's taps in pixels. Default 1.
        groups: Number of groups. Default 1.
        bias: Whether to add a real bias. Default False.
        sign: Sign that binarizes the input, see :func:`mmesbnn.binary.build_sign`. With
            None the input is used unchanged, for callers that have binarized it.
            Default ``'quadratic'``.
        weight_binarizer: Binarizer of the weight, see
            :func:`mmesbnn.binary.build_weight_binarizer`. Default ``'scaled_sign'``.
        pad_value: Value of padded pixels, after the sign: -1, 0 or 1. Default 0.
        latent_clip: Bound of the latent weight's magnitude, which ``ParameterBoundsHook``
            applies. None is no bound. Default None.

    Raises:
        ValueError: If ``padding``, ``pad_value``, ``latent_clip``, ``sign`` or
            ``weight_binarizer`` is not one of the allowed values.

    Shape:
        ``(N, C_i, H, W)`` to ``(N, C_o, H', W')`` as ``nn.Conv2d``.
    """

    @checked_layer()
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: _size_2_t,
        stride: _size_2_t = 1,
        padding: _size_2_t = 0,
        dilation: _size_2_t = 1,
        groups: int = 1,
        bias: bool = False,
        *,
        sign: Any = 'quadratic',
        weight_binarizer: Any = 'scaled_sign',
        pad_value: int = 0,
        latent_clip: float | None = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias
        )
        self.sign = nn.Identity() if sign is None else build_sign(sign)
        self.weight_binarizer = build_weight_binarizer(weight_binarizer, len(self.weight))
        if pad_value < input_form(self.sign).low:
            raise ValueError(
                f'pad_value={pad_value} must be 0 or 1, because the sign gives '
                f'{input_form(self.sign)}'
            )
        self.pad_value = pad_value
        self.parameter_bounds = _bounds(latent_clip)

    @whole_layer
    def forward(self, input: Tensor) -> Tensor:
        """Convolve ``input``, ``(N, C_i, H, W)``."""
        check_maps(self, input, self.in_channels)
        y = native_signed_conv(input, None, self.sign, self, settings_of(self))
        if y is None:
            y = binary_conv2d(
                self.sign(input),
                self.effective_weight(),
                self.stride,
                self.padding,  # type: ignore[arg-type]  # never a string here
                self.dilation,
                self.groups,
                self.pad_value,
                scaled=self.known_scaled,
            )
        return y if self.bias is None else y + self.bias.view(1, -1, 1, 1)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Refuse weights of another module, such as latent ones or those times a norm's gains."""
        raise TypeError(
            f"{type(self).__name__} cannot multiply with a given real weight, as mmengine's "
            'efficient_conv_bn_eval asks: only the signs of its weight count: leave the modules '
            'with binary layers out of efficient_conv_bn_eval'
        )


class BinaryLinear(BinaryLayer, nn.Linear):
    """Linear layer with binarized inputs and binarized weights.

    ``y = sign(x) binarize(W)^T + bias``.

    Args:
        in_features: Features of the input.
        out_features: Features of the output.
        bias: Whether to add a real bias. Default False.
        sign: As :class:`BinaryConv2d`'s. Default ``'quadratic'``.
        weight_binarizer: As :class:`BinaryConv2d`'s. Default ``'scaled_sign'``.
        latent_clip: As :class:`BinaryConv2d`'s. Default None.

    Raises:
        ValueError: If ``latent_clip``, ``sign`` or ``weight_binarizer`` is not one of
            the allowed values.

    Shape:
        ``(..., C_i)`` to ``(..., C_o)``.
    """

    @checked_layer()
    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        *,
        sign: Any = 'quadratic',
        weight_binarizer: Any = 'scaled_sign',
        latent_clip: float | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias)
        self.sign = nn.Identity() if sign is None else build_sign(sign)
        self.weight_binarizer = build_weight_binarizer(weight_binarizer, len(self.weight))
        self.parameter_bounds = _bounds(latent_clip)

    @whole_layer
    def forward(self, input: Tensor) -> Tensor:
        """Multiply ``input``, ``(..., C_i)``."""
        check_tokens(self, input, self.in_features)
        y = native_signed_linear(input, None, self.sign, self)
        if y is None:
            y = binary_linear(self.sign(input), self.effective_weight(), self.known_scaled)
        return y if self.bias is None else y + self.bias
