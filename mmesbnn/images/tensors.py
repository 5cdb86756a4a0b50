"""Conversion between image files and uint8 RGB tensors."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..optional import require
from ..whole_files import whole_file
from .files import MAX_PIXELS, check_mode, image_file_size, read_image_file

#: Endings of image files, in lower case.
EXTENSIONS = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp', '.ppm')


def image_files(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the images in a folder, without subfolders, sorted by name."""
    return sorted(
        path
        for path in Path(folder).iterdir()
        if path.suffix.lower() in EXTENSIONS and not path.name.startswith('.')
    )


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Read height and width from the file's header.

    Raises:
        ImageError: If it is not an image.
    """
    return image_file_size(path)


def read_rgb(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> Tensor:
    """Read an image as 8-bit RGB.

    Grey becomes three equal channels, and transparency is dropped. 16 bits of grey images
    are rounded to 8. 16 bits of colour images are cut to 8, because Pillow reads no more.

    Args:
        path: File to read.
        max_pixels: Largest number of pixels that it may declare. Default 8192 x 8192.

    Returns:
        uint8 ``(3, H, W)``.

    Raises:
        ImageError: If it is not an image, is damaged, is too large, or has float pixels.
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
    """Write ``image``, uint8 ``(3, H, W)``, as a PNG; the file appears complete or not at all.

    Args:
        path: File to write; missing folders are created.
        image: Pixels.
        durable: Whether to flush the file to the disk. Default True.

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
    """Compute ``floor(255 clamp(x, 0, 1) + 1/2)`` as uint8."""
    return torch.floor(image.clamp(0, 1) * 255 + 0.5).byte()
