"""Preparation of an image for a network."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .images import ImageError, Size, check_pixels, pad_to, read_image
from .manifest import ExportError
from .manifest_schema import Manifest
from .steps import Resize, ResizeWithin, Step, apply_steps, normalize, scale_of


class Seen(NamedTuple):
    """Image as the network reads it.

    Attributes:
        array: ``(3, H, W)`` of float32, normalized and padded.
        size: Height and width of the image in the array. They include the padding of
            pipeline steps, but not the padding after normalizing.
        original: The same height and width in pixels of the original image.
    """

    array: np.ndarray
    size: Size
    original: tuple[float, float]


class Preprocessor:
    """Preparation of images that a manifest describes.

    Args:
        manifest: Manifest of the export.
        name: Name of the export, for messages.
        max_pixels: Largest number of pixels of an image, before and after resizing and padding.
    """

    def __init__(self, manifest: Manifest, name: str, max_pixels: int) -> None:
        self.preprocessing, self.shape = manifest.preprocessing, manifest.image_shape
        self.name, self.max_pixels = name, max_pixels

    def __call__(self, source: Any) -> Seen:
        """Read, resize, normalize and pad an image.

        Raises:
            ImageError: If it is not an image, is too large, or is larger than the
                network's input.
            ExportError: If the network does not read images with 3 channels.
        """
        if self.shape[1] != 3:
            raise ExportError(
                f'{self.name}: takes {self.shape[1]} channels, but images have 3: '
                'use infer() with arrays'
            )
        image = read_image(source, self.max_pixels)
        height, width = image.shape[:2]
        image, scale = self._apply_steps(image)
        size = (image.shape[0], image.shape[1])
        target = self._target(size)
        if any(side > limit for side, limit in zip(size, target)):
            raise ImageError(
                f'an image of {height}x{width} becomes {size[0]}x{size[1]}, '
                f'but the network takes {target[0]}x{target[1]}: export it with '
                f'size={size} (--shape {size[0]} {size[1]})'
            )
        if -1 in self.shape[2:]:  # a divisor can make a narrow image large
            check_pixels(*target, self.max_pixels, f'an image of {width} x {height} after padding')
        image = normalize(image, self.preprocessing)
        image = pad_to(image, target, self.preprocessing.pad_value)
        array = np.ascontiguousarray(image.transpose(2, 0, 1))
        return Seen(array, size, (size[0] / scale[0], size[1] / scale[1]))

    def _target(self, size: Size) -> Size:
        """Return height and width of the network's input for images of a size."""
        divisor = self.preprocessing.pad_divisor
        height, width = (
            -(-side // divisor) * divisor if fixed == -1 else fixed
            for side, fixed in zip(size, self.shape[2:])
        )
        return height, width

    def _apply_steps(self, image: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
        """Return the image after the steps, and the factors by which its pixels grew.

        A detector's images keep their aspect ratio. If the network takes 600x1000 pixels,
        upright images become smaller than in the pipeline.
        """
        steps, limits = self.preprocessing.steps, self.shape[2:]
        shape = (image.shape[0], image.shape[1])
        result = apply_steps(image, steps, self.max_pixels)
        fits = all(a <= b for a, b in zip(result.shape, limits))
        last = last_change(steps)
        if last is None or -1 in limits or fits:
            return result, scale_of(shape, steps)
        height, width = shrunk(shape, (limits[0], limits[1]))
        warnings.warn(
            f'an image of {shape[0]}x{shape[1]} should become '
            f'{result.shape[0]}x{result.shape[1]}, but the network takes '
            f'{limits[0]}x{limits[1]}: the runner shrinks it to {height}x{width} '
            'instead',
            stacklevel=2,
        )
        step = steps[last]
        assert isinstance(step, ResizeWithin)
        smaller = Resize(
            size=(height, width), interpolation=step.interpolation, backend=step.backend
        )
        fewer = (smaller, *steps[last + 1 :])
        return apply_steps(image, fewer, self.max_pixels), scale_of(shape, fewer)


def shrunk(shape: Size, limits: Size) -> Size:
    """Return the largest height and width within ``limits`` with the aspect ratio of ``shape``."""
    scale = min(b / a for a, b in zip(shape, limits))
    height, width = (max(int(side * scale + 0.5), 1) for side in shape)
    return height, width


def last_change(steps: Sequence[Step]) -> int | None:
    """Return the index of the last step that is not padding; None if it changes the shape."""
    changes = [i for i, step in enumerate(steps) if step.TYPE != 'pad']
    return changes[-1] if changes and isinstance(steps[changes[-1]], ResizeWithin) else None
