"""Training step of a sign and a binary convolution or linear layer on the native kernels.

Signs are not made, nor most effective weights: the kernels compare inputs with their thresholds and
latent weights with 0. The step stores its input, and bits.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from ..native import Packed, PackedWeights, sign_gradient
from ..native.kernels import MOST_TERMS
from .expansion import is_channels_last
from .latent_weights import Binarization, binarization_of, is_binary
from .native_mode import (
    POINTWISE,
    array_of,
    bits_to_save,
    convolve_packed,
    is_native,
    map_of_rows,
    pack_effective,
    pack_shifted,
    packed_gradients,
    rows_of_map,
    saved_bits,
    sum_packed,
)
from .native_training import is_plain, layout_of, trains_natively
from .once_differentiable import once_differentiable
from .recompute import compute_once, is_keeping
from .sign_sums import Convolved, SignSums, scaled, stand_in
from .signs import HardTanhSign, QuadraticSign
from .tracing import is_seen


class Surrogate(NamedTuple):
    """Function that stands for the derivative of a sign, as the kernels name it."""

    name: str
    clip: float = 1.0


def surrogate_of(sign: nn.Module) -> Surrogate | None:
    """Return the surrogate of a sign whose gradient the kernels compute, else None."""
    if type(sign) not in (HardTanhSign, QuadraticSign) or not is_plain(sign) or sign.zero != -1:
        return None
    return Surrogate('window', sign.clip) if type(sign) is HardTanhSign else Surrogate('triangle')


class _Step(NamedTuple):
    """Operands and result of a convolution.

    Attributes:
        signs: Packed signs of the input.
        kernels: Packed effective weight.
        limits: Numbers that latent weights were compared with, one for each kernel; None if the
            weight is effective.
        sums: Sums of products of signs, of 16 bits, without the scales of the kernels; None if
            the result is written.
        y: Result; None if there are sums.
    """

    signs: Packed
    kernels: PackedWeights
    limits: Tensor | None
    sums: Tensor | None
    y: Tensor | None

    @property
    def scales(self) -> Tensor:
        """Scale of each kernel."""
        return torch.from_numpy(self.kernels.scales)

    def result(self) -> Tensor:
        """Return the result, computed from the sums if there are some."""
        return scaled(cast(Tensor, self.sums), self.scales) if self.y is None else self.y


@torch.no_grad()
def _convolve(
    x: Tensor,
    shift: Tensor,
    weight: Tensor,
    binarization: Binarization,
    settings: tuple[Any, ...],
    as_sums: bool,
    with_means: bool,
) -> _Step | None:
    stride, padding, dilation, groups, pad_value = settings
    limits = binarization.limits(weight) if binarization.latent else None
    if limits is None:
        kernels = pack_effective(weight, groups)
    else:
        kernels = binarization.pack(weight, groups, limits)
    signs = None if kernels is None else pack_shifted(x, shift, groups, with_means)
    if kernels is None or signs is None:
        return None
    window, last = (stride, padding, dilation, pad_value), is_channels_last(x)
    if as_sums:
        sums = sum_packed(signs, kernels, *window, channels_last=last)
        return _Step(signs, kernels, limits, sums, None)
    y = convolve_packed(signs, kernels, *window, channels_last=last)
    return _Step(signs, kernels, limits, None, y)


class _SignedConv(torch.autograd.Function):
    """Step ``conv2d(sign(x + shift), weight)`` whose operands are packed and result is known.

    Rows ``(..., C)`` are made a map here, not by operators of torch before: their gradient would
    be a view, and to a view autograd does not add another gradient in place.

    With ``passes`` the second result is ``x``, for its other readers. Their gradient is added to
    that of the sign in the pass that makes it; autograd would need another pass over both maps.
    So is that of the third result, the means of ``x`` over pixels, if the step has them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        shift: Tensor,
        weight: Tensor,
        step: _Step,
        settings: tuple[Any, ...],
        surrogate: Surrogate,
        binarization: Binarization,
        rows: bool,
        for_norm: bool,
        passes: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        ctx.settings, ctx.surrogate, ctx.binarization = settings, surrogate, binarization
        ctx.rows = rows
        ctx.set_materialize_grads(False)
        ctx.kernel_size = step.kernels.kernel_size
        bits = bits_to_save(step.signs, step.kernels)
        ctx.save_for_backward(x, shift, weight, step.limits, *bits)
        y = stand_in(cast(Tensor, step.sums).shape) if for_norm else step.result()
        y = rows_of_map(y, x.shape[:-1]) if rows else y
        means = step.signs.means
        # torch lets these be changed in place, unlike views
        return (
            y.detach(),
            x.detach() if passes else None,
            None if means is None else torch.from_numpy(means.copy()),
        )

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad: Tensor | None, of_passed: Tensor | None, of_means: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        x, shift, weight, limits, *bits = ctx.saved_tensors
        if grad is None:  # the result is not used
            return _of_readers(x, of_passed, of_means), *[None] * 9
        shape = x.shape
        if ctx.rows:
            x, grad = map_of_rows(x), map_of_rows(grad)
        packed = saved_bits(bits, x.shape[1], ctx.kernel_size)
        wanted = any(ctx.needs_input_grad[:2]), ctx.needs_input_grad[2]
        grad = grad.contiguous(memory_format=layout_of(x))
        of_x, of_weight = packed_gradients(grad, *packed, ctx.settings, wanted)
        of_shift = None
        if of_x is not None:
            of_x, of_shift = _through(ctx.surrogate, of_x, x, shift, of_passed, of_means)
            of_x = rows_of_map(of_x, shape[:-1]).detach() if ctx.rows else of_x
        if of_weight is not None:
            of_weight = ctx.binarization.gradient(of_weight, weight, limits)
        return of_x, of_shift, of_weight, *[None] * 7


