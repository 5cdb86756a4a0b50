"""Images as networks want them: reading, resizing, cropping, padding, normalising.

With numpy and PIL alone, this gives what OpenMMLab's test pipelines give with OpenCV.
Images are arrays ``(H, W, 3)`` of uint8, RGB; sizes are (height, width).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ..errors import MmesbnnError

Size = tuple[int, int]

_PILLOW = {
    'nearest': Image.Resampling.NEAREST,
    'bilinear': Image.Resampling.BILINEAR,
    'bicubic': Image.Resampling.BICUBIC,
    'box': Image.Resampling.BOX,
    'lanczos': Image.Resampling.LANCZOS,
    'hamming': Image.Resampling.HAMMING,
}


class ImageError(MmesbnnError):
    """An image that cannot be used; the message says why."""


def read_image(source: str | os.PathLike | np.ndarray | Image.Image) -> np.ndarray:
    """An image as an RGB array.

    Orientation tags are followed, transparency is dropped, grey becomes RGB, 16 bits
    become 8, as OpenCV does.

    Args:
        source: A file, a PIL image, or an array ``(H, W, 3)`` or ``(H, W)`` of uint8,
            in RGB.

    Raises:
        ImageError: If it is no image.
    """
    if isinstance(source, np.ndarray):
        return _checked(source)
    if isinstance(source, Image.Image):
        return _from_pillow(source)
    try:
        with Image.open(source) as image:
            return _from_pillow(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = getattr(error, 'strerror', None) or 'not an image, or a damaged one'
        raise ImageError(f'{os.fspath(source)}: {reason}') from error


def _checked(array: np.ndarray) -> np.ndarray:
    if array.dtype != np.uint8:
        raise ImageError(f'an image of {array.dtype}: must be uint8, 0 to 255')
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, 2)
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ImageError(f'an image of shape {array.shape}: must be (H, W, 3)')
    return array


def _from_pillow(image: Image.Image) -> np.ndarray:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith('I'):  # 16 bits, in a mode that PIL would clip
        grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255)
        return _checked(grey.astype(np.uint8))
    return np.asarray(image.convert('RGB'))


# as OpenCV resizes ----------------------------------------------------------------

#: OpenCV's bilinear weights are multiples of 1 / 2048.
_ONE = 2048


def _positions(old: int, new: int) -> tuple[np.ndarray, np.ndarray]:
    """Where new entries of an axis lie among the old: whole part, and the rest."""
    where = ((np.arange(new) + 0.5) * (old / new) - 0.5).astype(np.float32)
    start = np.floor(where)
    return start.astype(int), where - start


def _weighted(image: np.ndarray, taps: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sum of rows ``taps`` of ``image`` times ``weights``, both ``(taps, new)``."""
    return sum(image[row] * weight[:, None, None] for row, weight in zip(taps, weights))


def _bilinear(image: np.ndarray, size: Size) -> np.ndarray:
    (height, width), (new_height, new_width) = image.shape[:2], size
    if (height, width) == (2 * new_height, 2 * new_width):  # OpenCV averages then
        blocks = image.reshape(new_height, 2, new_width, 2, 3).astype(np.int32)
        return ((blocks.sum((1, 3)) + 2) >> 2).astype(np.uint8)

    def linear(part: np.ndarray) -> np.ndarray:
        return np.rint(np.stack([1 - part, part]) * _ONE).astype(np.int32)

    start, part = _positions(width, new_width)
    part[(start < 0) | (start >= width - 1)] = 0
    taps = np.stack([start, start + 1]).clip(0, width - 1)
    wide = _weighted(image.swapaxes(0, 1).astype(np.int32), taps, linear(part))
    wide = wide.swapaxes(0, 1) >> 4

    start, part = _positions(height, new_height)
    taps = np.stack([start, start + 1]).clip(0, height - 1)
    parts = [
        (wide[row] * weight[:, None, None]) >> 16
        for row, weight in zip(taps, linear(part))
    ]
    return ((parts[0] + parts[1] + 2) >> 2).astype(np.uint8)


def _cubic(part: np.ndarray) -> np.ndarray:
    """The four weights of a cubic convolution with OpenCV's parameter."""
    a = -0.75

    def far(x: np.ndarray) -> np.ndarray:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    def near(x: np.ndarray) -> np.ndarray:
        return ((a + 2) * x - (a + 3)) * x * x + 1

    part = part.astype(np.float64)
    return np.stack([far(1 + part), near(part), near(1 - part), far(2 - part)])


def _bicubic(image: np.ndarray, size: Size) -> np.ndarray:
    result = image.astype(np.float64)
    for new in size:  # rows, then columns; after two turns the axes are back
        start, part = _positions(len(result), new)
        taps = (start + np.arange(-1, 3)[:, None]).clip(0, len(result) - 1)
        result = _weighted(result, taps, _cubic(part)).swapaxes(0, 1)
    return np.rint(result).clip(0, 255).astype(np.uint8)


