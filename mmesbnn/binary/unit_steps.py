"""Steps of a unit of a binary network around its convolution, each as one function.

On the native kernels a training step makes few passes over memory. Everywhere else the layers run
one after another. Values and gradients are the same, but for the rounding of float32.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeGuard

from torch import Tensor, nn

from .activated_sums import Activated, written
from .expansion import tile
from .layers import BinaryConv2d, LearnableShift, RPReLU, RSign
from .native_conv import conv_for_norm, linear_for_norm, passing_conv_for_norm, settings_of
from .native_mode import is_native
from .native_norms import native_activated_norm, native_gated_norm, native_norm
from .native_training import is_own, is_plain, trains_natively
from .position_means import position_mean
from .prelus import ChannelPReLU
from .shrunk import ShrunkLinear
from .sign_sums import Convolved
from .tiled_norm import normalize_tiled
from .tracing import is_seen


def _is_own_conv(conv: nn.Module, x: Tensor) -> TypeGuard[BinaryConv2d]:
    if not trains_natively(x) or not isinstance(conv, BinaryConv2d) or not is_plain(conv):
        return False
    own = type(conv).forward is BinaryConv2d.forward and conv.bias is None
    return own and x.shape[1] == conv.in_channels


def _is_own_shift(shift: nn.Module) -> TypeGuard[LearnableShift]:
    return is_own(shift, LearnableShift) and shift.bias.dim() == 4


def _native_conv(
    x: Tensor, shift: nn.Module | None, sign: nn.Module, conv: nn.Module
) -> Convolved | None:
    """Compute ``conv(sign(x + shift))`` in one step; return None if layers must run in turn."""
    if not _is_own_conv(conv, x) or not is_own(conv.sign, nn.Identity):
        return None
    if shift is None:
        return conv_for_norm(x, None, sign, conv, settings_of(conv))
    if not _is_own_shift(shift):
        return None
    return conv_for_norm(x, shift.bias.flatten(), sign, conv, settings_of(conv))


def signed_convs(x: Tensor, sign: nn.Module, convs: Iterable[nn.Module]) -> list[Convolved]:
    """Compute ``conv(sign(x))`` for each of ``convs``, for norms of this module.

    The step of an :class:`RSign` is also that of its shift.

    Args:
        x: Map ``(N, C, H, W)``.
        sign: Sign.
        convs: Convolutions without signs of their own.
    """
    convs = list(convs)
    if is_native():
        shift, inner = None, sign
        if is_own(sign, RSign):
            shift, inner = sign.shift, sign.sign
        found = [_native_conv(x, shift, inner, conv) for conv in convs]
        done = [y for y in found if y is not None]
        if len(done) == len(convs):
            return done
    signs = sign(x)
    return [conv(signs) for conv in convs]


def shifted_conv(
    x: Tensor, shift: LearnableShift, conv: BinaryConv2d, *, with_mean: bool = False
) -> tuple[Convolved, Tensor, Tensor | None]:
    """Compute ``conv(shift(x))``, ``conv`` with its own sign, for a norm of this module.

    Args:
        x: Map ``(N, C, H, W)``.
        shift: Shift of its channels.
        conv: Convolution.
        with_mean: Whether the mean of ``x`` is wanted. Default False.

    Returns:
        The result; ``x`` for its other readers; and its mean over positions, ``(N, C, 1, 1)``, or
        None where it is a step of its own. On the native kernels the mean is made with the signs,
        and the gradients of both cost no addition of their own.
    """
    if is_native() and _is_own_conv(conv, x) and _is_own_shift(shift):
        bias = shift.bias.flatten()
        found = passing_conv_for_norm(
            x, bias, conv.sign, conv, settings_of(conv), with_means=with_mean
        )
        if found is not None:
            y, x, means = found
            return y, x, None if means is None else means[..., None, None]
    return conv(shift(x)), x, None


def normalized(x: Tensor, norm: nn.Module, copies: int = 1) -> Tensor:
    """Compute ``norm(tile(x, copies))``.

    Args:
        x: Small map ``(N, C, H, W)``.
        norm: Norm of ``copies C`` channels.
        copies: Number of copies. Default 1.
    """
    found = native_norm(x, norm, copies=copies) if is_native() else None
    return normalize_tiled(x, norm, copies) if found is None else found


def normalized_tokens(x: Tensor, norm: nn.Module, copies: int = 1) -> Tensor:
    """Compute :func:`normalized` over the features of tokens.

    Args:
        x: Small tokens ``(N, L, C)``.
        norm: Norm of maps with ``copies C`` channels: a :class:`TiledBatchNorm2d`, or the norm that
            a tool has replaced it by.
        copies: Number of copies. Default 1.
    """
    found = native_norm(x, norm, copies=copies, tokens=True) if is_native() else None
    if found is not None:
        return found
    y = normalize_tiled(x.transpose(1, 2).unsqueeze(2), norm, copies)
    return y.flatten(2).transpose(1, 2)


def activated_norm(
    x: Convolved, norm: nn.Module, act: nn.Module, copies: int
) -> tuple[Activated, Tensor]:
    """Compute ``y = act(norm(tile(x, copies)))`` for :func:`gated_norm`, and its mean.

    Args:
        x: Small map ``(N, C, H, W)``.
        norm: Norm of ``copies C`` channels.
        act: PReLU of as many.
        copies: Number of copies.

    Returns:
        ``y``, ``(N, copies C, H, W)``, and its mean over positions, ``(N, copies C, 1, 1)``.
    """
    if is_native() and is_own(act, ChannelPReLU):
        slope = act.weight
        found = native_activated_norm(x, norm, slope, copies=copies)
        if found is not None:
            return found
    y = act(normalize_tiled(written(x), norm, copies))
    return y, position_mean(y)


def _numbers(act: Any) -> dict[str, Any] | None:
    """Return shifts and slope of an activation by name; None if it must be called."""
    if act is None:
        return {}
    layers: list[Any]
    slope: Tensor
    if type(act) is RPReLU:
        layers = [act.shift_in, act.shift_out]
        slope = act.slope
    elif type(act) is nn.Sequential and len(act) == 3 and is_own(act[1], ChannelPReLU):
        layers = [act[0], act[2]]
        slope = act[1].weight
    else:
        return None
    if not is_plain(act) or not all(is_own(layer, LearnableShift) for layer in layers):
        return None
    shifts = [layer.bias.flatten() for layer in layers]
    return dict(shift_in=shifts[0], slope=slope.flatten(), shift_out=shifts[1])


def residual_norm(
    x: Convolved, norm: nn.Module, residual: Tensor, copies: int, act: nn.Module | None = None
) -> Tensor:
    """Compute ``act(norm(tile(x, copies)) + residual)``.

    Args:
        x: Small map ``(N, C, H, W)``.
        norm: Norm of ``copies C`` channels.
        residual: Map ``(N, copies C, H, W)``.
        copies: Number of copies.
        act: :class:`RPReLU`, or shift, PReLU, and shift. Default None: nothing.
    """
    numbers = _numbers(act) if is_native() else None
    if numbers is not None:
        found = native_norm(x, norm, copies=copies, residual=residual, **numbers)
        if found is not None:
            return found
    y = normalize_tiled(written(x), norm, copies) + residual
    return y if act is None else act(y)


def token_norm(
    x: Convolved,
    norm: nn.Module,
    residual: Tensor,
    copies: int,
    act: nn.Module,
    residual_copies: int = 1,
) -> Tensor:
    """Compute :func:`residual_norm` of tokens, with ``tile(residual, residual_copies)``.

    Args:
        x: Small tokens ``(N, L, C)``.
        norm: Norm of maps with ``copies C`` channels.
        residual: Tokens ``(N, L, copies C / residual_copies)``.
        copies: Number of copies of ``x``.
        act: :class:`RPReLU` of tokens.
        residual_copies: Number of copies of the residual. Default 1.
    """
    numbers = _numbers(act) if is_native() else None
    if numbers is not None:
        found = native_norm(x, norm, copies=copies, residual=residual, tokens=True, **numbers)
        if found is not None:
            return found
    return act(normalized_tokens(written(x), norm, copies) + tile(residual, residual_copies, -1))


def shifted_linear(x: Tensor, shift: LearnableShift, linear: ShrunkLinear) -> Convolved:
    """Compute ``linear(shift(x))``, ``linear`` with its own sign, for :func:`token_norm`.

    Args:
        x: Tokens ``(N, L, C)``.
        shift: Shift of their features.
        linear: Linear layer.
    """
    y = None
    if is_native() and not is_seen(x) and is_own(linear, ShrunkLinear):
        groups = linear.expansion.groups
        fits = shift.bias.shape == x.shape[-1:] == (linear.in_features * groups,)
        if fits and is_own(shift, LearnableShift) and linear.bias is None:
            y = linear_for_norm(x, shift.bias, linear.sign, linear, groups)
    return linear(shift(x)) if y is None else y


def gated_norm(
    x: Activated, gate: Tensor, residual: Tensor, norm: nn.Module, *, multiplies: bool
) -> Tensor:
    """Compute ``norm(gate x) + residual``, or ``norm(gate x residual) + residual``.

    Args:
        x: Map ``(N, C, H, W)`` of :func:`activated_norm`, or any other.
        gate: ``(N, C, 1, 1)``.
        residual: Map of ``x``'s shape.
        norm: Norm of ``C`` channels.
        multiplies: Whether the normalised map is multiplied by the residual.
    """
    y = native_gated_norm(x, gate, residual, norm, multiplies=multiplies)
    if y is not None:
        return y
    y = gate * written(x)
    if multiplies:
        y = y * residual
    return residual + norm(y)
