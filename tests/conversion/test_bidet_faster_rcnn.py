"""Converted BiDet Faster R-CNNs compute the published outputs; wrong files fail."""

import pytest

pytest.importorskip('torchvision')

import torch
from mmengine.registry import init_default_scope

import mmesbnn  # noqa: F401 (registers the components)
from mmesbnn.conversion import convert, load_published
from tests.reference import published_bidet_frcnn as published
from tests.reference.published_bidet_frcnn import Network

NET = Network()
NETWORKS = {
    'VOC': NET,
    'COCO': Network(anchors=12, classes=7),
    'equal widths': Network(widths=(8, 8, 8, 8, 8), blocks=(2, 2, 2, 2)),
    'wider first stage': Network(widths=(8, 12, 16, 24, 32)),
}


def images(height=64, width=96):
    x = torch.randn(2, 3, height, width, dtype=torch.double)
    x[:, :, :20] = 0
    return x


def detector(cfg):
    pytest.importorskip('mmcv.ops', exc_type=ImportError)
    from mmdet.registry import MODELS

    init_default_scope('mmdet')
    return MODELS.build(cfg)


@pytest.mark.parametrize('name', NETWORKS)
@pytest.mark.parametrize('size', [(64, 96), (75, 50)])
def test_raw_outputs_are_the_published_ones(name, size):
    net = NETWORKS[name]
    state = published.random_state(published.detector_shapes(net))
    cfg, converted = load_published(state)
    model = detector(cfg).double().eval()
    model.load_state_dict(converted, strict=True)
    x = images(*size)
    rois = torch.tensor(
        [[0, 3.0, 5, 40, 33], [1, 0, 0, 49, 63], [1, 20.5, 7, 20.6, 60], [0, 9, 9, 9, 9]],
        dtype=torch.double,
    )
    with torch.no_grad():
        features = published.base(state, net, x)
        scores, boxes = published.rpn(state, net, features)
        probabilities, deltas = published.regions(state, net, features, rois)
        ours = model.backbone(x)
        (logits,), (our_boxes,) = model.rpn_head(ours)
        pooled = model.roi_head.bbox_roi_extractor(ours, rois)
        our_logits, our_deltas = model.roi_head.bbox_head(model.roi_head.shared_head(pooled))
    close = dict(rtol=0, atol=1e-9)
    torch.testing.assert_close(ours[0], features, **close)
    torch.testing.assert_close(logits.sigmoid(), scores, **close)
    torch.testing.assert_close(our_boxes, boxes, **close)
    our_probabilities = our_logits.softmax(1).roll(1, 1)  # background last
    torch.testing.assert_close(our_probabilities, probabilities, **close)
    torch.testing.assert_close(our_deltas, deltas, **close)
    assert features.std() > 0.1
    assert scores.std() > 0.1


def test_classifier_has_the_published_logits():
    pretrain = pytest.importorskip('mmpretrain')
    state = published.random_state(published.classifier_shapes(NET))
    result = convert(dict(state_dict=state))
    assert result.warning is None
    model = pretrain.registry.MODELS.build(result.model_cfg).double().eval()
    model.load_state_dict(result.state_dict, strict=True)
    x = images()
    with torch.no_grad():
        ours = model(x, mode='tensor')
        torch.testing.assert_close(ours, published.logits(state, NET, x), rtol=0, atol=1e-9)


def test_a_training_checkpoint_converts_like_its_weights():
    state = published.random_state(published.detector_shapes(NET))
    bare = convert(state)
    wrapped = convert(dict(weight=state, pooling_mode='align', opt={}))
    assert wrapped.model_cfg == bare.model_cfg
    assert wrapped.state_dict.keys() == bare.state_dict.keys()


def test_summary_and_layout_are_read_from_the_file():
    result = convert(published.random_state(published.detector_shapes(NET)))
    assert result.summary == dict(
        network='BiDet ResNet-14 Faster R-CNN',
        channels='8, 8, 16, 16, 24',
        classes='4',
        weights='binary',
        anchors='9 per pixel',
    )
    assert result.model_cfg['backbone']['depths'] == (2, 4, 2)
    assert result.model_cfg['roi_head']['shared_head']['depth'] == 4


def test_background_moves_and_scores_become_differences():
    state = published.random_state(published.detector_shapes(NET))
    new = convert(state).state_dict
    ours, theirs = new['roi_head.bbox_head.fc_cls.bias'], state['RCNN_cls_score.bias']
    assert torch.equal(ours[-1], theirs[0])
    assert torch.equal(ours[:-1], theirs[1:])
    scores = state['RCNN_rpn.RPN_cls_score.bias']
    assert torch.equal(new['rpn_head.rpn_cls.bias'], scores[9:] - scores[:9])


@pytest.mark.parametrize(('binarize', 'zero'), [(False, 0), (True, -1)])
def test_binarize_decides_what_the_sign_of_zero_is(binarize, zero):
    state = published.random_state(published.detector_shapes(NET))
    cfg = convert(state, binarize=binarize).model_cfg
    parts = (cfg['backbone'], cfg['rpn_head'], cfg['roi_head']['shared_head'])
    assert {part['sign_zero'] for part in parts} == {zero}


def broken(**changes):
    state = published.random_state(published.detector_shapes(NET))
    for name, value in changes.items():
        if value is None:
            del state[name]
        else:
            state[name] = value
    return state


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (
            {'RCNN_rpn.RPN_bbox_pred.bias': None},
            r'BiDet ResNet-14.*1 are missing \(RCNN_rpn.RPN_bbox_pred.bias',
        ),
        ({'RCNN_base.4.0.conv2.bn.weight': torch.zeros(3)}, r'conv2.bn.weight: \(3,\) for'),
        ({'RCNN_top.1.weight': torch.zeros(3)}, r'1 are unknown \(RCNN_top.1.weight'),
        ({'RCNN_bbox_pred.weight': torch.zeros(40, 24)}, 'has 40 rows: boxes per class'),
        (
            {'RCNN_rpn.RPN_cls_score.weight': torch.zeros(10, 12, 1, 1)},
            'has 10 rows, not two for each of 9 or 12 anchors',
        ),
        ({'RCNN_base.0.weight': None}, 'lacks the key RCNN_base.0.weight'),
        (
            {f'RCNN_base.3.{i}.conv1.conv.weight': torch.zeros(1) for i in range(1, 300)},
            r'has \d+ entries, too few for \d+ convolutions',
        ),
    ],
)
def test_odd_files_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        convert(broken(**changes))
