"""Preprocessing of images: the steps of a manifest, and normalizing after them.

Images are arrays ``(H, W, 3)`` of uint8, RGB; sizes are (height, width).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .images import INTERPOLATIONS, MAX_PIXELS, Size, check_pixels, pad_to, resize
from .schema import (
    LEAST_DIVISOR,
    Either,
    Flag,
    Integer,
    Kind,
    ListOf,
    Number,
    OneOf,
    Part,
    Tagged,
    Unfit,
    entry,
)

#: Largest number of pixels of a side.
SIDE = 2**16
#: Largest number of channels of an image.
CHANNELS = 2**12
#: Largest number of pixels in the size of a step.
_PIXELS = 2**26

_LENGTH: Kind = Integer(1, SIDE)
_SIZE: Kind = ListOf(_LENGTH, 2, 2)
_GREY: Kind = Number(-(2.0**16), 2.0**16)
_COLOUR: Kind = Either(ListOf(Number(0, 255), 3, 3), Number(0, 255))
_METHODS: Kind = OneOf(tuple(sorted(set(sum(INTERPOLATIONS.values(), ())))))


def _check_size(size: Size | None) -> None:
    if size is not None and math.prod(size) > _PIXELS:
        raise Unfit('size', size, f'of {_PIXELS:,} pixels or fewer')


@dataclass(frozen=True, kw_only=True)
class Step(Part):
    """Base of the steps before normalizing."""

    #: Name of the step in a manifest.
    TYPE: ClassVar[str]
    #: Whether the step changes the size of pixels.
    RESIZES: ClassVar[bool] = False

    def size_of(self, shape: Size) -> Size:
        """Return the size of the result for an image of height and width ``shape``."""
        raise NotImplementedError

    def apply(self, image: np.ndarray, size: Size) -> np.ndarray:
        """Return the result, of size ``size``."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Return the step for JSON."""
        return {'type': self.TYPE, **super().to_dict()}


@dataclass(frozen=True, kw_only=True)
class ResizingStep(Step):
    """Base of steps that resize.

    Attributes:
        interpolation: One of ``INTERPOLATIONS[backend]``.
        backend: Library whose results the step reproduces.
    """

    RESIZES = True

    interpolation: str = entry(_METHODS)
    backend: str = entry(OneOf(tuple(INTERPOLATIONS)))

    def check_relations(self) -> None:
        OneOf(INTERPOLATIONS[self.backend]).check(self.interpolation, 'interpolation')

    def apply(self, image: np.ndarray, size: Size) -> np.ndarray:
        return resize(image, size, self.interpolation, self.backend)


@dataclass(frozen=True, kw_only=True)
class Resize(ResizingStep):
    """Step that resizes to ``size``."""

    TYPE = 'resize'

    size: Size = entry(_SIZE)

    def check_relations(self) -> None:
        super().check_relations()
        _check_size(self.size)

    def size_of(self, shape: Size) -> Size:
        return self.size


@dataclass(frozen=True, kw_only=True)
class ResizeWithin(ResizingStep):
    """Step that resizes to the largest image that fits into ``size``, same aspect ratio.

    ``size`` limits the longer and the shorter edge, so it also applies to images with the
    other orientation.
    """

    TYPE = 'resize_within'

    size: Size = entry(_SIZE)

    def check_relations(self) -> None:
        super().check_relations()
        _check_size(self.size)

    def size_of(self, shape: Size) -> Size:
        sides, limits = sorted(shape), sorted(self.size)
        scale = min(limits[1] / sides[1], limits[0] / sides[0])
        height, width = (int(side * scale + 0.5) for side in shape)
        return max(height, 1), max(width, 1)


@dataclass(frozen=True, kw_only=True)
class ResizeEdge(ResizingStep):
    """Step that resizes one edge to ``scale`` pixels and keeps the aspect ratio."""

    TYPE = 'resize_edge'

    edge: str = entry(OneOf(('short', 'long', 'width', 'height')))
    scale: int = entry(_LENGTH)

    def size_of(self, shape: Size) -> Size:
        height, width = shape
        by_width = {'short': width < height, 'long': width > height}
        if by_width.get(self.edge, self.edge == 'width'):
            size = int(self.scale * height / width), self.scale
        else:
            size = self.scale, int(self.scale * width / height)
        return max(size[0], 1), max(size[1], 1)


@dataclass(frozen=True, kw_only=True)
class CentreCrop(Step):
    """Step that crops the centre."""

    TYPE = 'centre_crop'

    size: Size = entry(_SIZE)

    def check_relations(self) -> None:
        _check_size(self.size)

    def size_of(self, shape: Size) -> Size:
        return min(shape[0], self.size[0]), min(shape[1], self.size[1])

    def apply(self, image: np.ndarray, size: Size) -> np.ndarray:
        top, left = (max(0, round((b - a) / 2)) for a, b in zip(size, image.shape))
        return image[top : top + size[0], left : left + size[1]]


