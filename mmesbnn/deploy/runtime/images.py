"""Reading, resizing and padding of images as arrays.

The results are those of OpenMMLab's test pipelines with OpenCV, but only numpy and PIL are
needed. Images are arrays ``(H, W, 3)`` of uint8, RGB; sizes are (height, width).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from ...images.files import (
    MAX_PIXELS,
    ImageError,
    check_mode,
    check_pixels,
    decode,
    read_image_file,
    upright,
)

__all__ = [
    'INTERPOLATIONS',
    'MAX_PIXELS',
    'ImageError',
    'Size',
    'check_pixels',
    'pad_to',
    'read_image',
    'resize',
]

Size = tuple[int, int]
#: Methods of resizing, by the library whose results they reproduce.
INTERPOLATIONS = {
    'cv2': ('nearest', 'bilinear', 'bicubic'),
    'pillow': ('nearest', 'bilinear', 'bicubic', 'box', 'lanczos', 'hamming'),
}

_PILLOW = {name: Image.Resampling[name.upper()] for name in INTERPOLATIONS['pillow']}


def read_image(
    source: str | os.PathLike[str] | np.ndarray | Image.Image, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Read an image as an RGB array.

    As in OpenCV, orientation tags are applied, transparency is dropped, grey becomes RGB,
    and 16 bits become 8. If a file has several images, the first one is read.

    Args:
        source: A file, a PIL image, or an array ``(H, W, 3)`` or ``(H, W)`` of uint8,
            in RGB.
        max_pixels: Largest number of pixels that a file or a PIL image may declare. It is
            checked before they are decoded. Default ``MAX_PIXELS``, 8192 x 8192.

    Raises:
        ImageError: If ``source`` is not an image, is damaged, is too large, or has pixels
            of unknown range.
    """
    if isinstance(source, np.ndarray):
        return _checked(source)
    if isinstance(source, Image.Image):
        check_pixels(source.height, source.width, max_pixels, 'an image')
        decode(source, 'an image')
        return _from_pillow(upright(source), 'an image')
    if not isinstance(source, (str, bytes, os.PathLike)):
        raise ImageError(
            f'an image is a {type(source).__name__}: must be a file, a PIL image or an array'
        )
    return _from_pillow(read_image_file(source, max_pixels), os.fsdecode(source))


def _checked(array: np.ndarray) -> np.ndarray:
    if array.dtype != np.uint8:
        raise ImageError(f'an image of {array.dtype}: must be uint8, 0 to 255')
    array = np.asarray(array)  # masked arrays and matrices have other arithmetic
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, 2)
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ImageError(f'an image of shape {array.shape}: must be (H, W, 3)')
    return array


def _from_pillow(image: Image.Image, name: str) -> np.ndarray:
    check_mode(image, name)
    if image.mode.startswith('I'):  # 16 bits, in a mode that PIL would clip
        return _checked((np.asarray(image) >> 8).astype(np.uint8))
    try:
        return _checked(np.asarray(image.convert('RGB')))
    except (OSError, ValueError) as error:
        raise ImageError(
            f'{name} has mode {image.mode!r}, which cannot be made RGB ({error})'
        ) from error


# resizing as in OpenCV ------------------------------------------------------------

#: OpenCV's bilinear weights are multiples of 1 / 2048.
_ONE = 2048
#: Number of pixels that are computed at a time.
_STRIP = 2**18


