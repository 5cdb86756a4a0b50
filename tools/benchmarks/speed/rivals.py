"""Real-valued networks that users deploy today, in OpenVINO: in full precision and in int8.

Their weights are random, because times do not depend on them. So the accuracy of the int8
form, which depends on them, is not checked here.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

from mmesbnn.analysis.lifelike import lifelike
from mmesbnn.datasets.crops import PHOTOGRAPHS
from mmesbnn.datasets.photographs import load_photograph

from .forms import float_graph

Shape = tuple[int, int, int]


def rival(name: str, shape: Shape) -> nn.Module:
    """Return a network of mmpretrain with random weights.

    No bias is 0, as in a trained network. OpenVINO would leave out the addition of zeros, and
    NNCF would then take the next addition, as that of a hard sigmoid, for the bias.

    Args:
        name: Name in mmpretrain.
        shape: Channels, height and width of an image.
    """
    from mmpretrain import get_model

    torch.manual_seed(0)
    model = get_model(name, pretrained=False)
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return lifelike(model, torch.randn(2, *shape))


def photograph_crops(shape: Shape, mean: Tensor, std: Tensor) -> Tensor:
    """Cut all bundled photographs into images, and normalise these.

    Args:
        shape: 3, height and width of an image. Incomplete images at the right and below are
            dropped.
        mean: Mean of the colours, ``(3, 1, 1)``.
        std: Their deviation, ``(3, 1, 1)``.

    Returns:
        The images ``(N, 3, H, W)``, photograph by photograph, row by row.
    """
    _, height, width = shape
    crops = []
    for name in PHOTOGRAPHS:
        cells = load_photograph(name).float().unfold(1, height, height).unfold(2, width, width)
        crops.append(cells.permute(1, 2, 0, 3, 4).flatten(0, 1))
    return (torch.cat(crops) - mean) / std


def int8_graph(name: str, shape: Shape) -> Any:
    """Convert a network of mmpretrain to OpenVINO in int8.

    NNCF quantizes it after training, as its users do by default: symmetric ranges of weights
    and activations from real images, and the fast correction of biases.

    Args:
        name: Name in mmpretrain.
        shape: Channels, height and width of an image.
    """
    import nncf

    nncf.set_log_level(logging.ERROR)
    model = rival(name, shape)
    norm = model.data_preprocessor
    images = photograph_crops(shape, norm.mean, norm.std)
    data = nncf.Dataset([image[None].numpy() for image in images])
    return nncf.quantize(float_graph(model, shape), data, subset_size=len(images))