def _of_readers(x: Tensor, of_passed: Tensor | None, of_means: Tensor | None) -> Tensor | None:
    """Return the gradient that ``x`` gets from its other readers, and from that of its means."""
    if of_means is None:
        return of_passed
    spread = (of_means / x[0, 0].numel())[..., None, None]
    return spread.expand_as(x) if of_passed is None else of_passed + spread


def _through(
    surrogate: Surrogate,
    grad: Tensor,
    x: Tensor,
    shift: Tensor,
    more: Tensor | None,
    of_means: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of input and shift of a sign. The first may overwrite ``grad``.

    It includes ``more``, and the gradient of the input's means.
    """
    layout = layout_of(x)
    adds = more is not None and layout == torch.contiguous_format
    found = sign_gradient(
        # of one pixel or one channel both layouts are the same, so ``grad`` may have the other
        grad.contiguous(memory_format=layout).numpy(),
        x.detach().numpy(),
        array_of(shift.contiguous()),
        surrogate=surrogate.name,
        clip=surrogate.clip,
        more=cast(Tensor, more).detach().contiguous().numpy() if adds else None,
        of_means=None if of_means is None else array_of(of_means.contiguous()),
        threads=torch.get_num_threads(),
    )
    of_x, of_shift = map(torch.from_numpy, found)
    return of_x if adds or more is None else of_x.add_(more), of_shift


def native_signed_conv(
    x: Tensor, shift: Tensor | None, sign: nn.Module, layer: Any, settings: tuple[Any, ...]
) -> Tensor | None:
    """Compute ``conv2d(sign(x + shift), w)`` with the weight of ``layer``.

    A NaN has no sign, so a map with one is left to torch.

    Args:
        x: Map ``(N, C, H, W)``.
        shift: Shift of each channel, ``(C,)``. None: 0.
        sign: Sign.
        layer: Binary layer. Its own sign and bias are not applied.
        settings: Arguments of ``mmesbnn::binary_conv2d`` after the operands.

    Returns:
        Result; None where torch's operators must run.
    """
    found = _signed_conv(x, shift, sign, layer, settings, rows=False, for_norm=False)
    return None if found is None else cast(Tensor, found[0])


def conv_for_norm(
    x: Tensor, shift: Tensor | None, sign: nn.Module, layer: Any, settings: tuple[Any, ...]
) -> Convolved | None:
    """Compute :func:`native_signed_conv`; where sums fit into 16 bits, as sums."""
    found = _signed_conv(x, shift, sign, layer, settings, rows=False, for_norm=True)
    return None if found is None else found[0]


def passing_conv_for_norm(
    x: Tensor,
    shift: Tensor,
    sign: nn.Module,
    layer: Any,
    settings: tuple[Any, ...],
    *,
    with_means: bool,
) -> tuple[Convolved, Tensor, Tensor | None] | None:
    """Compute :func:`conv_for_norm`, and return ``x`` for its other readers.

    With ``with_means`` the third result are the means of ``x`` over pixels, ``(N, C)``, unless
    it lies channels last in memory.
    """
    forms = dict(rows=False, for_norm=True, passes=True, with_means=with_means)
    return _signed_conv(x, shift, sign, layer, settings, **forms)


def _signed_conv(
    x: Tensor,
    shift: Tensor | None,
    sign: nn.Module,
    layer: Any,
    settings: tuple[Any, ...],
    *,
    rows: bool,
    for_norm: bool,
    passes: bool = False,
    with_means: bool = False,
) -> tuple[Convolved, Tensor, Tensor | None] | None:
    if not is_native() or is_seen(x):  # before no_grad, which an exported graph would record
        return None
    with torch.no_grad():
        maps = map_of_rows(x) if rows else x
    if not trains_natively(maps) or (shift is not None and shift.dtype != torch.float32):
        return None
    surrogate = surrogate_of(sign)
    if surrogate is None or not is_binary(layer.weight_binarizer):
        return None
    shift = x.new_zeros(maps.shape[1]) if shift is None else shift
    binarization = binarization_of(layer)
    # read once: a parametrization can draw numbers or keep a state
    weight = layer.weight if binarization.latent else layer.effective_weight()
    if weight.dtype != torch.float32:
        return None
    if weight.dim() == 2:
        weight = weight[:, :, None, None]
    fits = weight[0].numel() <= MOST_TERMS
    as_sums = fits and (for_norm or is_keeping())
    with_means = with_means and not is_channels_last(maps)
    convolve = partial(_convolve, maps, shift, weight, binarization, settings, as_sums, with_means)
    # in 32 bits the result is not small
    step = compute_once(convolve) if fits else convolve()
    if step is None:
        return None
    for_norm = for_norm and fits
    options = settings, surrogate, binarization, rows, for_norm, passes
    y, passed, means = _SignedConv.apply(x, shift, weight, step, *options)
    x = passed if passes else x
    if not for_norm:
        return y, x, means
    sums = cast(Tensor, step.sums)
    sums = rows_of_map(sums, x.shape[:-1]) if rows else sums
    return SignSums(y, sums, step.scales), x, means


def settings_of(conv: Any) -> tuple[Any, ...]:
    """Return the arguments of ``mmesbnn::binary_conv2d`` for a binary convolution."""
    return conv.stride, conv.padding, conv.dilation, conv.groups, float(conv.pad_value)


def native_signed_linear(
    x: Tensor, shift: Tensor | None, sign: nn.Module, layer: Any, groups: int = 1
) -> Tensor | None:
    """Compute ``sign(x + shift) @ w.T`` with the weight of ``layer``, in groups of features.

    Args:
        x: ``(..., C)``.
        shift: Shift of each feature, ``(C,)``. None: 0.
        sign: Sign.
        layer: Binary linear layer. Its own sign and bias are not applied.
        groups: Number of groups. Default 1.

    Returns:
        ``(..., C_o)``; None where torch's operators must run.
    """
    y = _signed_linear(x, shift, sign, layer, groups, for_norm=False)
    return cast('Tensor | None', y)


def linear_for_norm(
    x: Tensor, shift: Tensor, sign: nn.Module, layer: Any, groups: int
) -> Convolved | None:
    """Compute :func:`native_signed_linear` of tokens; where sums fit into 16 bits, as sums."""
    return _signed_linear(x, shift, sign, layer, groups, for_norm=True)


def _signed_linear(
    x: Tensor, shift: Tensor | None, sign: nn.Module, layer: Any, groups: int, *, for_norm: bool
) -> Convolved | None:
    if not is_native() or is_seen(x) or x.dim() < 2 or x.numel() == 0:
        return None
    stride, padding, dilation, _, pad_value = POINTWISE
    settings = stride, padding, dilation, groups, pad_value
    found = _signed_conv(x, shift, sign, layer, settings, rows=True, for_norm=for_norm)
    return None if found is None else found[0]
