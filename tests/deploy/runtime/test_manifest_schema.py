"""Manifests with contradictions are refused; all others are accepted."""

import copy
import json

import pytest

from mmesbnn.deploy.runtime.manifest_schema import Manifest
from mmesbnn.deploy.runtime.schema import Unfit
from tests.deploy.exports import DETECTION, diffusion_decoding, preprocessing

RESIZE = dict(type='resize', size=[8, 8], interpolation='bilinear', backend='cv2')


def port(name, *shape):
    return {'name': name, 'shape': list(shape)}


MANIFESTS = {
    'classification': dict(
        task='classification',
        inputs=[port('image', -1, 3, 8, 8)],
        outputs=[port('logits', -1, 2)],
        preprocessing=preprocessing(RESIZE),
        classes=['cat', 'dog'],
        decoding={'activation': 'softmax'},
    ),
    'detection': dict(
        task='detection',
        inputs=[port('image', 1, 3, -1, -1)],
        outputs=[port('boxes', 1, 12, 4), port('scores', 1, 12, 2), port('factors', 1, 12)],
        preprocessing=preprocessing(dict(type='pad', divisor=32, value=[1, 2, 3])),
        classes=['cat', 'dog'],
        decoding=dict(DETECTION, levels=[8, 4], nms_pre=5),
    ),
    'boxes of every class': dict(
        task='detection',
        inputs=[port('image', 1, 3, 8, 8)],
        outputs=[port('boxes', 1, 12, 2, 4), port('scores', 1, 12, 2)],
        preprocessing=preprocessing(),
        classes=None,
        decoding=DETECTION,
    ),
    'final': dict(
        task='detection',
        inputs=[port('image', 1, 3, 8, 8)],
        outputs=[port('boxes', 1, -1, 4), port('scores', 1, -1), port('labels', 1, 9)],
        preprocessing=preprocessing(),
        classes=['cat'],
        decoding={'final': True},
    ),
    'super_resolution': dict(
        task='super_resolution',
        classes=None,
        decoding=diffusion_decoding(),
        inputs=[port('sample', -1, 6, 16, 16), port('timestep', -1)],
        outputs=[port('noise', -1, 3, 16, 16)],
        preprocessing=preprocessing(),
    ),
}


@pytest.mark.parametrize('kind', MANIFESTS)
def test_what_the_exporters_write(kind):
    manifest = Manifest.from_dict(MANIFESTS[kind])
    assert Manifest.from_dict({**MANIFESTS[kind], 'remarks': 'of a later version'}) == manifest
    assert Manifest.from_dict(json.loads(json.dumps(manifest.to_dict()))) == manifest


def changed(kind, path, value):
    """Return a manifest with the entry at ``path`` replaced, or removed (``...``)."""
    content = copy.deepcopy(MANIFESTS[kind])
    *above, last = path
    place = content
    for key in above:
        place = place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return content


CLS, DET, SR = 'classification', 'detection', 'super_resolution'
STEP = ('preprocessing', 'steps', 0)
SCHEDULER = ('decoding', 'scheduler')
LEVELS = [0.9] * 10


