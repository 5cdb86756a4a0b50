"""Scikit-learn's scanned digits as an image folder in ImageNet's layout."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ..checks import checked, integer, number
from ..optional import require
from ..whole_files import is_filled, whole_folder


# scikit-learn takes no larger seed
@checked(val_share=number(above=0, below=1), seed=integer(0, 2**32 - 1))
def write_digits(root: str | os.PathLike[str], val_share: float = 0.3, seed: int = 0) -> int:
    """Write the 1,797 digits as ``root/{train,val}/<class>/<number>.png``.

    Every image is an unchanged scan of 8x8 pixels, with grey levels 0-16 scaled to 0-255.
    The split keeps the classes' shares. The folder appears complete or not at all.

    Args:
        root: Folder to write. If it holds digits, it does not change.
        val_share: Share of the images held out for validation. Default 0.3.
        seed: Seed of the split. Default 0.

    Returns:
        Number of written images, 0 if they were there.

    Raises:
        ValueError: If ``val_share`` is not between 0 and 1.
        OSError: If the folder cannot be written, another process was faster, or it
            holds something else.
        ImportError: If scikit-learn is missing.
    """
    require('sklearn', 'demo')
    from PIL import Image
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    root = Path(root)
    if is_filled(root, 'train'):
        return 0
    digits = load_digits()
    indices = np.arange(len(digits.target))
    train, val = train_test_split(
        indices, test_size=val_share, random_state=seed, stratify=digits.target
    )
    with whole_folder(root) as whole:
        for split, chosen in (('train', train), ('val', val)):
            for index in chosen:
                folder = whole / split / str(digits.target[index])
                folder.mkdir(parents=True, exist_ok=True)
                grey = (digits.images[index] * (255 / 16)).round().astype(np.uint8)
                Image.fromarray(grey).save(folder / f'{index:04d}.png')
    return len(indices)
