"""Opacity of images of any mode."""

from __future__ import annotations

import numpy as np
from PIL import Image

_WITH_ALPHA = ('LA', 'PA', 'RGBA', 'RGBa')


def opacity(image: Image.Image) -> Image.Image | None:
    """Return the opacity of every pixel, or None if the image says nothing about it.

    Args:
        image: Image with an alpha channel, with a transparent colour, or with neither.

    Returns:
        Image of 8 bits, from 0 (transparent) to 255 (opaque), of the same size.
    """
    clear = image.info.get('transparency')
    if image.mode not in _WITH_ALPHA and clear is None:
        return None
    if image.mode.startswith('I'):  # PIL does not convert a transparent grey of 16 bits
        return Image.fromarray(np.where(np.asarray(image) == clear, 0, 255).astype(np.uint8))
    return image.convert('RGBA').getchannel('A')
