"""Expanding and shrinking (ES): the arithmetic, and the layers built on it.

A binary convolution from ``C_i`` to ``C_o`` channels adds up few +-1 products, so an
output entry can take few values. ES with factor ``tau`` and ``g`` groups

- *expands*: features have ``C tau g`` channels instead of ``C``;
- *shrinks*: only ``C_o / tau`` kernels, of depth ``C_i tau``, in ``g`` groups;
- *tiles* the ``C_o / tau`` outputs ``tau^2 g`` times, back to ``C_o tau g``; each copy
  then gets a batch-norm affine, PReLU and threshold of its own.

Weights ``(C_o / tau) (C_i tau) = C_o C_i`` and multiplications are those of the
convolution replaced, while an entry sums ``tau`` times as many products.
``tau = groups = 1`` is that convolution, bit for bit.

Source: Shi et al., "Expanding-and-Shrinking Binary Neural Networks", arXiv 2503.23709,
figures (b) and (c).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_f
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.common_types import _size_2_t

from ..checks import check_positive
from .arguments import checked_layer
from .functional import binary_linear
from .inputs import check_maps, check_tokens
from .layers import BinaryConv2d, BinaryLinear
from .precision import KeepsFloat32
from .recompute import is_recomputing


@dataclass(frozen=True)
class Expansion:
    """The two ES parameters and what follows from them.

    Args:
        tau: Factor by which features widen and kernels become fewer, >= 1. Default 1.
        groups: Groups of the convolution; features widen by it too, >= 1. Default 1.

    Raises:
        ValueError: If one of them is not a positive integer.
    """

    tau: int = 1
    groups: int = 1

    def __post_init__(self) -> None:
        check_positive(tau=self.tau, groups=self.groups)

    @property
    def factor(self) -> int:
        """How many times wider features are: ``tau g``."""
        return self.tau * self.groups

    @property
    def copies(self) -> int:
        """How many times a shrunk output is tiled: ``tau^2 g``."""
        return self.tau * self.factor

    def width(self, channels: int) -> int:
        """Width of expanded features, ``C tau g``."""
        return channels * self.factor

    def kernels(self, channels: int, name: str = 'out_channels') -> int:
        """Number of kernels for ``channels`` outputs, ``C / tau``.

        Args:
            channels: Output channels of the convolution replaced.
            name: What to call them in the error message.

        Raises:
            ValueError: If ``tau`` or ``groups`` do not divide.
        """
        if channels < 1 or channels % self.tau:
            raise ValueError(f'tau={self.tau} does not divide {name}={channels}')
        kernels = channels // self.tau
        if kernels % self.groups:
            raise ValueError(
                f'groups={self.groups} does not divide {name} / tau = '
                f'{channels} / {self.tau} = {kernels}'
            )
        return kernels


def like_layout(y: Tensor, x: Tensor) -> Tensor:
    """``y``, channels last if ``x`` is: reshaping copies gives plain memory."""
    if x.dim() != 4 or x.is_contiguous():
        return y
    if not x.is_contiguous(memory_format=torch.channels_last):
        return y
    return y.contiguous(memory_format=torch.channels_last)


def tile(x: Tensor, copies: int, dim: int = 1) -> Tensor:
    """Concatenate ``copies`` copies of ``x`` along ``dim``: ``[x_1 .. x_n, x_1 ..]``.

    Args:
        x: Tensor of any shape.
        copies: How many copies; 1 returns ``x`` itself.
        dim: Axis to tile. Default 1, the channels of ``(N, C, H, W)``.
    """
    if copies == 1:
        return x
    repeats = [1] * x.dim()
    repeats[dim] = copies
    return like_layout(x.repeat(repeats), x)


def tiled_affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """``tile(x) * scale + shift`` without materialising the tiled ``x``.

    Args:
        x: Small map ``(N, C, H, W)``.
        scale: One factor per tiled channel, ``(k C,)``.
        shift: One offset per tiled channel, ``(k C,)``.

    Returns:
        Tensor ``(N, k C, H, W)`` of ``x``'s dtype.
    """
    per_copy = (-1, x.shape[1], 1, 1)
    y = torch.addcmul(shift.view(per_copy), x.unsqueeze(1), scale.view(per_copy))
    return like_layout(y.flatten(1, 2).to(x.dtype), x)


class TiledBatchNorm2d(KeepsFloat32, nn.BatchNorm2d):
    """Batch norm of a tiled map, computed from the small map that was tiled.

    ``y = batch_norm(tile(x, copies))``: all copies of a channel have the statistics
    of the small channel, so they are computed once; each copy has its own affine.
    The state dict is that of ``nn.BatchNorm2d(num_features)``, running statistics of
    every copy included, as the published files have it. In training all copies of
    the running statistics move alike. Affine and statistics stay float32 when the
    model becomes float16 or bfloat16, and the output has the input's dtype: the
    variance of a binary convolution's output can exceed float16's largest number.

    Args:
        num_features: Channels *after* tiling.
        copies: How many copies the map is tiled to. Default 1: ``nn.BatchNorm2d``.
        eps: Added to the variance. Default 1e-5.
        momentum: Weight of the new statistics in the running ones; None: they are the
            mean of all batches, as ``torch.optim.swa_utils.update_bn`` wants it.
            Default 0.1.
        sync: Whether to share statistics among the processes of the default
            ``torch.distributed`` group while training. Works with gloo on CPUs as
            well as with nccl. Default False.

    Raises:
        ValueError: If ``copies`` does not divide ``num_features``, or if the input has
            another number of channels.

    Shape:
        ``(N, num_features / copies, H, W)`` to ``(N, num_features, H, W)``.
    """

    momentum: float | None
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    @checked_layer()
    def __init__(
        self,
        num_features: int,
        copies: int = 1,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        sync: bool = False,
    ) -> None:
        if num_features % copies:
            raise ValueError(f'copies={copies} does not divide num_features={num_features}')
        super().__init__(num_features, eps, momentum)
        self.copies = copies
        self.sync = sync

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the small map ``x`` and tile it."""
        check_maps(self, x, self.num_features // self.copies)
        synced = self.sync and dist.is_available() and dist.is_initialized()
        if self.copies == 1 and not synced:
            return self._plain(x)
        if not self.training:
            scale = self.weight * torch.rsqrt(self.running_var + self.eps)
            return tiled_affine(x, scale, self.bias - self.running_mean * scale)
        normalised = self._normalise_synced(x) if synced else self._normalise(x)
        return tiled_affine(normalised, self.weight, self.bias)

    def _plain(self, x: Tensor) -> Tensor:
        if not (self.training and is_recomputing()):
            return super().forward(x)
        mean, var = self.running_mean.clone(), self.running_var.clone()
        # the clones are thrown away, so any momentum does
        return F.batch_norm(x, mean, var, self.weight, self.bias, True, 0.1, self.eps)

    def _normalise(self, x: Tensor) -> Tensor:
        # batch_norm with momentum 1 writes the batch's own statistics to its buffers
        mean = torch.zeros_like(self.running_mean[: x.shape[1]])
        var = torch.zeros_like(mean)
        y = F.batch_norm(x, mean, var, None, None, True, 1.0, self.eps)
        self._track(mean, var)
        return y

    def _normalise_synced(self, x: Tensor) -> Tensor:
        dims, ones = (0, 2, 3), (1, -1, 1, 1)
        wide = x.to(self.running_mean.dtype)
        count = wide.new_tensor([x.numel() / x.shape[1]])
        dist.all_reduce(count)
        mean = dist_f.all_reduce(wide.sum(dims)) / count
        centred = wide - mean.view(ones)
        square_sum = dist_f.all_reduce(centred.square().sum(dims))
        scale = torch.rsqrt(square_sum / count + self.eps)
        # a single value has no unbiased variance: leave 0 rather than NaN
        self._track(mean.detach(), square_sum.detach() / (count - 1).clamp(min=1))
        return (centred * scale.view(ones)).to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor) -> None:
        if is_recomputing():
            return
        self.num_batches_tracked.add_(1)
        share: float | Tensor | None = self.momentum
        if share is None:
            share = 1 / self.num_batches_tracked.to(self.running_mean.dtype)
        self.running_mean.lerp_(tile(mean, self.copies, 0), share)
        self.running_var.lerp_(tile(var, self.copies, 0), share)

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, copies={self.copies}, sync={self.sync}'


