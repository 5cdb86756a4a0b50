"""What the units of binary networks do around a convolution, each as one step.

On the native kernels a training step makes few passes over memory. Everywhere else the layers run
one after another. Values and gradients are the same, but for the rounding of float32.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from .layers import BinaryConv2d, LearnableShift, RSign
from .native_conv import is_plain, native_signed_conv, trains_natively
from .native_norms import native_gated_norm, native_norm
from .position_means import position_mean
from .tiled_norm import normalize_tiled


def _native_conv(
    x: Tensor, shift: nn.Module | None, sign: nn.Module, conv: nn.Module
) -> Tensor | None:
    """Compute ``conv(sign(x + shift))`` in one step; return None if layers must run in turn."""
    if not trains_natively(x) or not isinstance(conv, BinaryConv2d) or not is_plain(conv):
        return None
    own = type(conv).forward is BinaryConv2d.forward and conv.bias is None
    if not own or x.shape[1] != conv.in_channels:
        return None
    if shift is None:
        return native_signed_conv(x, None, sign, conv)
    if type(shift) is not LearnableShift or not is_plain(shift) or shift.bias.dim() != 4:
        return None
    return native_signed_conv(x, shift.bias.flatten(), sign, conv)


def signed_convs(x: Tensor, sign: nn.Module, convs: Iterable[nn.Module]) -> list[Tensor]:
    """Compute ``conv(sign(x))`` for each of ``convs``, for an :class:`RSign` also in one step.

    Args:
        x: Map ``(N, C, H, W)``.
        sign: Sign.
        convs: Convolutions without signs of their own.
    """
    if type(sign) is RSign and is_plain(sign):
        found = [_native_conv(x, sign.shift, sign.sign, conv) for conv in convs]
    else:
        found = [_native_conv(x, None, sign, conv) for conv in convs]
    done = [y for y in found if y is not None]
    if len(done) == len(found):
        return done
    signs = sign(x)
    return [conv(signs) for conv in convs]


def shifted_conv(x: Tensor, shift: LearnableShift, conv: BinaryConv2d) -> Tensor:
    """Compute ``conv(shift(x))``, ``conv`` with its own sign.

    Args:
        x: Map ``(N, C, H, W)``.
        shift: Shift of its channels.
        conv: Convolution.
    """
    y = _native_conv(x, shift, conv.sign, conv)
    return conv(shift(x)) if y is None else y


def activated_norm(
    x: Tensor, norm: nn.Module, act: nn.Module, copies: int
) -> tuple[Tensor, Tensor]:
    """Compute ``y = act(norm(tile(x, copies)))``, and its mean over positions.

    Args:
        x: Small map ``(N, C, H, W)``.
        norm: Norm of ``copies C`` channels.
        act: PReLU of as many.
        copies: Number of copies.

    Returns:
        ``y``, ``(N, copies C, H, W)``, and its mean, ``(N, copies C, 1, 1)``.
    """
    found = native_norm(x, norm, copies=copies, act=act, with_means=True)
    if found is not None and found[1] is not None:
        return found[0], found[1]
    y = act(normalize_tiled(x, norm, copies))
    return y, position_mean(y)


def residual_norm(
    x: Tensor, norm: nn.Module, residual: Tensor, copies: int, act: nn.Sequential | None = None
) -> Tensor:
    """Compute ``act(norm(tile(x, copies)) + residual)``.

    Args:
        x: Small map ``(N, C, H, W)``.
        norm: Norm of ``copies C`` channels.
        residual: Map ``(N, copies C, H, W)``.
        copies: Number of copies.
        act: Shift, PReLU, and shift. Default None: nothing.
    """
    shift_in, slope, shift_out = act or (None, None, None)
    if act is None or is_plain(act):
        found = native_norm(
            x,
            norm,
            copies=copies,
            residual=residual,
            shift_in=shift_in,
            act=slope,
            shift_out=shift_out,
        )
        if found is not None:
            return found[0]
    y = normalize_tiled(x, norm, copies) + residual
    return y if act is None else act(y)


def gated_norm(
    x: Tensor, gate: Tensor, residual: Tensor, norm: nn.Module, *, multiplies: bool
) -> Tensor:
    """Compute ``norm(gate x) + residual``, or ``norm(gate x residual) + residual``.

    Args:
        x: Map ``(N, C, H, W)``.
        gate: ``(N, C, 1, 1)``.
        residual: Map of ``x``'s shape.
        norm: Norm of ``C`` channels.
        multiplies: Whether the normalised map is multiplied by the residual.
    """
    y = native_gated_norm(x, gate, residual, norm, multiplies=multiplies)
    if y is not None:
        return y
    y = gate * x
    if multiplies:
        y = y * residual
    return residual + norm(y)
