"""An export finds the boxes that mmdet finds, or it is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from torch import nn

pytest.importorskip('mmdet')
pytest.importorskip('mmcv.ops')
pytest.importorskip('openvino')

import mmdet
from mmengine.registry import init_default_scope

from mmesbnn.analysis import build_model
from mmesbnn.deploy.output_agreement import compare_all
from mmesbnn.deploy.runtime.detection_decoding import DetectionDecoding
from mmesbnn.deploy.runtime.manifest import ExportError
from mmesbnn.deploy.tasks.detector_check import Boxes, check_boxes, contained, same_scores
from mmesbnn.deploy.tasks.detector_graphs import detector_graph
from mmesbnn.deploy.tasks.make import make_task
from tests.deploy.runtime.test_detection import PIPELINE

CONFIGS = Path(mmdet.__file__).parent / '.mim' / 'configs'
SIZE = (96, 128)


def without_downloads(config):
    if isinstance(config, dict):
        config.pop('init_cfg', None)
        for value in config.values():
            without_downloads(value)


def stock(name, slim=True):
    """Build a detector of mmdet with a narrow backbone and statistics of noise."""
    cfg = Config.fromfile(next(iter(sorted(CONFIGS.glob(f'{name}*.py')))))
    without_downloads(cfg.model)
    if slim:
        cfg.merge_from_dict(
            {
                'model.backbone.depth': 18,
                'model.backbone.base_channels': 8,
                'model.neck.in_channels': [8, 16, 32, 64],
            }
        )
    cfg.test_dataloader = dict(dataset=dict(type='CocoDataset', pipeline=PIPELINE))
    init_default_scope('mmdet')
    model = build_model(cfg)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    for part in ('cls', 'rpn_cls', 'reg', 'fc'):
        for key, module in model.named_modules():
            if f'{part}' in key.rpartition('.')[2] and hasattr(module, 'weight'):
                with torch.no_grad():
                    module.weight.mul_(0.1)
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model.extract_feat(torch.randn(2, 3, *SIZE))
    return cfg, model.eval()


@pytest.mark.slow
@pytest.mark.parametrize(
    'name',
    [
        'retinanet/retinanet_r18_fpn_1x',
        'fcos/fcos_r50-caffe_fpn_gn-head_1x',
        'atss/atss_r50_fpn_1x',
        'fsaf/fsaf_r50_fpn_1x',
        'vfnet/vfnet_r50_fpn_1x',
        'free_anchor/freeanchor_r50_fpn_1x',
        'autoassign/autoassign_r50',
        'faster_rcnn/faster-rcnn_r50_fpn_1x',
    ],
)
def test_boxes_are_those_of_predict(name):
    cfg, model = stock(name)
    task = make_task(cfg, model, SIZE, 2)
    remark, of_shape = task.remarks
    assert f"mmdet's only for images that fill {SIZE[0]} x {SIZE[1]} pixels" in of_shape
    same, _, most = remark.split()[:3]
    assert int(same) >= 0.9 * int(most) > 10, remark


@pytest.mark.slow
@pytest.mark.parametrize(
    'name, slim, words',
    [
        ('foveabox/fovea_r50_fpn_4xb4-1x', True, 'FOVEA with FoveaHead .*it decodes'),
        ('paa/paa_r50_fpn_1x', True, 'PAA with PAAHead is not exported: it decodes'),
        ('tood/tood_r50_fpn_1x', True, 'TOOD with TOODHead .*it decodes'),
        ('gfl/gfl_r50_fpn_1x', True, r'GFL with GFLHead is not exported: its outputs .* level$'),
        ('yolo/yolov3_mobilenetv2_8xb24-320', False, 'YOLOV3 with YOLOV3Head .*its out'),
    ],
)
def test_heads_with_ways_of_their_own_are_refused(name, slim, words):
    cfg, model = stock(name, slim)
    with pytest.raises(ExportError, match=words):
        make_task(cfg, model, SIZE, 2)


@pytest.mark.parametrize(
    'name, told',
    [
        ('fast_rcnn/fast-rcnn_r50_fpn_1x', 'FastRCNN is not exported: it takes proposals from'),
        ('groie/faste-rcnn_r50_fpn_groie', 'FasterRCNN .*: GenericRoIExtractor of RoIAlign is not'),
        ('cascade_rpn/cascade-rpn_faster', 'FasterRCNN .*: CascadeRPNHead has no anchors of a'),
        ('panoptic_fpn/panoptic-fpn_r50_fpn_1x', '^masks are not exported, only boxes$'),
    ],
)
def test_parts_of_other_kinds_are_refused_by_name(name, told):
    cfg = Config.fromfile(next(iter(sorted(CONFIGS.glob(f'{name}*.py')))))
    without_downloads(cfg.model)
    init_default_scope('mmdet')
    with pytest.raises(ExportError, match=told):
        make_task(cfg, build_model(cfg).eval(), SIZE, 1)


def test_images_that_the_detector_itself_does_not_take():
    cfg, model = stock('retinanet/retinanet_r18_fpn_1x')

    def refuse(features):
        raise RuntimeError('the maps are too small')

    model.bbox_head.forward = refuse
    words = r'RetinaHead itself does not predict .* 96 x 128 pixels \(the maps are too small\)$'
    with pytest.raises(ExportError, match=words):
        make_task(cfg, model, SIZE, 1)


def test_a_detector_in_half_precision():
    cfg, model = stock('retinanet/retinanet_r18_fpn_1x')
    with pytest.raises(ExportError, match=r'^the network has weights of torch.float16: must be'):
        make_task(cfg, model.half(), SIZE, 1)


def test_the_thresholds_of_the_detector_stay():
    cfg, model = stock('retinanet/retinanet_r18_fpn_1x')
    before = dict(model.bbox_head.test_cfg)
    make_task(cfg, model, SIZE, 1)
    assert dict(model.bbox_head.test_cfg) == before


@pytest.mark.parametrize('scope', [None, 'mmpretrain'])
def test_a_detector_in_a_config_of_another_scope(scope):
    cfg, model = stock('retinanet/retinanet_r18_fpn_1x')
    cfg.default_scope = scope
    cfg.model.type = 'mmdet.RetinaNet'
    assert make_task(cfg, model, SIZE, 1).RUNNER.NAME == 'detection'


@pytest.mark.slow
def test_suppressed_proposals_are_zero():
    _, model = stock('faster_rcnn/faster-rcnn_r50_fpn_1x')
    model.test_cfg.rpn.nms.iou_threshold = 0.3
    graph = detector_graph(model)
    with torch.no_grad():
        boxes, scores = graph(torch.randn(1, 3, *SIZE))
    suppressed = (scores[0] == 0).all(-1)
    assert 0 < suppressed.sum() < len(suppressed)
    assert (boxes[0][suppressed] == 0).all() and (boxes[0][~suppressed] != 0).any()
    # rows may have any order
    order = torch.randperm(boxes.shape[1])
    ours = [[boxes[:, order].numpy(), scores[:, order].numpy()]]
    agreements = compare_all(
        'x', ('boxes', 'scores'), ours, [[boxes.numpy(), scores.numpy()]], True
    )
    assert all(agreement.equal == 1 for agreement in agreements)


def boxes(*rows):
    array = np.array(rows, np.float32).reshape(-1, 6)
    return Boxes(array[:, :4], array[:, 4], array[:, 5].astype(int))


def test_what_counts_as_the_same_box():
    found = boxes([0, 0, 10, 10, 0.5, 1])
    for candidate, count in [
        ([0, 0, 10.1, 10, 0.5, 1], 1),
        ([0, 0, 11, 10, 0.5, 1], 0),
        ([0, 0, 10, 10, 0.51, 1], 0),
        ([0, 0, 10, 10, 0.5, 2], 0),
    ]:
        assert contained(found, boxes(candidate), (100, 100)) == count
    assert contained(found, boxes(), (100, 100)) == 0
    assert (
        same_scores(
            boxes(*[[0] * 4 + [s, 0] for s in (0.9, 0.5, 0.1)]),
            boxes(*[[0] * 4 + [s, 0] for s in (0.1, 0.9)]),
        )
        == 2
    )


def test_nothing_found_is_not_called_equal():
    class Blind(nn.Module):
        def __init__(self):
            super().__init__()
            self.bbox_head = nn.Module()
            self.bbox_head.test_cfg = Config(dict(score_thr=0.5)).copy()

        def predict(self, images, samples, rescale):
            from mmengine.structures import InstanceData

            found = InstanceData(
                bboxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0, dtype=int)
            )
            samples[0].pred_instances = found
            return samples

    decoding = DetectionDecoding(score_thr=0.5, iou_thr=0.5, max_per_image=10)
    graph = lambda x: (torch.zeros(1, 5, 4), torch.zeros(1, 5, 3))  # noqa: E731
    text = check_boxes(Blind(), graph, ('boxes', 'scores'), decoding, torch.zeros(1, 3, 8, 8))
    assert 'not compared' in text
