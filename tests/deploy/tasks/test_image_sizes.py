"""Exports have the size that the test pipeline gives to images."""

import pytest
from mmengine.config import Config
from torch import nn

from mmesbnn.deploy import export, make_task
from mmesbnn.deploy.runtime.manifest import ExportError
from mmesbnn.deploy.tasks.image_sizes import check_image_size, padded
from mmesbnn.deploy.tasks.preprocessing import preprocessing_of

RESIZE = dict(type='Resize', scale=(32, 24))
WITHIN = dict(RESIZE, keep_ratio=True)
EDGE = dict(type='ResizeEdge', scale=32)
PIPELINES = [
    [RESIZE],
    [EDGE, dict(type='CenterCrop', crop_size=32)],
    [WITHIN, dict(type='Pad', size=(32, 24))],
    [WITHIN, dict(type='Pad', size_divisor=32)],
    [EDGE],
]


def config_of(pipeline):
    return Config(dict(model=dict(type='x'), test_pipeline=pipeline))


def classifier():
    return nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize('pipeline', PIPELINES, ids=str)
def test_sizes_below_all_images_are_refused(pipeline, tmp_path):
    task = make_task(config_of(pipeline), classifier(), size=(16, 20), count=1)
    with pytest.raises(ExportError, match=r'size=\(16, 20\).*would refuse every image'):
        export(task, tmp_path / 'net')


@pytest.mark.parametrize(
    ('pipeline', 'size'),
    [
        ([RESIZE], (24, 32)),
        ([WITHIN], (5, 7)),  # the runner shrinks images
        ([WITHIN, dict(type='Pad', pad_to_square=True)], (16, 32)),  # tall images fit
        ([EDGE], (32, 50)),
        ([dict(EDGE, edge='width')], (20, 40)),
        ([], (5, 7)),
    ],
    ids=str,
)
def test_sizes_that_some_images_fit(pipeline, size):
    check_image_size(preprocessing_of(config_of(pipeline)), size)


def test_the_default_is_the_padded_size():
    steps = [WITHIN, dict(type='Pad', size_divisor=32)]
    assert make_task(config_of(steps), classifier()).images.shape[2:] == (32, 32)
    assert padded(preprocessing_of(config_of([*steps, RESIZE])).steps, (5, 7)) == (5, 7)


def test_classifiers_that_read_padded_images_have_a_remark():
    cfg = config_of([RESIZE])
    (remark,) = make_task(cfg, classifier(), size=(24, 40), count=1).remarks
    assert remark.startswith('the test pipeline makes images of 24 x 32, which the runner pads')
    assert not make_task(cfg, classifier(), count=1).remarks
