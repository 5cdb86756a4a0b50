"""Input gradient of a strided convolution on a CPU.

For large maps oneDNN computes this gradient in channels-last memory. Torch then copies it to the
usual order, which takes several times as long as the convolution. A copy of two dimensions, image
by image, is fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

#: Positions of an input map from which the copy pays.
MANY_POSITIONS = 2048


Pairs = tuple[Sequence[int], Sequence[int], Sequence[int]]


def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor, pairs: Pairs, groups: int, wanted: tuple[bool, bool]
) -> tuple[Any, Any]:
    """Call torch's operator; ``pairs`` are stride, padding and dilation."""
    found = torch.ops.aten.convolution_backward(
        grad, x, weight, None, *pairs, False, (0, 0), groups, (*wanted, False)
    )
    return found[0], found[1]


def convolution_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, pairs: Pairs, groups: int, wanted: tuple[bool, bool]
) -> tuple[Any, Any]:
    """Compute the gradients of ``conv2d(x, weight, None, *pairs, groups)``.

    Args:
        grad: Gradient of the result, ``(N, C_o, H', W')``.
        x: Input ``(N, C_i, H, W)``.
        weight: Kernel ``(C_o, C_i / groups, k_h, k_w)``.
        pairs: Stride, padding and dilation.
        groups: As ``conv2d``'s.
        wanted: Whether the gradients of input and kernel are wanted.

    Returns:
        Both gradients, None for one that is not wanted.
    """
    if not (wanted[0] and is_slow(grad, x, weight, pairs[0], groups)):
        return _gradients(grad, x, weight, pairs, groups, wanted)
    _, of_weight = _gradients(grad, x, weight, pairs, groups, (False, wanted[1]))
    return strided_input_gradient(grad, x, weight, *pairs), of_weight


def is_slow(grad: Tensor, x: Tensor, weight: Tensor, stride: Sequence[int], groups: int) -> bool:
    """Return whether :func:`strided_input_gradient` should replace torch's operator.

    Arguments: those of the convolution, and the gradient of its result.
    """
    eager = x.device.type == 'cpu' and not torch.is_grad_enabled()
    ordered = x.is_contiguous() and grad.is_contiguous() and weight.is_contiguous()
    # a batch of gradients (``is_grads_batched``) has no layout
    batched = torch._C._functorch.is_legacy_batchedtensor(grad)
    large = x.shape[-2] * x.shape[-1] >= MANY_POSITIONS
    return eager and not batched and ordered and large and max(stride) > 1 and groups == 1


def strided_input_gradient(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """Compute the gradient of ``conv2d(x, weight, None, stride, padding, dilation)``.

    Args:
        grad: Gradient of the result, ``(N, C_o, H', W')``.
        x: Input ``(N, C_i, H, W)``, of which only shape and dtype count.
        weight: Kernel ``(C_o, C_i, k_h, k_w)``.
        stride: As ``conv2d``'s, a pair.
        padding: As ``conv2d``'s, a pair.
        dilation: As ``conv2d``'s, a pair.

    Returns:
        Tensor of ``x``'s shape and dtype.
    """
    last = torch.channels_last
    found, _ = _gradients(
        grad.contiguous(memory_format=last),
        torch.empty_like(x, memory_format=last),  # not read
        weight.contiguous(memory_format=last),
        (stride, padding, dilation),
        1,
        (True, False),
    )
    result = torch.empty_like(x)
    rows = found.permute(0, 2, 3, 1).flatten(1, 2)  # (N, H W, C_i), a view
    for image, transposed in zip(result.flatten(2), rows):
        image.copy_(transposed.t())
    return result