def _positions(old: int, new: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of new entries among the old ones: integer part and fraction."""
    where = ((np.arange(new) + 0.5) * (old / new) - 0.5).astype(np.float32)
    start = np.floor(where)
    return start.astype(int), where - start


def _weighted(image: np.ndarray, taps: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sum the rows ``taps`` of ``image`` times ``weights``, both ``(taps, new)``."""
    return sum(image[row] * weight[:, None, None] for row, weight in zip(taps, weights))


def _strips(rows: int, width: int) -> Iterator[slice]:
    """Yield parts of ``rows`` rows, so that intermediate results stay small."""
    step = max(_STRIP // max(width, 1), 1)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def _halved(image: np.ndarray) -> np.ndarray:
    height, width = (side // 2 for side in image.shape[:2])
    blocks = image.reshape(height, 2, width, 2, 3)
    total = blocks.sum((1, 3), dtype=np.uint16)
    return ((total + 2) >> 2).astype(np.uint8)


def _bilinear(image: np.ndarray, size: Size) -> np.ndarray:
    (height, width), (new_height, new_width) = image.shape[:2], size
    if (height, width) == (2 * new_height, 2 * new_width):  # OpenCV averages in this case
        return _halved(image)

    def linear(part: np.ndarray) -> np.ndarray:
        return np.rint(np.stack([1 - part, part]) * _ONE).astype(np.int32)

    start, part = _positions(width, new_width)
    part[(start < 0) | (start >= width - 1)] = 0
    columns = np.stack([start, start + 1]).clip(0, width - 1)
    across = linear(part)
    start, part = _positions(height, new_height)
    rows = np.stack([start, start + 1]).clip(0, height - 1)
    down = linear(part)
    result = np.empty((new_height, new_width, 3), np.uint8)
    for strip in _strips(new_height, max(width, new_width)):
        used, where = np.unique(rows[:, strip], return_inverse=True)
        wide = image[used].swapaxes(0, 1).astype(np.int32)
        wide = _weighted(wide, columns, across).swapaxes(0, 1) >> 4
        parts = [
            (wide[row] * weight[:, None, None]) >> 16
            for row, weight in zip(where.reshape(2, -1), down[:, strip])
        ]
        result[strip] = (parts[0] + parts[1] + 2) >> 2
    return result


def _cubic(part: np.ndarray) -> np.ndarray:
    """Return the four weights of a cubic convolution with OpenCV's parameter."""
    a = -0.75

    def far(x: np.ndarray) -> np.ndarray:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    def near(x: np.ndarray) -> np.ndarray:
        return ((a + 2) * x - (a + 3)) * x * x + 1

    part = part.astype(np.float64)
    return np.stack([far(1 + part), near(part), near(1 - part), far(2 - part)])


def _bicubic(image: np.ndarray, size: Size) -> np.ndarray:
    (rows, down), (columns, across) = (_cubic_taps(old, new) for old, new in zip(image.shape, size))
    result = np.empty((*size, 3), np.uint8)
    for strip in _strips(size[0], max(image.shape[1], size[1])):
        tall = _weighted(image, rows[:, strip], down[:, strip])
        wide = _weighted(tall.swapaxes(0, 1), columns, across).swapaxes(0, 1)
        result[strip] = np.rint(wide).clip(0, 255)
    return result


def _cubic_taps(old: int, new: int) -> tuple[np.ndarray, np.ndarray]:
    start, part = _positions(old, new)
    taps = (start + np.arange(-1, 3)[:, None]).clip(0, old - 1)
    return taps, _cubic(part)


def _nearest(image: np.ndarray, size: Size) -> np.ndarray:
    rows, columns = (
        # OpenCV divides twice; old / new can round to a neighbour
        np.minimum((np.arange(new) * (1 / (new / old))).astype(int), old - 1)
        for old, new in zip(image.shape, size)
    )
    return image[rows[:, None], columns]


_OPENCV = {'nearest': _nearest, 'bilinear': _bilinear, 'bicubic': _bicubic}


def resize(
    image: np.ndarray, size: Size, interpolation: str = 'bilinear', backend: str = 'cv2'
) -> np.ndarray:
    """Resize an image.

    Args:
        image: Array ``(H, W, 3)``.
        size: New height and width.
        interpolation: One of ``INTERPOLATIONS[backend]``. Default ``'bilinear'``.
        backend: ``'pillow'`` or ``'cv2'``. ``'cv2'`` gives OpenCV's result, bit for bit
            for bilinear and nearest, up to one grey level for bicubic. Default ``'cv2'``.
    """
    if image.shape[:2] == tuple(size):
        return image
    if backend == 'cv2':
        return _OPENCV[interpolation](image, size)
    pillow = Image.fromarray(image).resize(size[::-1], _PILLOW[interpolation])
    return np.asarray(pillow)


def pad_to(image: np.ndarray, size: Size, value: float | Sequence[float]) -> np.ndarray:
    """Pad ``(H, W, C)`` to ``size`` with ``value``, below and on the right."""
    if image.shape[:2] == tuple(size):
        return image
    result = np.empty((*size, image.shape[2]), image.dtype)
    result[:] = value
    result[: image.shape[0], : image.shape[1]] = image
    return result
