"""Small difficult task with real images: find the image that a grey patch comes from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..checks import checked, natural, positive_int
from ..optional import require

#: Images that scikit-image and scikit-learn contain; each is a class.
PATCH_CLASSES = (
    'astronaut',
    'brick',
    'camera',
    'chelsea',
    'coffee',
    'coins',
    'grass',
    'gravel',
    'hubble_deep_field',
    'immunohistochemistry',
    'moon',
    'page',
    'retina',
    'stereo_motorcycle',
    'china.jpg',
    'flower.jpg',
)

#: Share of an image's width, from the left, for training patches.
TRAIN_SHARE = 0.6

#: Largest length of an image's shorter side in pixels.
LARGEST = 512


@dataclass(frozen=True)
class PatchTask:
    """Patches of both parts of the images.

    Attributes:
        train: ``(N, 1, size, size)``, float32.
        train_labels: ``(N,)``, indices of ``PATCH_CLASSES``.
        test: As ``train``.
        test_labels: As ``train_labels``.
    """

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


def load_grey(name: str) -> np.ndarray:
    """Load one of ``PATCH_CLASSES`` in grey levels, ``(H, W)`` float32 in [0, 1]."""
    from PIL import Image

    if name.endswith('.jpg'):
        from sklearn.datasets import load_sample_image

        pixels = load_sample_image(name)
    else:
        from skimage import data

        pixels = getattr(data, name)()
        pixels = pixels[0] if isinstance(pixels, tuple) else pixels
    image = Image.fromarray(pixels).convert('L')
    scale = LARGEST / min(image.size)
    if scale < 1:
        width, height = (round(side * scale) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.float32) / 255


def _cut(region: np.ndarray, count: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Cut ``count`` patches of ``region``, each with mean 0 and about unit deviation."""
    windows = np.lib.stride_tricks.sliding_window_view(region, (size, size))
    rows = rng.integers(windows.shape[0], size=count)
    columns = rng.integers(windows.shape[1], size=count)
    patches = windows[rows, columns]
    patches = patches - patches.mean((1, 2), keepdims=True)
    # the offset prevents that flat regions (sky) become noise
    return patches / (patches.std((1, 2), keepdims=True) + 0.02)


@checked(train_per_class=positive_int, test_per_class=positive_int, size=positive_int, seed=natural)
def patch_task(
    train_per_class: int = 128, test_per_class: int = 64, size: int = 32, seed: int = 0
) -> PatchTask:
    """Cut patches from 16 bundled photographs and textures.

    Training patches come from the left ``TRAIN_SHARE`` of their image, test patches from
    the rest, so no pixel is in both. Colour, brightness and contrast are removed, so only
    structure distinguishes the images.

    Args:
        train_per_class: Training patches per image. Default 128.
        test_per_class: Test patches per image. Default 64.
        size: Height and width of a patch in pixels. Default 32.
        seed: Seed of the places. Default 0.

    Returns:
        Task with training patches in random order.

    Raises:
        ValueError: If a number is not positive, or ``size`` larger than the parts.
        ImportError: If scikit-learn or scikit-image is missing.
    """
    for package in ('sklearn', 'skimage'):
        require(package, 'demo', 'The patch task')
    images = [load_grey(name) for name in PATCH_CLASSES]
    splits = [round(image.shape[1] * TRAIN_SHARE) for image in images]
    largest = min(
        min(image.shape[0], split, image.shape[1] - split) for image, split in zip(images, splits)
    )
    if size > largest:
        raise ValueError(f'size={size} must be at most {largest}, the smallest part')
    rng = np.random.default_rng(seed)

    def collect(parts: list[np.ndarray], count: int) -> tuple[Tensor, Tensor]:
        patches = np.stack([_cut(part, count, size, rng) for part in parts])
        labels = torch.arange(len(parts)).repeat_interleave(count)
        return torch.from_numpy(patches).flatten(0, 1).unsqueeze(1), labels

    lefts = [image[:, :split] for image, split in zip(images, splits)]
    rights = [image[:, split:] for image, split in zip(images, splits)]
    train, labels = collect(lefts, train_per_class)
    order = torch.from_numpy(rng.permutation(len(labels)))
    return PatchTask(train[order], labels[order], *collect(rights, test_per_class))
