"""Hooks and counts with a student and a teacher, as in mmdet's SoftTeacher."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch.nn.modules.batchnorm import _BatchNorm

pytest.importorskip('mmdet')
pytest.importorskip('mmcv._ext', reason='needs mmcv with compiled operators')

import mmdet
from mmdet.structures import DetDataSample

from mmesbnn.analysis import count_ops, load_weights, measure_capacity, most_regions
from mmesbnn.engine.hooks import ClassCountHook, CopyInitHook
from mmesbnn.engine.hooks.require_checkpoint import check_fit
from mmesbnn.engine.tensor_mode import tensor_mode

CONFIGS = Path(mmdet.__file__).parent / '.mim' / 'configs'
CONFIG = 'soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py'
SIZE = (64, 64)


@pytest.fixture
def model():
    """Return a narrow SoftTeacher with drop-in layers."""
    cfg = Config.fromfile(CONFIGS / CONFIG)
    narrow = {
        'model.detector.backbone.base_channels': 4,
        'model.detector.backbone.depth': 18,
        'model.detector.backbone.conv_cfg': dict(type='ESConv2d', tau=2),
        'model.detector.backbone.init_cfg': None,
        'model.detector.neck.in_channels': [4, 8, 16, 32],
        'model.detector.roi_head.bbox_head.num_classes': 3,
        'model.detector.test_cfg.rpn.max_per_img': 20,
    }
    cfg.merge_from_dict(narrow)
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(cfg.model)


def batch():
    """Return two images as the loader gives them: one with labels, one without."""
    image = torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8)
    sample = DetDataSample(metainfo=dict(img_shape=SIZE, ori_shape=SIZE, scale_factor=(1.0, 1.0)))
    return {
        key: dict(sup=[None, x], unsup_teacher=[x, None], unsup_student=[x, None])
        for key, x in (('inputs', image), ('data_samples', sample))
    }


def gains(network):
    return [m.weight.detach().clone() for m in network.modules() if isinstance(m, _BatchNorm)]


def start(model):
    logger = SimpleNamespace(info=lambda text: None)
    CopyInitHook().before_train_iter(
        SimpleNamespace(model=model, iter=0, logger=logger), 0, batch()
    )


def test_the_teacher_gets_the_gains_of_its_student(model):
    model.teacher.load_state_dict(model.student.state_dict())
    start(model)
    student, teacher = gains(model.student), gains(model.teacher)
    assert any((x < 0).any() for x in student)
    assert all(map(torch.equal, student, teacher))


def test_a_trained_teacher_stays(model):
    for norm in model.teacher.modules():
        if isinstance(norm, _BatchNorm):
            torch.nn.init.uniform_(norm.weight, 1, 2)
    before = gains(model.teacher)
    start(model)
    assert all(map(torch.equal, before, gains(model.teacher)))


def test_capacities_are_those_of_the_student(model):
    found = measure_capacity(model, tensor_mode(model, batch()), positions=64)
    assert found and all(layer.name.startswith('student.') for layer in found)


def test_classes_of_both_are_compared(model):
    loader = SimpleNamespace(dataset=SimpleNamespace(metainfo={'classes': ('a', 'b')}))
    runner = SimpleNamespace(model=model, train_dataloader=loader)
    text = r'num_classes=3 in the student\.roi_head\.bbox_head, but .* has 2 classes: a, b'
    with pytest.raises(ValueError, match=text):
        ClassCountHook().before_train(runner)


def test_operations_of_the_teacher_are_counted_on_all_regions(model):
    regions, arguments = most_regions(model, (3, *SIZE))
    assert regions == 20
    layers = {layer.name: layer for layer in count_ops(model, (3, *SIZE), **arguments).layers}
    assert layers['teacher.roi_head.bbox_head.fc_cls'].fp_macs == 20 * 1024 * 4
    assert layers['student.roi_head.bbox_head.fc_cls'].fp_macs == 0


def test_both_load_a_plain_detector(model, tmp_path):
    state = {name: torch.rand_like(x.float()) for name, x in model.student.state_dict().items()}
    counters = {name: torch.tensor(3) for name in state if name.endswith('num_batches_tracked')}
    state.update(counters)
    torch.save(state, tmp_path / 'plain.pth')
    load_weights(model, tmp_path / 'plain.pth')
    for network in (model.student, model.teacher):
        assert all(torch.equal(x, state[name]) for name, x in network.state_dict().items())
    runner = SimpleNamespace(model=model)
    check_fit(runner, dict(state_dict=state))
    state.popitem()
    with pytest.raises(ValueError, match=r'2 are missing \(student\..*, teacher\.'):
        check_fit(runner, dict(state_dict=state))
