"""What a manifest may hold: types, ranges, and lengths that fit each other.

:mod:`mmesbnn.deploy.runtime.manifest` says what the entries mean. Needs Python alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .schema import (
    Digits,
    Either,
    Flag,
    Integer,
    Kind,
    ListOf,
    Maybe,
    Number,
    OneOf,
    Record,
    Tagged,
    Text,
    Unfit,
)

TASKS = ('classification', 'detection', 'super_resolution')
#: Files that make up the network; their sums are in the manifest.
MODEL_FILES = ('model.xml', 'model.bin')
#: How images are resized, by the library whose results are meant.
INTERPOLATIONS = {
    'cv2': ('nearest', 'bilinear', 'bicubic'),
    'pillow': ('nearest', 'bilinear', 'bicubic', 'box', 'lanczos', 'hamming'),
}

#: Bounds that no network here comes near. What they let in, a computer can hold.
_SIDE, _CHANNELS, _BATCH, _CLASSES = 2**16, 2**12, 2**12, 10**5
_ELEMENTS = 2**30

_SIZE = ListOf(Integer(1, _SIDE), 2, 2)
_GREY = Number(-(2.0**16), 2.0**16)
_SAMPLING: dict[str, Kind] = {
    'interpolation': OneOf(tuple(sorted(set(sum(INTERPOLATIONS.values(), ()))))),
    'backend': OneOf(tuple(INTERPOLATIONS)),
}
_COLOUR = Either(ListOf(Number(0, 255), 3, 3), Number(0, 255))
#: Kinds of the steps before normalising.
STEPS: dict[str, Record] = {
    'resize': Record({'size': _SIZE, **_SAMPLING}),
    'resize_within': Record({'size': _SIZE, **_SAMPLING}),
    'resize_edge': Record(
        {
            'edge': OneOf(('short', 'long', 'width', 'height')),
            'scale': Integer(1, _SIDE),
            **_SAMPLING,
        }
    ),
    'centre_crop': Record({'size': _SIZE}),
    'pad': Record(
        {'value': _COLOUR}, {'size': _SIZE, 'divisor': Integer(1, _SIDE), 'square': Flag()}
    ),
}
_PREPROCESSING = Record(
    {
        'steps': ListOf(Tagged('type', STEPS), 0, 100),
        'mean': ListOf(_GREY, 1, _CHANNELS),
        'std': ListOf(Number(0, 2.0**16, above=True), 1, _CHANNELS),
        'to_rgb': Flag(),
    },
    {'pad_divisor': Integer(1, 2**12), 'pad_value': _GREY},
)

_PORT = {'name': Text(1000, least=1), 'shape': ListOf(Integer(-1, 2**31), 1, 8)}
_CLASSIFICATION = Record({'activation': Maybe(OneOf(('softmax', 'sigmoid')))})
_CANDIDATES = Record(
    {'score_thr': Number(0, 1), 'iou_thr': Number(0, 1), 'max_per_image': Integer(-1, 10**6)},
    {
        'min_size': Number(-1, _SIDE),
        'levels': Maybe(ListOf(Integer(1, 2**31), 1, 1000)),
        'nms_pre': Maybe(Integer(-1, 2**31)),
        'max_per_class': Maybe(Integer(-1, 10**6)),
        'border': Maybe(Number(0, _SIDE)),
        'final': Flag(),
    },
)
_FINAL = Record({'final': Flag()})
_SCHEDULER = Record(
    {
        'alphas_cumprod': ListOf(Number(0, 1), 1, 10**5),
        'final_alpha_cumprod': Number(0, 1),
        'prediction_type': OneOf(('epsilon', 'sample', 'v_prediction')),
        'clip_sample_range': Maybe(Number(0, 1e6, above=True)),
        'steps_offset': Integer(0, 10**5),
        'num_inference_steps': Integer(1, 10**5),
    }
)
_SUPER_RESOLUTION = Record(
    {
        'scale': Integer(1, 64),
        'upsampling': OneOf(('matlab_bicubic',)),
        'multiple': Integer(1, 2**12),
        'x0_clip': OneOf(('data', 'scheduler')),
        'scheduler': _SCHEDULER,
    }
)
_NAME = Maybe(Text(4096))
_MANIFEST = Record(
    {
        'task': OneOf(TASKS),
        'inputs': ListOf(Record(_PORT, {'dtype': OneOf(('float32',))}), 1, 2),
        'outputs': ListOf(Record(_PORT), 1, 3),
        'preprocessing': _PREPROCESSING,
        'classes': Maybe(ListOf(Text(1000), 0, _CLASSES)),
        'decoding': Record(closed=False),
    },
    {
        'format': Integer(1, 1),
        'versions': Record(
            optional=dict.fromkeys(('mmesbnn', 'openvino', 'torch'), _NAME), closed=False
        ),
        'source': Record({'config': _NAME, 'checkpoint': _NAME}),
        'files': Record({name: Digits(64) for name in MODEL_FILES}),
    },
    closed=False,
)


def check_manifest(content: Mapping[str, Any]) -> None:
    """Check everything that a manifest says, one part against the other.

    Raises:
        Unfit: If an entry is missing, not of its kind, or contradicts another.
    """
    _MANIFEST.check(content, '')
    _check_steps(content['preprocessing'])
    _check_ports(content['inputs'], 'inputs')
    _check_ports(content['outputs'], 'outputs')
    {
        'classification': _check_classification,
        'detection': _check_detection,
        'super_resolution': _check_super_resolution,
    }[content['task']](content)


def _check_steps(preprocessing: Mapping[str, Any]) -> None:
    for i, step in enumerate(preprocessing['steps']):
        where = f'preprocessing.steps[{i}]'
        if 'backend' in step:
            known = OneOf(INTERPOLATIONS[step['backend']])
            known.check(step['interpolation'], f'{where}.interpolation')
        if step['type'] == 'pad':
            ways = [way for way in ('size', 'divisor', 'square') if step.get(way)]
            if not ways or ways == ['size', 'square']:
                raise Unfit(where, step, 'with one of size, divisor and square')
        if math.prod(step.get('size', ())) > _ELEMENTS // 16:
            raise Unfit(f'{where}.size', step['size'], 'of 67,108,864 pixels or fewer')
    mean, std = preprocessing['mean'], preprocessing['std']
    if len(mean) != len(std):
        raise Unfit('preprocessing.std', std, f'as long as mean, {len(mean)}')


def _check_ports(ports: Sequence[Mapping[str, Any]], where: str) -> None:
    names = [port['name'] for port in ports]
    if len(set(names)) < len(names):
        raise Unfit(where, names, 'named apart')
    for i, port in enumerate(ports):
        shape = port['shape']
        if 0 in shape or math.prod(map(abs, shape)) > _ELEMENTS:
            rule = f'a shape of 1 to {_ELEMENTS} elements, -1 being any size'
            raise Unfit(f'{where}[{i}].shape', shape, rule)


def _check_image(content: Mapping[str, Any], channels: int | None = None) -> None:
    """Check the input that takes images."""
    shape, where = content['inputs'][0]['shape'], 'inputs[0].shape'
    bounds = (_BATCH, _CHANNELS, _SIDE, _SIDE)
    if len(shape) != 4 or any(side > most for side, most in zip(shape, bounds)):
        raise Unfit(where, shape, f'(N, C, H, W) of at most {bounds}')
    if channels and shape[1] != channels:
        raise Unfit(where, shape, f'(N, {channels}, H, W)')
    mean = content['preprocessing']['mean']
    # images are RGB; a network of other channels is given arrays
    if channels is None and len(mean) not in (1, 3, shape[1]):
        raise Unfit('preprocessing.mean', mean, f'as long as the {shape[1]} channels')


def _check_counts(content: Mapping[str, Any], inputs: int, outputs: int) -> None:
    for name, count in (('inputs', inputs), ('outputs', outputs)):
        if len(content[name]) != count:
            names = [port['name'] for port in content[name]]
            raise Unfit(name, names, f'{count} for {content["task"]}')


def _check_classes(classes: Sequence[str] | None, count: int) -> None:
    if classes and count not in (-1, len(classes)):
        raise Unfit('classes', classes, f'{count} names, one for each output')


def _check_classification(content: Mapping[str, Any]) -> None:
    _check_counts(content, 1, 1)
    _check_image(content)
    _CLASSIFICATION.check(content['decoding'], 'decoding')
    shape = content['outputs'][0]['shape']
    if len(shape) != 2:
        raise Unfit('outputs[0].shape', shape, '(N, classes)')
    _check_classes(content['classes'], shape[1])


def _equal(sizes: Iterable[int]) -> bool:
    """Whether sizes can be the same, -1 being any."""
    return len({size for size in sizes if size != -1}) < 2


def _check_detection(content: Mapping[str, Any]) -> None:
    _check_counts(content, 1, len(content['outputs']))
    _check_image(content)
    shapes = {port['name']: port['shape'] for port in content['outputs']}
    final = content['decoding'].get('final') is True
    third = ('labels',) if final else ('factors',)
    needed = ('boxes', 'scores', *(third if final else ()))
    if not set(needed) <= set(shapes) <= {*needed, *third}:
        raise Unfit('outputs', list(shapes), f'{", ".join(needed)} for detection')
    ranks = {'boxes': (3,) if final else (3, 4), 'scores': (2,) if final else (3,)}
    for name, shape in shapes.items():
        if len(shape) not in ranks.get(name, (2,)):
            raise Unfit(f'outputs.{name}', shape, f'of rank {ranks.get(name, (2,))}')
    if shapes['boxes'][-1] not in (-1, 4):
        raise Unfit('outputs.boxes', shapes['boxes'], '(N, K, 4)')
    rows = [shape[1] for shape in shapes.values()]
    if not _equal(rows):
        raise Unfit('outputs', shapes, 'of as many boxes')
    if final:
        _FINAL.check(content['decoding'], 'decoding')
        return
    classes = shapes['scores'][2]
    if len(shapes['boxes']) == 4 and not _equal((shapes['boxes'][2], classes)):
        raise Unfit('outputs.boxes', shapes['boxes'], f'for the {classes} classes')
    _check_classes(content['classes'], classes)
    _check_candidates(content['decoding'], rows)


def _check_candidates(decoding: Mapping[str, Any], rows: Sequence[int]) -> None:
    _CANDIDATES.check(decoding, 'decoding')
    levels = decoding.get('levels')
    if levels and not _equal((sum(levels), *rows)):
        raise Unfit('decoding.levels', levels, f'the parts of {max(rows)} boxes')


def _check_super_resolution(content: Mapping[str, Any]) -> None:
    _check_counts(content, 2, 1)
    _check_image(content, 6)
    decoding, size = content['decoding'], content['inputs'][0]['shape'][2:]
    _SUPER_RESOLUTION.check(decoding, 'decoding')
    if len(content['inputs'][1]['shape']) != 1:
        raise Unfit('inputs[1].shape', content['inputs'][1]['shape'], '(N,)')
    shape = content['outputs'][0]['shape']
    if len(shape) != 4 or not _equal((3, shape[1])):
        raise Unfit('outputs[0].shape', shape, '(N, 3, H, W)')
    if any(side != -1 and side % decoding['multiple'] for side in size):
        raise Unfit('inputs[0].shape', size, f'multiples of {decoding["multiple"]}')
    if (size[0] == -1) != (size[1] == -1):
        raise Unfit('inputs[0].shape', size, 'open in height and width, or in neither')
    _check_scheduler(decoding)


def _check_scheduler(decoding: Mapping[str, Any]) -> None:
    scheduler = decoding['scheduler']
    levels, steps = scheduler['alphas_cumprod'], scheduler['num_inference_steps']
    if steps > len(levels):
        raise Unfit(
            'decoding.scheduler.num_inference_steps',
            steps,
            f'at most {len(levels)}, the length of alphas_cumprod',
        )
    if (steps - 1) * (len(levels) // steps) + scheduler['steps_offset'] >= len(levels):
        raise Unfit(
            'decoding.scheduler.steps_offset',
            scheduler['steps_offset'],
            f'such that {steps} steps end before {len(levels)}',
        )
    # the image is divided by the share of the signal, or of the noise
    divides = scheduler['prediction_type'] == 'epsilon'
    if divides and min(levels) <= 0:
        raise Unfit('decoding.scheduler.alphas_cumprod', min(levels), 'above 0')
    divides = scheduler['prediction_type'] == 'sample' or decoding['x0_clip'] == 'data'
    if divides and max(levels) >= 1:
        raise Unfit('decoding.scheduler.alphas_cumprod', max(levels), 'below 1')
