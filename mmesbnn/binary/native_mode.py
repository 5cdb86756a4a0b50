"""Switch that lets the binary operators use the native kernels on a CPU."""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..native import (
    Packed,
    PackedWeights,
    convolve,
    convolve_sums,
    input_gradient,
    pack_signs,
    pack_weights,
    weight_gradient,
)
from ..native.arguments import shared_array, shared_entries
from ..native.library import NativeError, library
from ..native.memory import empty
from .expansion import is_channels_last
from .tracing import is_transformed

_enabled = False

#: Kinds of numbers that kernels read, as numpy writes them.
_KINDS = {torch.float32: 'f4', torch.int16: 'i2'}


def _share_threads() -> None:
    """Let the kernels of operators run on torch's threads, if they are those of GNU's OpenMP."""
    shared = getattr(ctypes.CDLL(None), 'GOMP_parallel', None) if os.name == 'posix' else None
    address = None if shared is None else ctypes.cast(shared, ctypes.c_void_p)
    library().mmesbnn_share_threads(address)


def use_native(enabled: bool = True) -> bool:
    """Switch the native kernels on or off. They compute on packed bits.

    The kernels run only where they are exact: for float32 on a CPU, if every activation is
    exactly -1 or 1 and the entries of each kernel are ``-a`` and ``a``. Everything else runs
    on torch's operators. The kernels' sums are exact integers, so a result differs from the
    float result only by the rounding of ``a`` times an integer. For ``a = 1`` there is no
    difference.

    In training convolutions and linear layers run on the kernels as well, forward and backward.
    They store their input and their weight as bits. So do signs and norms with what stands around
    them in the units of BNext, ReActNet, Bi-Real Net and BinaryViT: copies, residuals, gates and
    PReLUs. So do the poolings of BNext and ReActNet, and the binarization of probabilities in
    BinaryViT, with torch's results to the last bit.
    Gradients can be differentiated once only, and not computed in batches (``is_grads_batched``,
    ``jacobian(vectorize=True)``). Those of real numbers differ from torch's by the rounding of
    float32, and so do results of norms. Layers with hooks, or whose ``forward`` was replaced, run
    on torch's operators.

    The memory of large results is kept for later ones: in each thread at most twice what was used
    at once lately. :func:`mmesbnn.native.release_memory` frees it.

    The environment variable ``MMESBNN_NATIVE=1`` also switches them on. A value other than
    0 and 1 is an error of the import.

    Args:
        enabled: Whether to use the kernels. Default True.

    Returns:
        Setting before the call.

    Raises:
        NativeError: If ``enabled`` is True and the kernels are not compiled.
    """
    global _enabled
    if enabled:
        _share_threads()
    before, _enabled = _enabled, bool(enabled)
    return before


def is_native() -> bool:
    """Return whether the native kernels are switched on."""
    return _enabled


def _fits(*tensors: Tensor) -> bool:
    if not _enabled or is_transformed():
        return False
    return all(
        x.device.type == 'cpu'
        and x.dtype == torch.float32
        and not (x.requires_grad and torch.is_grad_enabled())
        and x.numel() > 0
        for x in tensors
    )


def array_of(parameter: Tensor) -> Any:
    """Return the values of a parameter as an array that shares its memory, to be read only.

    ``Tensor.numpy`` would forbid torch to resize that memory for good, and FSDP frees and fills
    the memory of parameters in every step.
    """
    if parameter.is_neg():  # its memory holds the negative numbers
        parameter = parameter.resolve_neg()
    kind, own = _KINDS.get(parameter.dtype), type(parameter) in (Tensor, nn.Parameter)
    lies_plainly = parameter.is_cpu and parameter.is_contiguous() and parameter.numel() > 0
    if kind is None or not own or not lies_plainly:
        return shared_array(parameter.detach())
    return shared_entries(parameter, parameter.data_ptr(), tuple(parameter.shape), kind)


def kept(*shape: int) -> Tensor:
    """Return a tensor with any values, whose memory is kept for later ones if it is large."""
    return torch.from_numpy(empty(shape))


def pack_operands(x: Tensor, weight: Tensor, groups: int) -> tuple[Packed, PackedWeights] | None:
    """Pack the operands of a convolution; return None where torch's operator must run."""
    if not _fits(x, weight):
        return None
    weights, threads = pack_effective(weight, groups), torch.get_num_threads()
    if weights is None:
        return None
    signs = pack_signs(x.detach().numpy(), groups=groups, strict=True, threads=threads)
    return None if signs is None else (signs, weights)


def pack_effective(weight: Tensor, groups: int) -> PackedWeights | None:
    """Pack an effective weight; return None if a kernel has more than two values."""
    return pack_weights(array_of(weight), groups=groups, threads=torch.get_num_threads())


def pack_shifted(x: Tensor, shift: Tensor, groups: int, with_means: bool = False) -> Packed | None:
    """Pack ``x + shift > 0``, with a shift per channel, and the means of ``x`` if they are wanted.

    Returns:
        Packed signs; None if ``x`` has a NaN, or a shift is not finite.
    """
    limits, threads = -array_of(shift), torch.get_num_threads()
    values = x.detach().numpy()
    return pack_signs(
        values,
        groups=groups,
        thresholds=limits,
        strict=True,
        with_means=with_means,
        threads=threads,
    )