@dataclass(frozen=True, kw_only=True)
class Pad(Step):
    """Step that pads below and on the right: to a size, to multiples, or to a square.

    Attributes:
        value: A grey, or red, green and blue.
        size: Smallest height and width of the result.
        divisor: Height and width of the result are multiples of this number.
        square: Whether to pad both sides to the longer one, before ``divisor``.
    """

    TYPE = 'pad'

    value: float | tuple[float, float, float] = entry(_COLOUR)
    size: Size | None = entry(_SIZE, default=None)
    divisor: int | None = entry(_LENGTH, default=None)
    square: bool = entry(Flag(), default=False)

    def check_relations(self) -> None:
        ways = [way for way in ('size', 'divisor', 'square') if getattr(self, way)]
        if not ways or ways == ['size', 'square']:
            raise Unfit('', self.to_dict(), 'with one of size, divisor and square')
        _check_size(self.size)

    def size_of(self, shape: Size) -> Size:
        height, width = (max(shape), max(shape)) if self.square else shape
        if self.divisor is not None:
            divisor = self.divisor
            return -(-height // divisor) * divisor, -(-width // divisor) * divisor
        if self.size is not None:
            return max(height, self.size[0]), max(width, self.size[1])
        return height, width

    def apply(self, image: np.ndarray, size: Size) -> np.ndarray:
        return pad_to(image, size, self.value)


#: Steps by their names in a manifest.
STEPS: dict[str, type[Step]] = {
    step.TYPE: step for step in (Resize, ResizeWithin, ResizeEdge, CentreCrop, Pad)
}
_STEP_LIST = ListOf(Tagged('type', STEPS), 0, 100)


def read_steps(content: Sequence[Mapping[str, Any]], where: str = 'steps') -> tuple[Step, ...]:
    """Read the steps of a manifest.

    Args:
        content: One dict per step.
        where: Place of the steps, for messages. Default 'steps'.

    Raises:
        Unfit: If a step is unknown or wrong.
    """
    return _STEP_LIST.read(content, where)


@dataclass(frozen=True, kw_only=True)
class Preprocessing(Part):
    """Settings of all preprocessing of an image.

    Attributes:
        steps: Steps on uint8.
        mean: Mean of each channel, in the network's order of channels.
        std: Standard deviation of each channel.
        to_rgb: Whether the order of channels is red, green, blue. If not, it is blue,
            green, red.
        pad_divisor: The normalized image is padded to multiples of this number.
        pad_value: Value of the padding.
    """

    steps: tuple[Step, ...] = entry(_STEP_LIST)
    mean: tuple[float, ...] = entry(ListOf(_GREY, 1, CHANNELS))
    std: tuple[float, ...] = entry(ListOf(Number(LEAST_DIVISOR, 2.0**16), 1, CHANNELS))
    to_rgb: bool = entry(Flag())
    pad_divisor: int = entry(Integer(1, 2**12), default=1)
    pad_value: float = entry(_GREY, default=0)

    def check_relations(self) -> None:
        if len(self.mean) != len(self.std):
            raise Unfit('std', self.std, f'as long as mean, {len(self.mean)}')


def apply_steps(
    image: np.ndarray, steps: Sequence[Step], max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Apply the steps of a manifest to an image, which stays uint8.

    Args:
        image: Array ``(H, W, 3)``.
        steps: Steps to apply.
        max_pixels: Largest number of pixels of a result. Default ``MAX_PIXELS``.

    Raises:
        ImageError: If the image becomes too large. This can happen to a narrow image whose
            shorter side is enlarged.
    """
    for step in steps:
        height, width = image.shape[:2]
        size = step.size_of((height, width))
        check_pixels(*size, max_pixels, f'an image of {width} x {height} after {step.TYPE}')
        image = step.apply(image, size)
    return image


def scale_of(shape: Size, steps: Sequence[Step]) -> tuple[float, float]:
    """Return the factors by which the steps enlarge the pixels of an image.

    Args:
        shape: Height and width of the image.
        steps: Steps of a manifest. Padding and cropping do not change the size of pixels.
    """
    scale = (1.0, 1.0)
    for step in steps:
        size = step.size_of(shape)
        if step.RESIZES:
            scale = scale[0] * size[0] / shape[0], scale[1] * size[1] / shape[1]
        shape = size
    return scale


def normalize(image: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Compute ``(x - mean) / std`` in float32, ``HWC``, in the network's channel order."""
    if not preprocessing.to_rgb:
        image = image[..., ::-1]
    result = image.astype(np.float32)
    result -= np.asarray(preprocessing.mean, np.float32)
    result /= np.asarray(preprocessing.std, np.float32)
    return result
