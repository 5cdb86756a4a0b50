"""What a config says about using its network, for the manifest of an export."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from mmengine.config import Config

from ...project import class_names, deployed_config, testing_pipeline, type_name
from ..runtime.images import INTERPOLATIONS
from ..runtime.manifest import ExportError

#: Transforms of a test pipeline that do nothing to the pixels.
_SILENT = ('LoadImageFromFile', 'LoadAnnotations', 'PackInputs', 'PackDetInputs', 'ToTensor')


def _pair(value: Any) -> list[int]:
    """Height and width of OpenMMLab's int or (width, height)."""
    width, height = (value, value) if isinstance(value, int) else value
    return [height, width]


def _sampling(transform: Mapping[str, Any]) -> dict[str, str]:
    """How a transform resizes."""
    backend = transform.get('backend', 'cv2')
    interpolation = transform.get('interpolation', 'bilinear')
    if interpolation not in INTERPOLATIONS.get(backend, ()):
        raise ExportError(
            f'{type_name(transform["type"])}: interpolation={interpolation!r} with '
            f'backend={backend!r} is not one of {INTERPOLATIONS}'
        )
    return {'interpolation': interpolation, 'backend': backend}


def _resize(transform: Mapping[str, Any]) -> dict[str, Any]:
    if 'scale' not in transform:
        raise ExportError(f'Resize without a scale is not supported: {transform}')
    kept = transform.get('keep_ratio', False)
    size = _pair(transform['scale'])
    kind = 'resize_within' if kept else 'resize'
    return {'type': kind, 'size': size, **_sampling(transform)}


def _resize_edge(transform: Mapping[str, Any]) -> dict[str, Any]:
    edge, scale = transform.get('edge', 'short'), transform['scale']
    return {'type': 'resize_edge', 'edge': edge, 'scale': scale, **_sampling(transform)}


def _centre_crop(transform: Mapping[str, Any]) -> dict[str, Any]:
    if transform.get('auto_pad'):
        raise ExportError('CenterCrop with auto_pad is not supported')
    return {'type': 'centre_crop', 'size': _pair(transform['crop_size'])}


def _pad_value(transform: Mapping[str, Any]) -> float | list[float]:
    """What is put around the image: a grey, or red, green and blue."""
    value = transform.get('pad_val', 0)
    value = value.get('img', 0) if isinstance(value, Mapping) else value
    if isinstance(value, int):
        return value
    # the pipeline's channels are blue, green, red; for mmcv a float is of blue alone
    channels = [value, 0, 0] if isinstance(value, float) else value
    if not isinstance(channels, (list, tuple)) or len(channels) != 3:
        raise ExportError(f'Pad: pad_val={value!r} must be a number or three')
    return list(channels[::-1])


def _pad(transform: Mapping[str, Any]) -> dict[str, Any]:
    if transform.get('padding_mode', 'constant') != 'constant':
        raise ExportError(
            f"Pad: padding_mode={transform['padding_mode']!r} is not supported, only 'constant'"
        )
    step: dict[str, Any] = {'type': 'pad', 'value': _pad_value(transform)}
    if transform.get('pad_to_square'):
        step['square'] = True
    if transform.get('size_divisor'):
        step['divisor'] = transform['size_divisor']
    elif transform.get('size'):
        step['size'] = _pair(transform['size'])
    if len(step) == 2:
        raise ExportError(f'Pad without a size is not supported: {transform}')
    return step


_TRANSFORMS = {
    'Resize': _resize,
    'ResizeEdge': _resize_edge,
    'CenterCrop': _centre_crop,
    'Pad': _pad,
}


