"""Conversion of images of many types to RGB tensors in [0, 1]."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..images.opacity import opacity

#: Divisors of integer images.
_LARGEST = {torch.uint8: 255, torch.uint16: 65535}


def _from_pil(image: Image.Image) -> Tensor:
    """Convert to ``(C, H, W)``; 16-bit grey images keep their bits."""
    alpha = opacity(image)
    if alpha is not None and np.asarray(alpha).min(initial=255) < 255:
        raise ValueError(
            f'image has mode {image.mode!r} and transparent pixels, which would be lost: put it '
            'on a background, or remove its transparency'
        )
    if image.mode == 'F':
        raise ValueError("image has mode 'F', whose range is not known: give an array in [0, 1]")
    if image.mode.startswith('I'):  # Pillow's mode of 16-bit PNGs
        pixels = np.asarray(image).astype(np.int64)
        if pixels.min() < 0 or pixels.max() > 65535:
            raise ValueError(
                f'image has mode {image.mode!r} and values from {pixels.min()} to '
                f'{pixels.max()}: values must have 16 bits, 0 to 65535'
            )
        return torch.from_numpy(pixels.astype(np.float32) / 65535)[None]
    return torch.from_numpy(np.array(image.convert('RGB'))).permute(2, 0, 1)


def _in_unit_range(image: Tensor) -> Tensor:
    """Convert to floats in [0, 1]; integers are divided by their largest value."""
    if image.dtype in _LARGEST:
        return image.to(torch.float32) / _LARGEST[image.dtype]
    if not image.is_floating_point():
        raise ValueError(f'image has dtype {image.dtype}: give uint8, uint16 or floats in [0, 1]')
    if image.numel():
        low, high = image.min().item(), image.max().item()
        if not (low >= 0 and high <= 1):
            raise ValueError(f'image has values from {low:g} to {high:g}: floats must be in [0, 1]')
    return image


def _as_colour(image: Tensor) -> Tensor:
    """Convert ``(..., C, H, W)`` with one or three channels to three channels."""
    if image.shape[-3] not in (1, 3):
        raise ValueError(
            f'image has {image.shape[-3]} channels: grey (1) and RGB (3) can be '
            'upscaled; drop an alpha channel first'
        )
    return image.expand(*image.shape[:-3], 3, *image.shape[-2:])


def _one(image: Any) -> Tensor:
    """Convert one image to ``(C, H, W)``, or an array of a batch to ``(N, C, H, W)``."""
    if isinstance(image, Image.Image):
        return _in_unit_range(_from_pil(image))
    if isinstance(image, np.ndarray):
        if image.ndim not in (2, 3, 4):
            raise ValueError(
                f'image has shape {image.shape}: arrays are (H, W), (H, W, C) or (N, H, W, C)'
            )
        if image.dtype.kind not in 'fui':
            raise ValueError(
                f'image has dtype {image.dtype}: give uint8, uint16 or floats in [0, 1]'
            )
        native = image.astype(image.dtype.newbyteorder('='), copy=False)
        array = torch.from_numpy(np.ascontiguousarray(native))
        array = array[..., None] if array.dim() == 2 else array
        return _in_unit_range(array.movedim(-1, -3))
    if isinstance(image, Tensor):
        if image.dim() not in (2, 3, 4):
            raise ValueError(
                f'image has shape {tuple(image.shape)}: tensors are (H, W), (C, H, W) '
                'or (N, C, H, W)'
            )
        return _in_unit_range(image[None] if image.dim() == 2 else image)
    raise ValueError(
        f'image is a {type(image).__name__}: give a PIL image, an array, a tensor or a list of them'
    )


def to_tensor(image: Any) -> Tensor:
    """Convert images to a tensor.

    Args:
        image: PIL image of any mode, also 16-bit grey; array ``(H, W)``, ``(H, W, C)`` or
            ``(N, H, W, C)``; tensor ``(H, W)``, ``(C, H, W)`` or ``(N, C, H, W)``; or a
            list of these. Integers must have 8 or 16 bits; floats must be in [0, 1]. A
            single channel is repeated three times.

    Returns:
        Tensor ``(N, 3, H, W)`` in [0, 1], of a floating dtype.

    Raises:
        ValueError: If ``image`` is none of these, has transparent pixels or no pixels, or
            if the images of a list differ in size.
    """
    if isinstance(image, (list, tuple)):
        parts = [to_tensor(x) for x in image]
        sizes = sorted({f'{x.shape[-1]}x{x.shape[-2]}' for x in parts})
        if len(sizes) != 1:
            if not sizes:
                raise ValueError('image=[]: the list must have at least one image')
            raise ValueError(
                f'the images of the list have the sizes {", ".join(sizes)}: all images of a '
                'batch must have the same size; give others one by one'
            )
        return torch.cat(parts)
    found = _as_colour(_one(image))
    if not found.numel():
        raise ValueError(f'image has shape {tuple(found.shape)}: it has no pixels')
    return found if found.dim() == 4 else found[None]
