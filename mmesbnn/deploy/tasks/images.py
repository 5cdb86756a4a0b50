"""Images for the comparison of an export with torch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from torch import Tensor, nn

from ...datasets.photographs import load_photograph
from ...project import InputError, input_shape, real_batch
from ..runtime.manifest import ExportError
from ..runtime.steps import Preprocessing, Step
from .image_sizes import padded

#: Photographs of scikit-image and, where it is not installed, of scikit-learn.
PHOTOGRAPHS = (('astronaut', 'chelsea', 'coffee', 'rocket'), ('china', 'flower'))


def _photographs() -> tuple[list[Tensor], str]:
    """Load photographs that ship in libraries, or draw noise; also return their name."""
    for names in PHOTOGRAPHS:
        with suppress(ImportError):
            return [load_photograph(name) for name in names], 'bundled photographs'
    generator = torch.Generator().manual_seed(0)
    shape = (3, 96, 96)
    options: Any = dict(generator=generator, dtype=torch.uint8, device='cpu')
    noise = [torch.randint(256, shape, **options) for _ in range(4)]
    return noise, 'images of random noise'


def photographs(
    shape: tuple[int, int, int], preprocessing: Preprocessing, count: int | None = None
) -> tuple[Tensor, str]:
    """Resize and normalise bundled photographs, or noise if no library has photographs.

    Args:
        shape: Channels, height and width.
        preprocessing: Its mean and standard deviation are used.
        count: Largest number of images. Default None: all.

    Returns:
        Images ``(N, C, H, W)``, and their name in reports.
    """
    channels, *size = shape
    found, name = _photographs()
    images = []
    for photograph in found[:count]:
        image = photograph[None].float()
        images.append(F.interpolate(image, size, mode='bilinear', antialias=True))
    x = torch.cat(images)
    mean, std = (
        x.new_tensor(values).view(1, -1, 1, 1) for values in (preprocessing.mean, preprocessing.std)
    )
    numbers = len(preprocessing.mean)
    if numbers not in (1, 3, channels):
        raise ExportError(
            f'data_preprocessor: mean and std have {numbers} numbers, and the network takes '
            f'{channels} channels'
        )
    if numbers not in (1, 3):  # one for each channel of other images than colour images
        x = _grey(x, channels)
    x = (x - mean) / std
    if x.shape[1] != channels:
        x = _grey(x, channels)
    return x, name


def _grey(x: Tensor, channels: int) -> Tensor:
    """Return the mean of the channels of images as each of ``channels``."""
    return x.mean(1, keepdim=True).expand(-1, channels, -1, -1)


def _test_images(cfg: Config, model: Any, shape: tuple[int, int, int], count: int) -> Tensor | None:
    """Return preprocessed images of the config's test data, None if there are none."""
    try:
        batch = real_batch(cfg, count)
        inputs = model.data_preprocessor(batch, False)['inputs']
    except (InputError, ImportError, OSError, RuntimeError, KeyError):
        return None
    if not isinstance(inputs, Tensor) or inputs.shape[1] != shape[0]:
        return None
    height, width = shape[1:]
    inputs = inputs.float()[..., :height, :width]
    padding = (0, width - inputs.shape[-1], 0, height - inputs.shape[-2])
    return F.pad(inputs, padding)


def shape_of(
    cfg: Config, size: Sequence[int] | None, multiple: int, steps: Sequence[Step] = ()
) -> tuple[int, int, int]:
    """Return channels, height and width of the images.

    Args:
        cfg: The config.
        size: Height and width. Default None: the config's, padded as by ``steps`` and rounded
            up to ``multiple``.
        multiple: Height and width are multiples of it.
        steps: Steps of the test pipeline. Default none.

    Raises:
        ExportError: If ``size`` is not.
    """
    channels, height, width = input_shape(cfg, (size[0], size[1]) if size else None)
    if size and (height % multiple or width % multiple):
        raise ExportError(f'size={(height, width)} (--shape): must be multiples of {multiple} here')
    if not size:
        height, width = padded(steps, (height, width))
    return channels, -(-height // multiple) * multiple, -(-width // multiple) * multiple


def images_of(
    cfg: Config,
    model: nn.Module,
    shape: tuple[int, int, int],
    count: int,
    preprocessing: Preprocessing,
) -> tuple[Tensor, str]:
    """Return test images of the config, or else photographs or noise, and their name."""
    images = _test_images(cfg, model, shape, count)
    if images is not None:
        return images[:count], 'test images of the config'
    return photographs(shape, preprocessing, count)