def steps_of(pipeline: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The steps of a manifest that do what a test pipeline does.

    Raises:
        ExportError: If a transform has no such step.
    """
    steps = []
    for transform in pipeline:
        name = type_name(transform['type'])
        if name in _TRANSFORMS:
            steps.append(_TRANSFORMS[name](transform))
        elif name not in _SILENT:
            raise ExportError(
                f'the transform {name} of the test pipeline is not supported; known '
                f'are {", ".join(_TRANSFORMS)}'
            )
    return steps


def _preprocessing(cfg: Config) -> dict[str, Any]:
    pipeline = testing_pipeline(cfg)
    if not pipeline:
        warnings.warn(
            'the config has no test pipeline: images enter the network as they are', stacklevel=3
        )
    data = deployed_config(cfg).get('data_preprocessor') or {}
    # one of the two, if at all: both exchange the channels of a BGR image
    swapped = ('to_rgb', 'bgr_to_rgb', 'rgb_to_bgr')
    return {
        'steps': steps_of(pipeline),
        'mean': list(data.get('mean') or (0.0, 0.0, 0.0)),
        'std': list(data.get('std') or (1.0, 1.0, 1.0)),
        'to_rgb': any(data.get(name, False) for name in swapped),
        'pad_divisor': data.get('pad_size_divisor', 1),
        'pad_value': data.get('pad_value', 0),
    }


def _classification(cfg: Config) -> dict[str, Any]:
    head = type_name((cfg.model.get('head') or {}).get('type', ''))
    return {'activation': 'sigmoid' if head.startswith('MultiLabel') else 'softmax'}


def _border(head: Mapping[str, Any] | list) -> int | None:
    """How far from the image's right and lower side boxes end; None: they need not."""
    coder = (head.get('bbox_coder') if isinstance(head, Mapping) else None) or {}
    if not coder.get('clip_border', True):
        return None
    # whose sides are x_2 - x_1 + 1
    return int(type_name(coder.get('type', '')).startswith('Legacy'))


def _check_places(cfg: Config) -> None:
    """Refuse what moves an image: neither mmdet nor the runner moves boxes back."""
    if any(type_name(transform['type']) == 'CenterCrop' for transform in testing_pipeline(cfg)):
        raise ExportError(
            'CenterCrop in the test pipeline of a detector is not supported: boxes '
            'would not be where the objects are'
        )


def _detection(cfg: Config) -> dict[str, Any]:
    _check_places(cfg)
    test = cfg.model.get('test_cfg') or {}
    head = (cfg.model.get('roi_head') or cfg.model).get('bbox_head') or {}
    # on proposals, mmdet does not ask for a size
    least = -1 if test.get('rcnn') else test.get('min_bbox_size', -1)
    test = test.get('rcnn') or test
    nms = test.get('nms') or {}
    if nms.get('type', 'nms') != 'nms':
        raise ExportError(f'nms type {nms["type"]!r} is not supported, only plain nms')
    return {
        'score_thr': test.get('score_thr', 0.05),
        'iou_thr': nms.get('iou_threshold', 0.5),
        'max_per_image': test.get('max_per_img', 100),
        'min_size': least,
        'levels': None,
        'nms_pre': test.get('nms_pre'),
        'max_per_class': test.get('max_per_class'),
        'border': _border(head),
    }


def describe(cfg: Config, dataset_meta: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """``task``, ``preprocessing``, ``classes`` and ``decoding`` of a manifest.

    For configs of mmpretrain and mmdet; :func:`describe_pipeline` is for diffusion.
    ``levels`` of a detector's ``decoding`` are left to the exporter, who knows sizes.

    Args:
        cfg: A config.
        dataset_meta: That of the checkpoint, for the names of classes. Default None.

    Raises:
        ExportError: If the test pipeline or the detector's ``test_cfg`` has something
            that the runner cannot do.
    """
    detector = cfg.get('default_scope') == 'mmdet'
    return {
        'task': 'detection' if detector else 'classification',
        'preprocessing': _preprocessing(cfg),
        'classes': class_names(cfg, dataset_meta),
        'decoding': _detection(cfg) if detector else _classification(cfg),
    }


def describe_pipeline(pipeline: Any, num_inference_steps: int = 50) -> dict[str, Any]:
    """The same for a :class:`mmesbnn.diffusion.SRDiffusionPipeline`.

    Args:
        pipeline: The pipeline whose UNet is exported.
        num_inference_steps: Steps that the runner makes unless told. Default 50.

    Raises:
        ExportError: If its scheduler is not DDIM with evenly leading timesteps.
    """
    from ...diffusion.pipeline import size_factor

    scheduler = pipeline.scheduler
    config, name = scheduler.config, type(scheduler).__name__
    if name != 'DDIMScheduler' or config.timestep_spacing != 'leading':
        raise ExportError(
            f'scheduler={name} with timestep_spacing={config.timestep_spacing!r}: the '
            "runner knows DDIMScheduler with 'leading' only"
        )
    decoding = {
        'scale': pipeline.config.scale,
        'upsampling': 'matlab_bicubic',
        'multiple': size_factor(pipeline.unet),
        'x0_clip': pipeline.config.x0_clip,
        'scheduler': {
            'alphas_cumprod': scheduler.alphas_cumprod.tolist(),
            'final_alpha_cumprod': float(scheduler.final_alpha_cumprod),
            'prediction_type': config.prediction_type,
            'clip_sample_range': config.clip_sample_range if config.clip_sample else None,
            'steps_offset': config.steps_offset,
            'num_inference_steps': num_inference_steps,
        },
    }
    # the images themselves are enlarged, not resized or normalised
    preprocessing = {'steps': [], 'mean': [0.0] * 3, 'std': [255.0] * 3, 'to_rgb': True}
    return {
        'task': 'super_resolution',
        'preprocessing': preprocessing,
        'classes': None,
        'decoding': decoding,
    }