@pytest.mark.parametrize(
    ('kind', 'path', 'value', 'words'),
    [
        (CLS, ('task',), ..., 'must be a dict with task'),
        (CLS, ('inputs',), {}, 'inputs={} must be a list'),
        (CLS, ('inputs', 0, 'shape'), [1, 3, 0, 8], r'inputs\[0\].shape'),
        (CLS, ('inputs', 0, 'shape'), [1, 3, 10**8, 8], r'inputs\[0\].shape'),
        (CLS, ('inputs', 0, 'shape'), [1, 3, 8], r'inputs\[0\].shape.*\(N, C, H, W\)'),
        (CLS, ('inputs', 0, 'dtype'), 'float64', 'dtype'),
        (CLS, ('outputs',), [port('a', 1, 2)] * 2, 'outputs=.*different names'),
        (CLS, ('outputs',), [port('a', 1, 2), port('b', 1)], '1 for classification'),
        (CLS, ('outputs', 0, 'shape'), [1, 2, 7], r'outputs\[0\].shape'),
        (CLS, ('classes',), ['cat'], '2 names, one for each output'),
        (CLS, ('classes', 0), 'ca\x1b[2Jt', 'without control characters'),
        (CLS, ('preprocessing', 'mean'), [0.0, 1.0], 'std.*as long as mean, 2'),
        (CLS, ('preprocessing', 'std', 1), 0.0, r'std\[1\]=0.0 must be a number from 1e-30'),
        (CLS, ('preprocessing', 'std', 1), 1e-308, r'std\[1\]=1e-308 must be a number from'),
        (CLS, ('preprocessing', 'to_rgb'), 1, 'true or false'),
        (CLS, ('preprocessing', 'padding'), 1, 'must be left out'),
        (CLS, ('preprocessing', 'pad_divisor'), 0, 'pad_divisor=0'),
        (CLS, STEP, dict(type='twirl'), 'type'),
        (CLS, (*STEP, 'size'), [0, 8], 'size'),
        (CLS, (*STEP, 'size'), [60000, 60000], '67,108,864 pixels'),
        (CLS, (*STEP, 'edge'), 'short', 'must be left out'),
        (CLS, (*STEP, 'interpolation'), 'lanczos', 'nearest, bilinear, bicubic'),
        (CLS, STEP, dict(type='pad', value=0), 'size, divisor and square'),
        (CLS, ('decoding', 'activation'), 'tanh', 'activation'),
        (CLS, ('files',), {'../../etc/passwd': '0' * 64}, 'model.xml'),
        (CLS, ('versions',), {'openvino': [1]}, 'versions.openvino'),
        (DET, ('decoding', 'score_thr'), 1.5, 'score_thr'),
        (DET, ('decoding', 'iou_thr'), float('nan'), 'iou_thr=nan'),
        (DET, ('decoding', 'levels'), [8, 8], 'parts of 12 boxes'),
        (DET, ('decoding', 'max_per_image'), None, 'max_per_image'),
        (DET, ('decoding', 'nms'), 'soft', 'must be left out'),
        (DET, ('outputs', 1, 'shape'), [1, 11, 2], 'as many boxes'),
        (DET, ('outputs', 0, 'shape'), [1, 12, 5], r'\(N, K, 4\)'),
        (DET, ('outputs', 0, 'name'), 'box', 'boxes, scores'),
        (DET, ('classes',), ['cat'], '2 names'),
        ('boxes of every class', ('outputs', 0, 'shape'), [1, 12, 3, 4], '2 classes'),
        ('final', ('decoding', 'score_thr'), 0.5, 'must be left out'),
        (SR, ('inputs', 0, 'shape'), [1, 3, 16, 16], 'must be'),
        (SR, ('inputs', 0, 'shape'), [1, 6, 12, 16], 'multiples of 8'),
        (SR, ('inputs', 0, 'shape'), [1, 6, -1, 16], 'in neither'),
        (SR, ('decoding', 'scale'), 10**6, 'scale'),
        (SR, (*SCHEDULER, 'prediction_type'), 'x', 'prediction_type'),
        (SR, (*SCHEDULER, 'alphas_cumprod'), [], 'alphas_cumprod'),
        (SR, (*SCHEDULER, 'alphas_cumprod'), [*LEVELS, 0.0], 'at least 1e-30'),
        (SR, (*SCHEDULER, 'alphas_cumprod'), [*LEVELS, 1e-300], 'at least 1e-30'),
        (SR, (*SCHEDULER, 'alphas_cumprod'), [1.0, *LEVELS], 'below 1'),
        (SR, (*SCHEDULER, 'num_inference_steps'), 101, 'at most 100'),
        (SR, (*SCHEDULER, 'steps_offset'), 60, '5 steps end before 100'),
    ],
)
def test_what_is_refused(kind, path, value, words):
    with pytest.raises(Unfit, match=words):
        Manifest.from_dict(changed(kind, path, value))
