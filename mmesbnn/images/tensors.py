"""Image files as uint8 RGB tensors, and back."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..optional import require
from ..whole_files import whole_file
from .files import MAX_PIXELS, check_mode, image_file_size, read_image_file

#: Endings of files that are taken for images, in lower case.
EXTENSIONS = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp', '.ppm')


def image_files(folder: str | os.PathLike[str]) -> list[Path]:
    """The images in a folder, not in those below it, sorted by name."""
    return sorted(
        path
        for path in Path(folder).iterdir()
        if path.suffix.lower() in EXTENSIONS and not path.name.startswith('.')
    )


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Height and width, from the file's header.

    Raises:
        ImageError: If it is not an image.
    """
    return image_file_size(path)


def read_rgb(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> Tensor:
    """Read an image as 8-bit RGB.

    Grey becomes three equal channels, transparency is dropped, 16 bits are rounded
    (grey) or cut (colour, which Pillow reads no better) to 8.

    Args:
        path: The file.
        max_pixels: How many pixels it may declare. Default: 8192 x 8192.

    Returns:
        uint8 ``(3, H, W)``.

    Raises:
        ImageError: If it is not an image, damaged, too large, or its pixels are floats.
    """
    image = read_image_file(path, max_pixels)
    check_mode(image, str(path))
    if image.mode.startswith('I'):  # 16 bits; convert() would clip them
        # the nearest multiple of 257, in integers
        grey = ((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8)
        pixels = np.repeat(grey[..., None], 3, axis=2)
    else:
        pixels = np.array(image.convert('RGB'))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def write_png(path: str | os.PathLike[str], image: Tensor, durable: bool = True) -> None:
    """Write ``image``, uint8 ``(3, H, W)``, as a PNG; the file appears whole.

    Args:
        path: The file; folders above are made.
        image: The pixels.
        durable: Whether it is on the disk then. Default True.

    Raises:
        OSError: If it cannot be written.
    """
    pillow = require('PIL.Image', 'sr', 'writing images')
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = image.permute(1, 2, 0).contiguous().cpu().numpy()
    with whole_file(path, durable=durable) as partial:
        pillow.fromarray(pixels).save(partial, format='png')


def to_uint8(image: Tensor) -> Tensor:
    """``floor(255 clamp(x, 0, 1) + 1/2)`` as uint8."""
    return torch.floor(image.clamp(0, 1) * 255 + 0.5).byte()
