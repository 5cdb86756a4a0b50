"""Native kernels as the implementation of the binary operators on a CPU."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from ..native import convolve, pack_signs, pack_weights
from ..native.library import library

_enabled = False


def use_native(enabled: bool = True) -> bool:
    """Let binary operators run on packed bits where that is exact, or no longer.

    That is so for float32 on a CPU, without gradients, if every activation is exactly
    -1 or 1 and the entries of each kernel are ``-a`` and ``a``. Everything else runs as
    before. Sums are exact, so results differ from the float ones by the rounding of
    ``a`` times an integer: by none for ``a = 1``.

    Also enabled by the environment variable ``MMESBNN_NATIVE=1``.

    Args:
        enabled: Whether to use them. Default True.

    Returns:
        What was set before.

    Raises:
        NativeError: If they are to be used, and are not compiled.
    """
    global _enabled
    if enabled:
        library()
    before, _enabled = _enabled, bool(enabled)
    return before


def _fits(*tensors: Tensor) -> bool:
    return _enabled and all(
        x.device.type == 'cpu'
        and x.dtype == torch.float32
        and not x.requires_grad
        and x.numel() > 0
        for x in tensors
    )


def native_conv2d(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    pad_value: float,
) -> Tensor | None:
    """Convolution of packed signs, or None where the float form must run.

    Arguments: as ``mmesbnn::binary_conv2d``.
    """
    if not _fits(x, weight):
        return None
    weights = pack_weights(weight.numpy(), groups=groups)
    if weights is None:
        return None
    threads = torch.get_num_threads()
    signs = pack_signs(x.numpy(), groups=groups, strict=True, threads=threads)
    if signs is None:
        return None
    y = convolve(
        signs,
        weights,
        stride=(stride[0], stride[1]),
        padding=(padding[0], padding[1]),
        dilation=(dilation[0], dilation[1]),
        pad_value=int(pad_value),
        threads=threads,
    )
    return torch.from_numpy(y)


def native_linear(x: Tensor, weight: Tensor) -> Tensor | None:
    """Product of packed signs and weights, or None where the float form must run.

    Arguments: as ``mmesbnn::binary_linear``.
    """
    if not _fits(x, weight):
        return None
    columns = x.reshape(-1, x.shape[-1]).t()[None, :, :, None]
    kernels = weight[:, :, None, None]
    y = native_conv2d(columns, kernels, (1, 1), (0, 0), (1, 1), 1, 0)
    return None if y is None else y[0, :, :, 0].t().reshape(*x.shape[:-1], -1)


if os.environ.get('MMESBNN_NATIVE') == '1':
    use_native()
