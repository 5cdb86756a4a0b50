"""Preprocessing of a config's test images, as the steps of a manifest."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from mmengine.config import Config

from ...project import (
    deployed_config,
    gives_rgb,
    input_channels,
    reads_rgb,
    testing_pipeline,
    type_name,
)
from ..runtime.images import INTERPOLATIONS, Size, pad_to
from ..runtime.manifest import ExportError, fitting
from ..runtime.steps import (
    CentreCrop,
    Pad,
    Preprocessing,
    Resize,
    ResizeEdge,
    ResizeWithin,
    ResizingStep,
    Step,
    normalize,
)

#: Transforms of a test pipeline that do nothing to the pixels.
_SILENT = ('LoadImageFromFile', 'LoadAnnotations', 'PackInputs', 'PackDetInputs', 'ToTensor')


def _pair(value: Any) -> Size:
    """Return height and width of OpenMMLab's int or (width, height)."""
    width, height = (value, value) if isinstance(value, int) else value
    return height, width


def _sampling(transform: Mapping[str, Any]) -> dict[str, str]:
    """Return the interpolation and the backend of a transform."""
    backend = transform.get('backend', 'cv2')
    interpolation = transform.get('interpolation', 'bilinear')
    if interpolation not in INTERPOLATIONS.get(backend, ()):
        raise ExportError(
            f'{type_name(transform["type"])}: interpolation={interpolation!r} with '
            f'backend={backend!r} is not one of {INTERPOLATIONS}'
        )
    return {'interpolation': interpolation, 'backend': backend}


def _resize(transform: Mapping[str, Any]) -> Step:
    if 'scale' not in transform:
        raise ExportError(f'Resize without a scale is not supported: {transform}')
    kind = ResizeWithin if transform.get('keep_ratio', False) else Resize
    return kind(size=_pair(transform['scale']), **_sampling(transform))


def _resize_edge(transform: Mapping[str, Any]) -> Step:
    edge, scale = transform.get('edge', 'short'), transform['scale']
    return ResizeEdge(edge=edge, scale=scale, **_sampling(transform))


def _centre_crop(transform: Mapping[str, Any]) -> Step:
    if transform.get('auto_pad'):
        raise ExportError('CenterCrop with auto_pad is not supported')
    return CentreCrop(size=_pair(transform['crop_size']))


def _pad_value(transform: Mapping[str, Any]) -> float | tuple[float, float, float]:
    """Return the padded value: a grey, or red, green and blue."""
    value = transform.get('pad_val', 0)
    value = value.get('img', 0) if isinstance(value, Mapping) else value
    if isinstance(value, int):
        return value
    # the pipeline's order of channels is blue, green, red; mmcv applies a float to blue only
    channels = [value, 0, 0] if isinstance(value, float) else value
    if not isinstance(channels, (list, tuple)) or len(channels) != 3:
        raise ExportError(f'Pad: pad_val={value!r} must be a number or three')
    blue, green, red = channels
    return red, green, blue


def _pad(transform: Mapping[str, Any]) -> Step:
    if transform.get('padding_mode', 'constant') != 'constant':
        raise ExportError(
            f"Pad: padding_mode={transform['padding_mode']!r} is not supported, only 'constant'"
        )
    options: dict[str, Any] = {}
    if transform.get('pad_to_square'):
        options['square'] = True
    if transform.get('size_divisor'):
        options['divisor'] = transform['size_divisor']
    elif transform.get('size'):
        options['size'] = _pair(transform['size'])
    if not options:
        raise ExportError(f'Pad without a size is not supported: {transform}')
    return Pad(value=_pad_value(transform), **options)


def _check_colours(transform: Mapping[str, Any], channels: int) -> None:
    """Refuse a way to decode files that is not the runner's, for networks that read files."""
    colours = transform.get('color_type', 'color')
    if channels == 3 and colours != 'color':
        raise ExportError(
            f"LoadImageFromFile: color_type={colours!r} is not supported, only 'color'"
        )