def _nearest(image: np.ndarray, size: Size) -> np.ndarray:
    rows, columns = (
        np.minimum((np.arange(new) * (old / new)).astype(int), old - 1)
        for old, new in zip(image.shape, size)
    )
    return image[rows[:, None], columns]


_OPENCV = {'nearest': _nearest, 'bilinear': _bilinear, 'bicubic': _bicubic}

#: What :func:`resize` knows.
INTERPOLATIONS = {'cv2': tuple(_OPENCV), 'pillow': tuple(_PILLOW)}


def resize(
    image: np.ndarray, size: Size, interpolation: str = 'bilinear', backend: str = 'cv2'
) -> np.ndarray:
    """Resize an image.

    Args:
        image: Array ``(H, W, 3)``.
        size: New height and width.
        interpolation: One of ``INTERPOLATIONS[backend]``. Default ``'bilinear'``.
        backend: ``'pillow'``, or ``'cv2'``: as OpenCV computes it, bilinear and nearest
            to the last bit, bicubic up to one grey level. Default ``'cv2'``.
    """
    if image.shape[:2] == tuple(size):
        return image
    if backend == 'cv2':
        return _OPENCV[interpolation](image, size)
    pillow = Image.fromarray(image).resize(size[::-1], _PILLOW[interpolation])
    return np.asarray(pillow)


# steps of a pipeline --------------------------------------------------------------


def _resize_step(image: np.ndarray, step: Mapping[str, Any], size: Size) -> np.ndarray:
    return resize(image, size, step['interpolation'], step['backend'])


def _resize_to(image: np.ndarray, step: Mapping[str, Any]) -> np.ndarray:
    height, width = step['size']
    return _resize_step(image, step, (height, width))


def _resize_edge(image: np.ndarray, step: Mapping[str, Any]) -> np.ndarray:
    (height, width), edge, scale = image.shape[:2], step['edge'], step['scale']
    shorter = {'short': width < height, 'long': width > height}
    if shorter.get(edge, edge == 'width'):
        size = int(scale * height / width), scale
    else:
        size = scale, int(scale * width / height)
    return _resize_step(image, step, (max(size[0], 1), max(size[1], 1)))


def _resize_within(image: np.ndarray, step: Mapping[str, Any]) -> np.ndarray:
    sides, limits = sorted(image.shape[:2]), sorted(step['size'])
    scale = min(limits[1] / sides[1], limits[0] / sides[0])
    height, width = (int(side * scale + 0.5) for side in image.shape[:2])
    return _resize_step(image, step, (max(height, 1), max(width, 1)))


def _centre_crop(image: np.ndarray, step: Mapping[str, Any]) -> np.ndarray:
    size = [min(a, b) for a, b in zip(step['size'], image.shape)]
    top, left = (max(0, round((b - a) / 2)) for a, b in zip(size, image.shape))
    return image[top : top + size[0], left : left + size[1]]


def _pad(image: np.ndarray, step: Mapping[str, Any]) -> np.ndarray:
    if 'divisor' in step:
        size = [math.ceil(n / step['divisor']) * step['divisor'] for n in image.shape]
    else:
        size = [max(a, b) for a, b in zip(step['size'], image.shape)]
    return pad_to(image, (size[0], size[1]), step['value'])


STEPS: dict[str, Callable[[np.ndarray, Mapping[str, Any]], np.ndarray]] = {
    'resize': _resize_to,
    'resize_edge': _resize_edge,
    'resize_within': _resize_within,
    'centre_crop': _centre_crop,
    'pad': _pad,
}


def pad_to(image: np.ndarray, size: Size, value: float) -> np.ndarray:
    """``(H, W, C)`` up to ``size``, with ``value`` below and at the right."""
    below, right = (new - old for new, old in zip(size, image.shape))
    return np.pad(image, ((0, below), (0, right), (0, 0)), constant_values=value)


def apply_steps(image: np.ndarray, steps: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """What the steps of a manifest make of an image, still uint8.

    Raises:
        ImageError: If there is a step of a later version.
    """
    for step in steps:
        if step['type'] not in STEPS:
            raise ImageError(f'preprocessing step {step["type"]!r} is not known')
        image = STEPS[step['type']](image, step)
    return image


def normalize(image: np.ndarray, preprocessing: Mapping[str, Any]) -> np.ndarray:
    """``(x - mean) / std`` in float32, in the network's order of channels, ``HWC``."""
    if not preprocessing['to_rgb']:
        image = image[..., ::-1]
    mean, std = (np.asarray(preprocessing[k], np.float32) for k in ('mean', 'std'))
    return (image.astype(np.float32) - mean) / std