def normalize_tiled(x: Tensor, norm: nn.Module, copies: int) -> Tensor:
    """``norm(tile(x, copies))``, left to ``norm`` if it knows tiling.

    The general form is what a ``TiledBatchNorm2d`` needs after a tool turned it into
    torch's ``SyncBatchNorm``: same parameters, same statistics, full width.

    Args:
        x: Small map ``(N, C, H, W)``.
        norm: Norm over ``copies * C`` channels.
        copies: How many copies.
    """
    if isinstance(norm, TiledBatchNorm2d):
        return norm(x)
    return norm(tile(x, copies))


class ESConv2d(BinaryConv2d):
    """Expanding-and-shrinking binary convolution between expanded features.

    A :class:`BinaryConv2d` with ``C_i tau g`` inputs, ``C_o / tau`` outputs and ``g``
    groups, tiled ``tau^2 g`` times. Weight ``(C_o / tau, C_i tau, k, k)``.

    Args:
        in_channels: ``C_i`` of the convolution replaced; the input has
            ``C_i tau g`` channels.
        out_channels: ``C_o`` likewise.
        kernel_size: Size of the kernel in pixels.
        stride: Stride in pixels. Default 1.
        padding: Padding on each side in pixels. Default 0.
        dilation: Distance of the kernel's taps in pixels. Default 1.
        groups: ES groups ``g``. Default 1.
        bias: Whether to add a real bias before tiling. Default False.
        tau: ES factor. Default 1.
        tiled: Whether to tile. False returns the small map, for a
            :class:`TiledBatchNorm2d` to tile. Default True.
        **kwargs: ``sign``, ``weight_binarizer``, ``pad_value`` and ``latent_clip`` of
            :class:`BinaryConv2d`.

    Raises:
        ValueError: If ``tau`` does not divide ``out_channels`` or ``groups`` not
            ``out_channels / tau``.

    Shape:
        ``(N, C_i tau g, H, W)`` to ``(N, C_o tau g, H', W')``, or to
        ``(N, C_o / tau, H', W')`` if not ``tiled``.

    Source: ES-BNN, figure (b), with groups figure (c).
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
        tau: int = 1,
        tiled: bool = True,
        **kwargs: Any,
    ) -> None:
        expansion = Expansion(tau, groups)
        super().__init__(
            expansion.width(in_channels),
            expansion.kernels(out_channels),
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            **kwargs,
        )
        self.expansion = expansion
        self.tiled = tiled

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x``, ``(N, C_i tau g, H, W)``."""
        y = super().forward(x)
        return tile(y, self.expansion.copies) if self.tiled else y


