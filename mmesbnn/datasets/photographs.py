"""Photographs of scikit-image and scikit-learn as a data set for super-resolution."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..checks import checked, positive_int
from ..images.bicubic import resize
from ..images.tensors import write_png
from ..optional import require
from ..whole_files import is_filled, whole_folder

#: Names in ``skimage.data`` for training, and other photographs for testing.
TRAIN = (
    'astronaut',
    'coffee',
    'rocket',
    'immunohistochemistry',
    'hubble_deep_field',
    'stereo_motorcycle',
)
TEST = ('chelsea', 'china', 'flower')
#: Side of the tiles of training photographs in pixels.
TILE = 120


def load_photograph(name: str) -> Tensor:
    """Load a photograph that ships in a library.

    Args:
        name: ``'china'`` or ``'flower'`` of scikit-learn, or a name in ``skimage.data``.

    Returns:
        The photograph, uint8 ``(3, H, W)``.

    Raises:
        ImportError: If the library is not installed.
    """
    if name in ('china', 'flower'):
        require('sklearn', 'demo')
        from sklearn.datasets import load_sample_image

        image = load_sample_image(f'{name}.jpg')
    else:
        require('skimage', 'demo')
        from skimage import data

        image = getattr(data, name)()
        image = image[0] if isinstance(image, tuple) else image  # the left image of a pair
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _tiles(image: Tensor, side: int) -> list[Tensor]:
    """Cut the image into squares; incomplete squares at the right and below are dropped."""
    rows = image.unfold(1, side, side).unfold(2, side, side)
    return list(rows.permute(1, 2, 0, 3, 4).flatten(0, 1))


def _middle(image: Tensor, side: int) -> Tensor:
    top, left = ((length - side) // 2 for length in image.shape[1:])
    return image[:, top : top + side, left : left + side]


@checked(scale=positive_int, test_size=positive_int)
def write_photographs(root: str | os.PathLike[str], scale: int = 2, test_size: int = 256) -> int:
    """Write six photographs for training and the centre of three others for testing.

    ``root/train/HR/astronaut_s001.png``, ... are tiles, because tiles are read faster than
    whole images; DF2K is often cut in this way, too. ``root/test/HR/china.png`` and
    ``root/test/LR_bicubic/X2/china.png`` have the layout of the benchmark sets.

    Args:
        root: Folder to write. If it holds photographs, it does not change.
        scale: Magnification. Default 2.
        test_size: Side of the test images, a multiple of ``scale``, at most 300.
            Default 256.

    Returns:
        Number of written photographs, 0 if they were there.

    Raises:
        ValueError: If ``test_size`` is not as described.
        OSError: If the folder cannot be written, another process was faster, or it holds something
            else.
        ImportError: If scikit-image or scikit-learn is missing.
    """
    if not scale <= test_size <= 300 or test_size % scale:
        raise ValueError(f'test_size={test_size} must be a multiple of scale={scale}, at most 300')
    root = Path(root)
    if is_filled(root, 'train'):
        return 0
    with whole_folder(root) as folder:
        for name in TRAIN:
            for i, tile in enumerate(_tiles(load_photograph(name), TILE)):
                path = folder / 'train' / 'HR' / f'{name}_s{i + 1:03}.png'
                write_png(path, tile, durable=False)  # the whole folder is flushed later
        for name in TEST:
            image = _middle(load_photograph(name), test_size)
            write_png(folder / 'test' / 'HR' / f'{name}.png', image, durable=False)
            small = resize(image, (test_size // scale, test_size // scale))
            lr = folder / 'test' / 'LR_bicubic' / f'X{scale}' / f'{name}.png'
            write_png(lr, small, durable=False)
    return len(TRAIN) + len(TEST)
