"""PSNR and SSIM as in the super-resolution literature."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import Rule, checked, instance, natural, one_of

TENSOR = instance(Tensor, 'a tensor')

#: Weights of R, G and B in luma for values up to 255, and its offset (ITU-R BT.601).
_LUMA = (65.481 / 255, 128.553 / 255, 24.966 / 255)
_OFFSET = 16.0

#: SSIM's window, constants and largest value.
_WINDOW, _SIGMA = 11, 1.5
_K1, _K2, _PEAK = 0.01, 0.03, 255.0


#: Grey counts as RGB with three equal channels.
COLOURS = Rule(
    'a tensor (3, H, W), or grey (1, H, W)',
    lambda x: isinstance(x, Tensor) and x.dim() == 3 and len(x) in (1, 3),
    lambda x: f'of shape {tuple(x.shape)}' if isinstance(x, Tensor) else '',
)


@checked(image=COLOURS)
def luma(image: Tensor) -> Tensor:
    """Compute ``Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255`` without rounding.

    The formula is that of MATLAB's ``rgb2ycbcr``, which rounds for uint8 images. The
    published numbers of BasicSR and its successors are computed without rounding.

    Args:
        image: RGB ``(3, H, W)``, or grey ``(1, H, W)``, with values from 0 to 255.

    Returns:
        float64 ``(1, H, W)``, from 16 to 235.
    """
    weights = torch.tensor(_LUMA, dtype=torch.float64, device=image.device)
    return (image.double() * weights[:, None, None]).sum(0, keepdim=True) + _OFFSET


@checked(image=TENSOR, reference=TENSOR, crop_border=natural, convert_to=one_of('Y', None))
def comparable(
    image: Tensor, reference: Tensor, crop_border: int = 0, convert_to: str | None = None
) -> tuple[Tensor, Tensor]:
    """Return both images as float64, converted and without their borders.

    Args:
        image: ``(C, H, W)`` with values from 0 to 255; for luma as :func:`luma`'s.
        reference: As ``image``.
        crop_border: Number of pixels to cut off on each side. Default 0.
        convert_to: ``'Y'`` for luma, None for the channels as they are. Default None.

    Raises:
        ValueError: If the images differ in shape, if the border leaves nothing, or if images
            have no luma.
    """
    if image.shape != reference.shape or image.dim() != 3:
        raise ValueError(
            f'image of shape {tuple(image.shape)} and reference of shape {tuple(reference.shape)} '
            'cannot be compared: both must be (C, H, W) and alike'
        )
    if min(image.shape[1:]) <= 2 * crop_border:
        raise ValueError(
            f'crop_border={crop_border} leaves nothing of {image.shape[1]} x '
            f'{image.shape[2]} pixels'
        )
    end = -crop_border or None

    def cropped(x: Tensor) -> Tensor:
        wide = x.to(torch.float64)
        channels = luma(wide) if convert_to == 'Y' else wide
        return channels[:, crop_border:end, crop_border:end]

    return cropped(image), cropped(reference)


def psnr(
    image: Tensor, reference: Tensor, crop_border: int = 0, convert_to: str | None = None
) -> float:
    """Compute ``10 log10(255^2 / mean((x - y)^2))`` in dB; infinite for equal images.

    Arguments and errors: as :func:`comparable`.
    """
    x, y = comparable(image, reference, crop_border, convert_to)
    error = (x - y).square().mean().item()
    return 10 * math.log10(_PEAK**2 / error) if error else math.inf


def _blurred(x: Tensor) -> Tensor:
    """Compute weighted means over all whole windows, (C, H - 10, W - 10)."""
    place = torch.arange(_WINDOW, dtype=x.dtype, device=x.device) - _WINDOW // 2
    kernel = torch.exp(-(place**2) / (2 * _SIGMA**2))
    kernel = kernel / kernel.sum()
    rows = F.conv2d(x.unsqueeze(1), kernel.view(1, 1, -1, 1))
    return F.conv2d(rows, kernel.view(1, 1, 1, -1)).squeeze(1)


def ssim(
    image: Tensor, reference: Tensor, crop_border: int = 0, convert_to: str | None = None
) -> float:
    """Compute the mean structural similarity over 11x11 Gaussian windows of sigma 1.5.

    ``(2 m_x m_y + c_1)(2 s_xy + c_2) / ((m_x^2 + m_y^2 + c_1)(s_x^2 + s_y^2 + c_2))``
    with ``c_1 = (0.01 * 255)^2`` and ``c_2 = (0.03 * 255)^2``, over the windows inside the
    image. Channels are averaged.

    Arguments and errors: as :func:`comparable`. Without their borders images must have at
    least 11 pixels per side.

    Source: Wang et al., "Image quality assessment: from error visibility to structural
    similarity" (2004).
    """
    x, y = comparable(image, reference, crop_border, convert_to)
    if min(x.shape[1:]) < _WINDOW:
        raise ValueError(
            f'SSIM needs {_WINDOW} x {_WINDOW} pixels; without crop_border='
            f'{crop_border} there are {x.shape[1]} x {x.shape[2]}'
        )
    mean_x, mean_y = _blurred(x), _blurred(y)
    var_x = _blurred(x * x) - mean_x**2
    var_y = _blurred(y * y) - mean_y**2
    covariance = _blurred(x * y) - mean_x * mean_y
    c1, c2 = (_K1 * _PEAK) ** 2, (_K2 * _PEAK) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return (luminance * structure).mean().item()