class ESLinear(BinaryLinear):
    """Expanding-and-shrinking binary linear layer: :class:`ESConv2d` for tokens.

    Args:
        in_features: ``C_i`` of the layer replaced; the input has ``C_i tau g``.
        out_features: ``C_o`` likewise.
        bias: Whether to add a real bias before tiling. Default False.
        tau: ES factor. Default 1.
        groups: ES groups ``g``. Default 1.
        tiled: Whether to tile the output. Default True.
        **kwargs: ``sign``, ``weight_binarizer`` and ``latent_clip`` of
            :class:`BinaryLinear`.

    Raises:
        ValueError: If ``tau`` does not divide ``out_features`` or ``groups`` not
            ``out_features / tau``.

    Shape:
        ``(..., C_i tau g)`` to ``(..., C_o tau g)``, or to ``(..., C_o / tau)`` if not
        ``tiled``. Weight ``(C_o / tau, C_i tau)``.

    Source: ES-BNN, figures (b) and (c).
    """

    @checked_layer()
    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        *,
        tau: int = 1,
        groups: int = 1,
        tiled: bool = True,
        **kwargs: Any,
    ) -> None:
        expansion = Expansion(tau, groups)
        kernels = expansion.kernels(out_features, 'out_features')
        super().__init__(in_features * tau, kernels, bias, **kwargs)
        self.expansion = expansion
        self.tiled = tiled

    def forward(self, x: Tensor) -> Tensor:
        """Multiply ``x``, ``(..., C_i tau g)``."""
        groups = self.expansion.groups
        check_tokens(self, x, self.in_features * groups)
        inputs = self.sign(x).chunk(groups, dim=-1)
        weights = self.effective_weight().chunk(groups)
        parts = [binary_linear(*pair) for pair in zip(inputs, weights)]
        y = torch.cat(parts, dim=-1) if groups > 1 else parts[0]
        if self.bias is not None:
            y = y + self.bias
        return tile(y, self.expansion.copies, -1) if self.tiled else y