def _check_rounding(steps: Iterable[Step]) -> None:
    """Refuse steps that give fractions of grey levels if an image holds floats."""
    for step in steps:
        if isinstance(step, ResizingStep) and step.interpolation != 'nearest':
            raise ExportError(
                'LoadImageFromFile: to_float32=True is not supported before a resize: the '
                'runner resizes images of 8 bits'
            )


#: Functions that make the step of a transform.
_TRANSFORMS: dict[str, Callable[[Mapping[str, Any]], Step]] = {
    'Resize': _resize,
    'ResizeEdge': _resize_edge,
    'CenterCrop': _centre_crop,
    'Pad': _pad,
}


def steps_of(pipeline: Iterable[Mapping[str, Any]], channels: int = 3) -> tuple[Step, ...]:
    """Return the steps of a manifest that do what a test pipeline does.

    Args:
        pipeline: Transforms of a config.
        channels: Channels that the network takes; the runner reads files for 3. Default 3.

    Raises:
        ExportError: If a transform has no such step.
    """
    steps: list[Step] = []
    floats = False
    for transform in pipeline:
        name = type_name(transform['type'])
        if name == 'LoadImageFromFile':
            _check_colours(transform, channels)
            floats = bool(transform.get('to_float32'))
        if name in _TRANSFORMS:
            with fitting(f'the test pipeline: {name}'):
                steps.append(_TRANSFORMS[name](transform))
        elif name not in _SILENT:
            raise ExportError(
                f'the transform {name} of the test pipeline is not supported; known '
                f'are {", ".join(_TRANSFORMS)}'
            )
    if floats:
        _check_rounding(steps)
    return tuple(steps)


def preprocessing_of(cfg: Config) -> Preprocessing:
    """Return what the test pipeline and the data preprocessor of a config do.

    Raises:
        ExportError: If the runner cannot do it.
    """
    pipeline = testing_pipeline(cfg)
    if not pipeline:
        warnings.warn(
            'the config has no test pipeline: images enter the network as they are', stacklevel=3
        )
    data = deployed_config(cfg).get('data_preprocessor') or {}
    with fitting('the data preprocessor'):
        return Preprocessing(
            steps=steps_of(pipeline, input_channels(cfg)),
            mean=tuple(data.get('mean') or (0.0, 0.0, 0.0)),
            std=tuple(data.get('std') or (1.0, 1.0, 1.0)),
            to_rgb=reads_rgb(cfg, data),
            pad_divisor=data.get('pad_size_divisor', 1),
            pad_value=data.get('pad_value', 0),
        )


def check_preprocessor(cfg: Config, model: Any, preprocessing: Preprocessing) -> None:
    """Compare the inputs that a model's data preprocessor makes of an image with the runner's.

    Args:
        cfg: Config of the data.
        model: Network of OpenMMLab. Others have no data preprocessor.
        preprocessing: What the runner does.

    Raises:
        ExportError: If they differ, because the class is another one or changes images further.
    """
    data, divisor = getattr(model, 'data_preprocessor', None), preprocessing.pad_divisor
    if data is None or len(preprocessing.mean) not in (1, 3):
        return
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    given = image if gives_rgb(cfg) else image[..., ::-1]
    pixels = torch.from_numpy(given.transpose(2, 0, 1).copy())
    try:
        theirs = data({'inputs': [pixels]}, False)['inputs'][0].float().numpy()
    except Exception:  # of a user, or for data of another form
        return
    size = (-(-9 // divisor) * divisor, -(-7 // divisor) * divisor)
    ours = pad_to(normalize(image, preprocessing), size, preprocessing.pad_value)
    ours = ours.transpose(2, 0, 1)
    if ours.shape != theirs.shape or not np.allclose(ours, theirs, rtol=1e-4, atol=1e-4):
        raise ExportError(
            f'the data preprocessor {type(data).__name__} makes other inputs of an image than the '
            'runner, which only orders channels, subtracts mean, divides by std and pads'
        )
