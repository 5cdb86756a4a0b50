"""From an image to the array that a network takes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .images import ImageError, Size, pad_to, read_image
from .manifest import ExportError
from .manifest_schema import Manifest
from .steps import Resize, ResizeWithin, Step, apply_steps, normalize, scale_of


class Seen(NamedTuple):
    """An image as the network sees it.

    Attributes:
        array: ``(3, H, W)`` of float32, normalised and padded.
        size: Height and width of the image in it: with what steps of the pipeline
            padded, without what was padded after normalising.
        original: The same in pixels of the image.
    """

    array: np.ndarray
    size: Size
    original: tuple[float, float]


class Preprocessor:
    """Makes arrays of images as a manifest describes.

    Args:
        manifest: The manifest.
        name: Name of the export, for messages.
        max_pixels: Most pixels of an image, as it is and resized.
    """

    def __init__(self, manifest: Manifest, name: str, max_pixels: int) -> None:
        self.preprocessing, self.shape = manifest.preprocessing, manifest.image_shape
        self.name, self.max_pixels = name, max_pixels

    def __call__(self, source: Any) -> Seen:
        """Read, resize, normalise and pad an image.

        Raises:
            ImageError: If it is not an image, too large, or does not fit into the
                network's input.
            ExportError: If the network does not take images of 3 channels.
        """
        if self.shape[1] != 3:
            raise ExportError(
                f'{self.name}: takes {self.shape[1]} channels, and images have 3: '
                'give arrays to infer()'
            )
        image = read_image(source, self.max_pixels)
        height, width = image.shape[:2]
        image, scale = self._apply_steps(image)
        size = (image.shape[0], image.shape[1])
        target = self._target(size)
        if any(side > limit for side, limit in zip(size, target)):
            raise ImageError(
                f'an image of {height}x{width} becomes {size[0]}x{size[1]}, '
                f'and the network takes {target[0]}x{target[1]}: export it with '
                f'--shape {size[0]} {size[1]}'
            )
        image = normalize(image, self.preprocessing)
        image = pad_to(image, target, self.preprocessing.pad_value)
        array = np.ascontiguousarray(image.transpose(2, 0, 1))
        return Seen(array, size, (size[0] / scale[0], size[1] / scale[1]))

    def _target(self, size: Size) -> Size:
        """Height and width of the network's input for images of a size."""
        divisor = self.preprocessing.pad_divisor
        height, width = (
            -(-side // divisor) * divisor if fixed == -1 else fixed
            for side, fixed in zip(size, self.shape[2:])
        )
        return height, width

    def _apply_steps(self, image: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
        """The image after the steps, and how much larger its pixels became.

        A detector's images keep their shape: if the network takes 600x1000 pixels,
        upright images get less than the pipeline would give them.
        """
        steps, limits = self.preprocessing.steps, self.shape[2:]
        shape = (image.shape[0], image.shape[1])
        result = apply_steps(image, steps, self.max_pixels)
        fits = all(a <= b for a, b in zip(result.shape, limits))
        last = _last_change(steps)
        if last is None or -1 in limits or fits:
            return result, scale_of(shape, steps)
        scale = min(b / a for a, b in zip(shape, limits))
        height, width = (max(int(side * scale + 0.5), 1) for side in shape)
        warnings.warn(
            f'an image of {shape[0]}x{shape[1]} should become '
            f'{result.shape[0]}x{result.shape[1]}, and the network takes '
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


def _last_change(steps: Sequence[Step]) -> int | None:
    """Index of the last step but padding, if it keeps the image's shape; None if not."""
    changes = [i for i, step in enumerate(steps) if step.TYPE != 'pad']
    return changes[-1] if changes and isinstance(steps[changes[-1]], ResizeWithin) else None