#: Wider than this a drop-in layer refuses to be: a network that passes its own
#: ``groups=32`` means a grouped convolution, not 32-fold expansion.
MAX_DROP_IN_FACTOR = 16


def spread_thresholds(channels: int, copies: int, spread: float) -> Tensor:
    """Initial shifts of ``copies`` copies, evenly from ``-spread`` to ``spread``.

    Copies with equal thresholds carry no information, so they start apart.

    Args:
        channels: Channels of one copy.
        copies: Number of copies; one copy has shift 0.
        spread: Largest magnitude, in units of the input.

    Returns:
        Tensor ``(copies * channels,)``, copy by copy.
    """
    steps = torch.linspace(-1, 1, copies) if copies > 1 else torch.zeros(1)
    return (spread * steps).repeat_interleave(channels)


def _check_drop_in(expansion: Expansion, in_channels: int) -> None:
    if expansion.factor > MAX_DROP_IN_FACTOR:
        raise ValueError(
            f'tau={expansion.tau}, groups={expansion.groups}: a drop-in layer widens '
            f'its {in_channels} inputs at most {MAX_DROP_IN_FACTOR} times; if the '
            'network asked for a grouped or depthwise convolution, ES cannot replace it'
        )


class _DropIn(nn.Module):
    """A layer whose weight has another shape and meaning than that of the replaced."""

    #: Where the binary layer is.
    inner: str

    def __getattr__(self, name: str) -> Any:
        if name == 'weight':
            raise AttributeError(
                f'{type(self).__name__} has no weight that others could multiply with: '
                f'its latent weight is {self.inner}.weight, for signs of shifted '
                'inputs. Keep a layer whose weight is read from outside: '
                'binarize(..., keep=NAME)'
            )
        return super().__getattr__(name)