def pack_latent(weight: Tensor, groups: int, limits: Tensor, scaled: bool) -> PackedWeights | None:
    """Pack ``weight > limit`` with a limit per kernel, and scales ``mean|w|`` or 1.

    Returns:
        Packed weights; None where they have no meaning, because a weight is NaN, a limit or scale
        is NaN or infinite, or a scale is 0.
    """
    return pack_weights(
        array_of(weight.contiguous()),
        groups=groups,
        thresholds=limits.numpy(),
        scaled=scaled,
        threads=torch.get_num_threads(),
    )


def bits_to_save(signs: Packed, weights: PackedWeights) -> tuple[Tensor, ...]:
    """Return packed operands as tensors that a step of autograd can save."""
    words = (torch.from_numpy(one.words.view('int64')) for one in (signs, weights))
    return (*words, torch.from_numpy(weights.scales))


def saved_bits(
    saved: Sequence[Tensor], channels: int, kernel_size: tuple[int, int]
) -> tuple[Packed, PackedWeights]:
    """Return the operands of :func:`bits_to_save`.

    Args:
        saved: Its result.
        channels: Input channels.
        kernel_size: Height and width of a kernel.
    """
    words, kernels, scales = (one.numpy() for one in saved)
    signs = Packed(words.view('uint64'), channels)
    depth = channels // signs.groups
    return signs, PackedWeights(kernels.view('uint64'), scales, kernel_size, depth)


def convolve_packed(
    signs: Packed,
    weights: PackedWeights,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    pad_value: float,
    *,
    channels_last: bool = False,
) -> Tensor:
    """Convolve packed operands; other arguments as ``mmesbnn::binary_conv2d``.

    With ``channels_last`` the result has that layout.
    """
    options = _options(stride, padding, dilation, pad_value)
    return torch.from_numpy(convolve(signs, weights, channels_last=channels_last, **options))


def sum_packed(
    signs: Packed, weights: PackedWeights, *window: Any, channels_last: bool = False
) -> Tensor:
    """Compute the sums of products of signs of :func:`convolve_packed`, as int16."""
    options = _options(*window)
    return torch.from_numpy(convolve_sums(signs, weights, channels_last=channels_last, **options))


def _options(
    stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], pad_value: float
) -> dict[str, Any]:
    return dict(
        stride=(stride[0], stride[1]),
        padding=(padding[0], padding[1]),
        dilation=(dilation[0], dilation[1]),
        pad_value=int(pad_value),
        threads=torch.get_num_threads(),
    )


def packed_gradients(
    grad: Tensor,
    signs: Packed,
    weights: PackedWeights,
    settings: tuple[Any, ...],
    wanted: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Compute the gradients of :func:`convolve_packed` with respect to input and weight.

    Args:
        grad: Gradient of the result, ``(N, C_o, H', W')``, float32.
        signs: Packed input.
        weights: Packed weight.
        settings: Arguments of ``mmesbnn::binary_conv2d`` after the operands.
        wanted: Whether the gradients of input and weight are wanted.

    Returns:
        Both gradients, None for one that is not wanted.
    """
    stride, padding, dilation, _, pad_value = settings
    grad = grad.detach()
    values = (grad if is_channels_last(grad) else grad.contiguous()).numpy()
    common: dict[str, Any] = dict(
        stride=(stride[0], stride[1]),
        padding=(padding[0], padding[1]),
        dilation=(dilation[0], dilation[1]),
        threads=torch.get_num_threads(),
    )
    of_input = of_weight = None
    if wanted[0]:
        height, width = signs.words.shape[1:3]
        found = input_gradient(values, weights, size=(height, width), **common)
        of_input = torch.from_numpy(found)
    if wanted[1]:
        size = weights.kernel_size
        found = weight_gradient(values, signs, kernel_size=size, pad_value=int(pad_value), **common)
        of_weight = torch.from_numpy(found)
    return of_input, of_weight


def native_conv2d(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    pad_value: float,
) -> Tensor | None:
    """Convolve packed signs; return None where torch's operator must run.

    Arguments: as ``mmesbnn::binary_conv2d``.
    """
    packed = pack_operands(x, weight, groups)
    if packed is None:
        return None
    last = is_channels_last(x)
    return convolve_packed(*packed, stride, padding, dilation, pad_value, channels_last=last)


#: Arguments of ``mmesbnn::binary_conv2d`` after the operands, for kernels of one pixel.
POINTWISE = ((1, 1), (0, 0), (1, 1), 1, 0.0)


def map_of_rows(x: Tensor) -> Tensor:
    """Return rows ``(..., C)`` as a map ``(1, C, 1, L)`` with channels last in memory."""
    return x.reshape(1, 1, math.prod(x.shape[:-1]), x.shape[-1]).permute(0, 3, 1, 2)


def rows_of_map(y: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the rows ``(*shape, C)`` of a map ``(1, C, 1, L)``."""
    return y.permute(0, 2, 3, 1).reshape(*shape, y.shape[1])


def native_linear(x: Tensor, weight: Tensor) -> Tensor | None:
    """Multiply packed signs and weights; return None where torch's operator must run.

    Arguments: as ``mmesbnn::binary_linear``.
    """
    if not _fits(x, weight):
        return None
    y = native_conv2d(map_of_rows(x), weight[:, :, None, None], *POINTWISE)
    return None if y is None else rows_of_map(y, x.shape[:-1])


def _read_environment() -> None:
    """Switch the kernels on if ``MMESBNN_NATIVE`` says so."""
    value = os.environ.get('MMESBNN_NATIVE', '')
    if value not in ('', '0', '1'):
        raise NativeError(f'MMESBNN_NATIVE={value!r} in the environment must be 0 or 1')
    if value == '1':
        use_native()


_read_environment()
