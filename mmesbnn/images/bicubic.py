"""Bicubic resizing of tensors, as MATLAB's ``imresize``.

The low-resolution images of the usual data sets (DIV2K, Set5, ...) were made with it. Its
results differ visibly from OpenCV's and Pillow's at the borders.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: Half the width of the kernel, in samples.
_SUPPORT = 2
#: Number of values that are computed at a time.
_STRIP = 2**22


def cubic(x: Tensor) -> Tensor:
    """Compute Keys' kernel with ``a = -1/2``.

    ``1 - 5/2 |x|^2 + 3/2 |x|^3`` for ``|x| <= 1``,
    ``2 - 4 |x| + 5/2 |x|^2 - 1/2 |x|^3`` for ``1 < |x| <= 2``, else 0.

    Source: Keys, "Cubic convolution interpolation for digital image processing" (1981).
    """
    x = x.abs()
    near = 1 - 2.5 * x**2 + 1.5 * x**3
    far = 2 - 4 * x + 2.5 * x**2 - 0.5 * x**3
    return torch.where(x <= 1, near, torch.where(x <= 2, far, torch.zeros_like(x)))


def resize_taps(length: int, new_length: int) -> tuple[Tensor, Tensor]:
    """Return indices and weights of the input samples of each output sample.

    Output sample ``i`` is at ``u = (i + 1/2) / s - 1/2`` of the input, where ``s`` is
    ``new_length / length``. Input sample ``j`` has the weight ``cubic(k (u - j))`` with
    ``k = min(s, 1)``, divided by the sum of all weights. Outside the input, samples are
    mirrored, and the border sample is repeated.

    Args:
        length: Number of input samples.
        new_length: Number of output samples.

    Returns:
        Indices (int64) and weights (float64), both ``(new_length, P)``.
    """
    scale = new_length / length
    kernel_scale = min(scale, 1.0)
    half = _SUPPORT / kernel_scale
    outputs = torch.arange(new_length, dtype=torch.float64, device='cpu')
    centre = (outputs + 0.5) / scale - 0.5
    # one more sample on each side; its weight is 0 or almost 0
    first = torch.floor(centre - half).long()
    taps = first[:, None] + torch.arange(math.ceil(2 * half) + 2, device='cpu')
    weights = cubic(kernel_scale * (centre[:, None] - taps))
    mirrored = taps.remainder(2 * length)
    indices = torch.where(mirrored < length, mirrored, 2 * length - 1 - mirrored)
    used = (weights != 0).any(0)
    return indices[:, used], (weights / weights.sum(1, keepdim=True))[:, used]


def _resize_dim(image: Tensor, dim: int, new_length: int, dtype: torch.dtype) -> Tensor:
    """Resize one dimension in strips, so that intermediate results stay small."""
    indices, weights = resize_taps(image.shape[dim], new_length)
    indices, weights = indices.to(image.device), weights.to(image.device, dtype)
    shape = [1] * image.dim()
    shape[dim] = -1
    values = image.numel() // image.shape[dim]
    step = max(_STRIP // max(values, 1), 1)
    strips = []
    for start in range(0, new_length, step):
        part = slice(start, start + step)
        strip = sum(
            image.index_select(dim, index).to(dtype) * weight.view(shape)
            for index, weight in zip(indices[part].T, weights[part].T)
        )
        strips.append(strip if image.is_floating_point() else _rounded(strip))
    return torch.cat(strips, dim)


def _rounded(values: Tensor) -> Tensor:
    return torch.floor(values.clamp(0, 255) + 0.5).byte()


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize images, with antialiasing where they become smaller.

    Height and width are resized one after the other. The one that shrinks more is first.
    :func:`resize_taps` has the formula.

    Args:
        image: ``(..., H, W)`` of a floating dtype, whose values are not clamped, or of
            uint8. uint8 images are computed in float64 and rounded after each direction,
            as in MATLAB.
        size: New height and width, in pixels.

    Returns:
        ``(..., *size)``, of ``image``'s dtype.

    Raises:
        ValueError: If a height or width is less than 1, or if the dtype is not supported.

    Source: MATLAB's ``imresize(A, size)``.
    """
    if image.dim() < 2 or min(image.shape[-2:]) < 1 or min(size) < 1:
        raise ValueError(
            f'cannot resize an image of shape {tuple(image.shape)} to {tuple(size)}: '
            'heights and widths must be at least 1'
        )
    rounded = image.dtype == torch.uint8
    if not (rounded or image.is_floating_point()):
        raise ValueError(f'image has dtype {image.dtype}: give uint8 or a float dtype')
    for dim in sorted((-2, -1), key=lambda d: size[d] / image.shape[d]):
        if size[dim] != image.shape[dim]:
            dtype = torch.float64 if rounded else image.dtype
            image = _resize_dim(image, dim, size[dim], dtype)
    return image