class DropInESConv2d(_DropIn):
    """ES convolution from ``C_i`` to ``C_o`` channels, in the place of ``nn.Conv2d``.

    The input is tiled ``tau g`` times, every copy with thresholds of its own, which
    start apart; an :class:`ESConv2d` turns them into ``C_o / tau`` channels, tiled
    ``tau`` times to ``C_o``; copies of an output differ by the affine of the norm that
    follows, or by ``bias``. Binary multiplications are those of the convolution
    replaced. Dense convolutions become one with ``conv_cfg=dict(type='ESConv2d')``, see
    :func:`mmesbnn.models.layers.es_conv2d`::

        conv_cfg = dict(type='ESConv2d', tau=2, groups=1)

    Networks that build through mmcv's ``ConvModule`` pass a ``groups`` of their own;
    for those write ``es_groups``.

    Args:
        in_channels: ``C_i``.
        out_channels: ``C_o``.
        kernel_size: Size of the kernel in pixels.
        stride: Stride in pixels. Default 1.
        padding: Padding on each side in pixels. Default 0.
        dilation: Distance of the kernel's taps in pixels. Default 1.
        groups: ES groups ``g``. Default 1.
        bias: Whether to add a real bias to the ``C_o`` outputs. Default False.
        tau: ES factor. Default 1.
        es_groups: ES groups under another name; ``groups`` must then be 1.
        spread: Initial thresholds lie evenly in ``[-spread, spread]``. Default 0.5, for
            inputs of about unit variance.
        sign: As :class:`BinaryConv2d`'s. Default ``'quadratic'``.
        **kwargs: ``weight_binarizer``, ``pad_value`` and ``latent_clip`` of
            :class:`BinaryConv2d`.

    Raises:
        ValueError: If ``tau`` or ``groups`` do not divide, or widen more than 16 times;
            if ``groups`` and ``es_groups`` are both given.

    Shape:
        ``(N, C_i, H, W)`` to ``(N, C_o, H', W')``.
    """

    inner = 'conv'
    transposed = False
    output_padding = (0, 0)

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
        tau: int = 1,
        es_groups: int | None = None,
        spread: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        if es_groups is not None:
            if groups != 1:
                raise ValueError(
                    f'groups={groups}, es_groups={es_groups}: ES replaces dense convolutions only'
                )
            groups = es_groups
            if out_channels % tau == 0 and out_channels // tau % groups:
                raise ValueError(
                    f'es_groups={groups} does not divide out_channels / tau = '
                    f'{out_channels} / {tau}'
                )
        self.expansion = expansion = Expansion(tau, groups)
        _check_drop_in(expansion, in_channels)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.shift = nn.Parameter(spread_thresholds(in_channels, expansion.factor, spread))
        self.conv = ESConv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            tau=tau,
            tiled=False,
            **kwargs,
        )
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        for name in ('kernel_size', 'stride', 'padding', 'dilation', 'groups'):
            setattr(self, name, getattr(self.conv, name))

    def init_weights(self) -> None:
        """Keep the initialisation of construction (mmcv's would not fit)."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x``, ``(N, C_i, H, W)``."""
        check_maps(self, x, self.in_channels)
        shifted = x.unsqueeze(1) + self.shift.view(-1, x.shape[1], 1, 1)
        expanded = like_layout(shifted.flatten(1, 2), x)
        y = tile(self.conv(expanded), self.expansion.tau)
        return y if self.bias is None else y + self.bias.view(1, -1, 1, 1)


class DropInESLinear(_DropIn):
    """ES linear layer from ``C_i`` to ``C_o`` features, in the place of ``nn.Linear``.

    :class:`DropInESConv2d` for tokens. Registered as ``ESLinear``.

    Args:
        in_features: ``C_i``.
        out_features: ``C_o``.
        bias: Whether to add a real bias to the ``C_o`` outputs. Default True, as
            ``nn.Linear``.
        tau: ES factor. Default 1.
        groups: ES groups ``g``. Default 1.
        spread: Initial thresholds lie evenly in ``[-spread, spread]``. Default 0.5.
        **kwargs: ``sign``, ``weight_binarizer`` and ``latent_clip`` of
            :class:`BinaryLinear`.

    Raises:
        ValueError: If ``tau`` or ``groups`` do not divide, or widen more than 16 times.

    Shape:
        ``(..., C_i)`` to ``(..., C_o)``.
    """

    inner = 'linear'

    @checked_layer()
    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        tau: int = 1,
        groups: int = 1,
        spread: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.expansion = expansion = Expansion(tau, groups)
        _check_drop_in(expansion, in_features)
        self.in_features = in_features
        self.out_features = out_features
        self.shift = nn.Parameter(spread_thresholds(in_features, expansion.factor, spread))
        self.linear = ESLinear(
            in_features, out_features, tau=tau, groups=groups, tiled=False, **kwargs
        )
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Multiply ``x``, ``(..., C_i)``."""
        check_tokens(self, x, self.in_features)
        expanded = tile(x, self.expansion.factor, -1) + self.shift
        y = tile(self.linear(expanded), self.expansion.tau, -1)
        return y if self.bias is None else y + self.bias
