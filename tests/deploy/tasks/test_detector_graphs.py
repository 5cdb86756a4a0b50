from pathlib import Path

import pytest
import torch

pytest.importorskip('mmdet')
pytest.importorskip('mmcv.ops')

import numpy as np
from mmengine.config import ConfigDict

from mmesbnn.analysis import build_model, load_config
from mmesbnn.analysis.lifelike import lifelike
from mmesbnn.deploy.runtime.manifest import ExportError
from mmesbnn.deploy.tasks.detector_graphs import OneStageGraph, TwoStageGraph, detector_graph

CONFIGS = Path(__file__).resolve().parents[3] / 'configs' / 'bnext_det'
SIZE = (64, 96)


def detector(kind, **options):
    """Build a narrow detector from the repository's configs, with random parameters."""
    arch = dict(_delete_=True, channels=[8, 16, 32, 64, 128, 256])
    settings = {
        'model.backbone.init_cfg': None,
        'model.backbone.arch': arch,
        'model.neck.in_channels': [32, 64, 128, 256],
        'model.neck.out_channels': 16,
        **options,
    }
    cfg = load_config(CONFIGS / f'{kind}_bnext-tiny-fpn_4xb4-24e_voc0712.py', settings)
    model = build_model(cfg)
    torch.manual_seed(0)
    forward = model.forward
    model.forward = model.extract_feat
    lifelike(model, torch.randn(2, 3, *SIZE))
    model.forward = forward
    return model


PROPOSALS = {
    'model.rpn_head.in_channels': 16,
    'model.rpn_head.feat_channels': 16,
    'model.roi_head.bbox_roi_extractor.out_channels': 16,
    'model.roi_head.bbox_head.in_channels': 16,
    'model.roi_head.bbox_head.fc_out_channels': 32,
    'model.test_cfg.rpn.max_per_img': 50,
}


def head_options(**options):
    return {
        'model.bbox_head.in_channels': 16,
        'model.bbox_head.feat_channels': 16,
        'model.bbox_head.stacked_convs': 1,
        **options,
    }


@pytest.mark.parametrize('kind', ['retinanet', 'fcos'])
def test_one_stage_boxes_are_mmdets(kind):
    model = detector(kind, **head_options())
    graph = detector_graph(model)
    assert isinstance(graph, OneStageGraph)
    x = torch.randn(1, 3, *SIZE)
    with torch.no_grad():
        candidates = graph.candidates(x)
        boxes, scores, *factors = candidates.outputs()
        outputs = model.bbox_head(model.extract_feat(x))
        cfg = ConfigDict(nms_pre=10**6, score_thr=-1.0, min_bbox_size=-1)
        (theirs,) = model.bbox_head.predict_by_feat(
            *outputs, batch_img_metas=[dict(img_shape=(10**6, 10**6))], cfg=cfg, with_nms=False
        )
    assert boxes.shape[:2] == scores.shape[:2] and sum(candidates.levels) == boxes.shape[1]
    assert len(factors) == (kind == 'fcos')
    expected = theirs.scores
    order = expected.argsort(descending=True)[:40]
    for factor in factors:
        scores = scores * factor[..., None]
    ours = scores[0].flatten()
    found = ours.argsort(descending=True)[:40]
    np.testing.assert_allclose(ours[found], expected[order], rtol=1e-5)
    mine = boxes[0][found // scores.shape[-1]].clamp(min=0)
    np.testing.assert_allclose(
        mine.sort(0).values, theirs.bboxes[order].sort(0).values, rtol=1e-4, atol=1e-3
    )


def test_two_stage_proposals_and_boxes_are_mmdets():
    from mmdet.structures import DetDataSample

    model = detector('faster-rcnn', **PROPOSALS)
    graph = detector_graph(model)
    assert isinstance(graph, TwoStageGraph)
    x = torch.randn(1, 3, *SIZE)
    sample = DetDataSample(metainfo=dict(img_shape=SIZE, scale_factor=(1.0, 1.0)))
    with torch.no_grad():
        boxes, scores = graph(x)
        features = model.extract_feat(x)
        proposals, valid = graph.propose(features, SIZE)
        (theirs,) = model.rpn_head.predict(features, [sample], rescale=False)
        rois = torch.cat([torch.zeros(len(proposals), 1), proposals], 1)
        expected = model.roi_head._bbox_forward(features, rois)
    kept = proposals[valid > 0]
    assert len(kept) == len(theirs.bboxes)
    np.testing.assert_allclose(
        kept.sort(0).values, theirs.bboxes.sort(0).values, rtol=1e-4, atol=1e-3
    )
    probabilities = expected['cls_score'].softmax(-1)[:, :-1] * valid[:, None]
    np.testing.assert_allclose(scores[0], probabilities, rtol=1e-4, atol=1e-6)
    coder = model.roi_head.bbox_head.bbox_coder
    decoded = coder.decode(
        proposals, expected['bbox_pred'].reshape(len(proposals), -1), max_shape=SIZE
    )
    np.testing.assert_allclose(
        boxes[0].reshape(len(proposals), -1),
        decoded.reshape(len(proposals), -1),
        rtol=1e-4,
        atol=1e-2,
    )


@pytest.mark.parametrize('option', [dict(nms_pre=-1), dict(min_bbox_size=-1)], ids=str)
@pytest.mark.parametrize('given', [True, False])
def test_proposals_without_limits_are_mmdets(option, given):
    from mmdet.structures import DetDataSample

    model = detector('faster-rcnn', **PROPOSALS)
    for cfg in (model.test_cfg.rpn, model.rpn_head.test_cfg):
        cfg.update(option)
        if not given:  # -1 is mmdet's default
            cfg.pop(next(iter(option)))
    x = torch.randn(1, 3, *SIZE)
    sample = DetDataSample(metainfo=dict(img_shape=SIZE, scale_factor=(1.0, 1.0)))
    with torch.no_grad():
        features = model.extract_feat(x)
        proposals, valid = detector_graph(model).propose(features, SIZE)
        (theirs,) = model.rpn_head.predict(features, [sample], rescale=False)
    np.testing.assert_allclose(
        proposals[valid > 0].sort(0).values, theirs.bboxes.sort(0).values, rtol=1e-4, atol=1e-3
    )


def test_other_detectors_are_refused_by_name():
    class Odd(torch.nn.Module):
        bbox_head = None

    with pytest.raises(ExportError, match='Odd with NoneType is not exported'):
        detector_graph(Odd())


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['retinanet', 'fcos', 'faster-rcnn'])
def test_export_of_a_detector(kind):
    pytest.importorskip('openvino')
    from mmesbnn.deploy.openvino.graph import to_openvino
    from tests.deploy.graphs import run_graph

    options = PROPOSALS if kind == 'faster-rcnn' else head_options()
    graph = detector_graph(detector(kind, **options))
    x = torch.randn(1, 3, *SIZE)
    conversion = to_openvino(graph, [x], output_names=('boxes', 'scores'))
    assert not conversion.not_binary
    with torch.no_grad():
        expected = [y.numpy() for y in graph(x)]
    for ours, theirs in zip(run_graph(conversion.graph, x), expected):
        error = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
        assert error < 1e-3
