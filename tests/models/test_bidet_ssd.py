"""BiDet's SSD head: anchors, detections and losses as published, unusual images."""

from pathlib import Path

import pytest
import torch

pytest.importorskip('mmcv._ext', reason='needs mmcv with compiled operators')

from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import MODELS, TASK_UTILS, init_default_scope
from mmengine.structures import InstanceData

from mmesbnn.models.heads.bidet_ssd import BiDetSSDHead, best_per_class
from tests.reference.published_bidet_ssd import default_boxes, detections, multibox_loss, prior_loss

SIZES, ANCHORS = (38, 19, 10, 5, 3, 1), (4, 6, 6, 6, 4, 4)
CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
SSD = CONFIGS / 'bidet' / 'bidet-ssd300_2xb16-300k_voc0712.py'


@pytest.fixture(autouse=True)
def scope(no_runners):
    """Set mmdet's default scope, as a runner does."""
    init_default_scope('mmdet')


@pytest.fixture(scope='module')
def model_cfg():
    return Config.fromfile(SSD).model


def build(model_cfg, **options):
    """Build the published head for maps of 8 channels."""
    cfg = dict(
        model_cfg.bbox_head,
        in_channels=(8,) * 6,
        train_cfg=model_cfg.train_cfg,
        test_cfg=model_cfg.test_cfg,
        **options,
    )
    return MODELS.build(cfg)


def maps(count=2, channels=8):
    return [torch.randn(count, channels, s, s) for s in SIZES]


def predictions(classes=3, count=1, sharpness=2.0, kind=torch.float):
    """Return scores and means of boxes, ours and in the published order."""
    scores = [
        sharpness * torch.randn(count, a * (classes + 1), s, s, dtype=kind)
        for a, s in zip(ANCHORS, SIZES)
    ]
    boxes = [0.5 * torch.randn(count, a * 4, s, s, dtype=kind) for a, s in zip(ANCHORS, SIZES)]

    def listed(levels, size):
        flat = [x.permute(0, 2, 3, 1).reshape(count, -1, size) for x in levels]
        return torch.cat(flat, 1)

    # background is our last class and their first
    return scores, boxes, listed(scores, classes + 1).roll(1, -1), listed(boxes, 4)


def sample(boxes, labels):
    """Return an image with objects."""
    found = DetDataSample(metainfo=META)
    found.gt_instances = InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float).reshape(-1, 4),
        labels=torch.tensor(labels, dtype=torch.long),
    )
    found.ignored_instances = InstanceData(
        bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
    )
    return found


META = dict(
    img_shape=(300, 300),
    ori_shape=(300, 300),
    pad_shape=(300, 300),
    scale_factor=(1.0, 1.0),
    batch_input_shape=(300, 300),
)
OBJECTS = [[20, 30, 120, 200], [100, 100, 180, 160], [5, 5, 290, 295]]


# anchors --------------------------------------------------------------------------


def test_anchors_are_the_published_default_boxes(model_cfg):
    generator = TASK_UTILS.build(model_cfg.bbox_head.anchor_generator)
    assert type(generator).__name__ == 'ClippedSSDAnchorGenerator'
    levels = generator.grid_priors([(s, s) for s in SIZES], device='cpu')
    boxes = torch.cat(levels).double() / 300
    theirs = default_boxes()
    ours = torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1)
    assert len(ours) == 8732
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_what_is_cut(model_cfg):
    cfg = dict(model_cfg.bbox_head.anchor_generator)
    sizes = [(s, s) for s in SIZES]
    clipped, whole = (
        TASK_UTILS.build({**cfg, 'type': kind}).grid_priors(sizes, device='cpu')
        for kind in ('ClippedSSDAnchorGenerator', 'SSDAnchorGenerator')
    )
    changed = [
        ((a - b).abs().amax(1) > 1e-3).view(s, s, -1).nonzero().tolist()
        for a, b, s in zip(clipped, whole, SIZES)
    ]
    last_of_ten = [[y, x, a] for y in range(10) for x in range(10) for a in range(6) if 9 in (x, y)]
    longest = [[y, x, a] for y in range(3) for x in range(3) for a in (2, 3)]
    assert changed == [[], [], last_of_ten, [], longest, [[0, 0, 2], [0, 0, 3]]]


# detections -----------------------------------------------------------------------


def test_detections_are_the_published_ones(model_cfg):
    head = build(model_cfg, num_classes=3).eval()
    scores, boxes, conf, loc = predictions(kind=torch.double)
    (found,) = head.predict_by_feat(
        [s.float() for s in scores], [b.float() for b in boxes], batch_img_metas=[META]
    )
    log_var = torch.randn_like(loc)
    theirs = detections(torch.cat([log_var, loc], 2)[0], conf[0])
    theirs = sorted(theirs, key=lambda detection: -detection[1])
    assert len(found) == len(theirs) > 200
    torch.testing.assert_close(
        found.scores, torch.tensor([d[1] for d in theirs]), rtol=0, atol=1e-5
    )
    expected = 300 * torch.tensor([d[2] for d in theirs])
    torch.testing.assert_close(found.bboxes, expected, rtol=0, atol=1e-2)
    assert found.labels.tolist() == [d[0] for d in theirs]


@pytest.mark.parametrize('level', range(6))
def test_the_only_score_of_a_map_is_a_detection(model_cfg, level):
    head = build(model_cfg).eval()
    scores, boxes, *_ = predictions(classes=20)
    for x in scores:
        x.view(1, -1, 21, *x.shape[2:])[:, :, 20] = 50
    scores[level].view(1, -1, 21, *scores[level].shape[2:])[0, 0, 11, 0, 0] = 60
    (found,) = head.predict_by_feat(scores, boxes, batch_img_metas=[META])
    assert found.labels.tolist() == [11]
    assert found.scores.item() > 0.99


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_detections_in_half_precision_have_whole_anchors(model_cfg, dtype):
    head = build(model_cfg, num_classes=3).eval()
    low = [[x.to(dtype) for x in maps] for maps in predictions()[:2]]
    wide = [[x.float() for x in maps] for maps in low]
    (found,), (expected,) = (
        head.predict_by_feat(*maps, batch_img_metas=[META]) for maps in (low, wide)
    )
    assert torch.equal(found.bboxes, expected.bboxes)
    assert torch.equal(found.scores, expected.scores)


def test_best_per_class():
    scores = torch.tensor([0.1, 0.9, 0.5, 0.7, 0.3])
    labels = torch.tensor([0, 1, 0, 1, 0])
    assert best_per_class(scores, labels, 2).tolist() == [2, 4, 1, 3]
    assert best_per_class(scores[:0], labels[:0], 2).tolist() == []


# boxes as distributions -----------------------------------------------------------


def test_regression_has_eight_channels_and_boxes_four(model_cfg):
    head = build(model_cfg)
    x = maps()
    scores, boxes = head(x)
    _, distributions = head.distributions(x)
    for level, count in enumerate(ANCHORS):
        size = SIZES[level]
        assert scores[level].shape == (2, count * 21, size, size)
        assert boxes[level].shape == (2, count * 4, size, size)
        assert distributions[level].shape == (2, count * 8, size, size)


@pytest.mark.parametrize('sigma', [0.0, 0.5])
def test_training_samples_and_testing_does_not(model_cfg, sigma):
    head = build(model_cfg, sigma=sigma)
    x = maps()
    first, second = head(x)[1], head(x)[1]
    assert all(map(torch.equal, first, second)) is (sigma == 0)
    head.eval()
    first, second = head(x)[1], head(x)[1]
    assert all(map(torch.equal, first, second))
    for level, found in zip(head.distributions(x)[1], first):
        mean = level.view(2, -1, 8, *level.shape[2:])[:, :, 4:].flatten(1, 2)
        assert torch.equal(found, mean)


@pytest.mark.parametrize('sigma', [0.0, 0.5])
def test_log_variances_learn_only_from_noise(model_cfg, sigma):
    head = build(model_cfg, sigma=sigma)
    losses = head.loss(maps(), [sample([[20, 30, 50, 60]], [1])] * 2)
    sum(losses['loss_bbox']).sum().backward()
    rows = head.reg_convs[0][-1].weight.grad.view(ANCHORS[0], 8, -1).abs().sum((0, 2))
    assert (rows[:4] > 0).all().item() is (sigma > 0)
    assert (rows[4:] > 0).all()


# losses ---------------------------------------------------------------------------


def test_class_and_box_losses_are_the_published_ones(model_cfg):
    head = build(model_cfg, num_classes=3)
    scores, boxes, conf, loc = predictions(count=2, sharpness=0.5)
    samples = [sample(OBJECTS, [1, 1, 2]), sample([[140, 150, 175, 180]], [0])]
    gt = [s.gt_instances for s in samples]
    losses = head.loss_by_feat(scores, boxes, gt, [s.metainfo for s in samples])
    expected = multibox_loss(loc, conf, [(g.bboxes / 300, g.labels) for g in gt])
    for ours, theirs in zip((losses['loss_cls'], losses['loss_bbox']), expected):
        torch.testing.assert_close(sum(ours).sum(), theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('sharpness', [2.0, 0.1])
def test_prior_loss_and_its_gradients_are_the_published_ones(model_cfg, sharpness):
    head = build(model_cfg, num_classes=3)
    scores, boxes, conf, loc = predictions(count=2, sharpness=sharpness)
    scores = [s.requires_grad_() for s in scores]
    boxes = [b.requires_grad_() for b in boxes]
    samples = [sample(OBJECTS, [1, 1, 2]), sample(OBJECTS[:1], [0])]
    gt = [s.gt_instances for s in samples]
    losses = head.loss_by_feat(scores, boxes, gt, [s.metainfo for s in samples])
    conf.requires_grad_()
    expected = prior_loss(loc, conf, [g.labels for g in gt])
    assert losses['loss_prior'].item() == pytest.approx(expected.item(), rel=1e-4)
    losses['loss_prior'].backward()
    expected.backward()
    ours = [s.grad.permute(0, 2, 3, 1).reshape(2, -1, 4) for s in scores]
    torch.testing.assert_close(torch.cat(ours, 1).roll(1, -1), conf.grad, rtol=1e-3, atol=1e-7)
    assert conf.grad.abs().sum() > 0
    assert all(b.grad is None for b in boxes)


def test_reg_loss_is_the_energy_of_all_maps(model_cfg):
    x = maps()
    losses = build(model_cfg).loss(x, [sample(OBJECTS, [1, 1, 2])] * 2)
    expected = 0.1 * sum(level.square().mean() for level in x) / 6
    torch.testing.assert_close(losses['loss_reg'], expected)


def test_terms_that_are_off_are_zero_and_the_rest_stays(model_cfg):
    head, x = build(model_cfg), maps()
    samples = [sample(OBJECTS, [1, 1, 2]), sample([], [])]
    on = head.loss(x, samples)
    for term in (head.loss_reg, head.loss_prior):
        term.active = False
    off = head.loss(x, samples)
    assert on.keys() == off.keys()
    for name in ('loss_reg', 'loss_prior'):
        assert off[name] == 0
        assert off[name].requires_grad is on[name].requires_grad or name == 'loss_reg'
        assert on[name] > 0
    for name in ('loss_cls', 'loss_bbox'):
        assert all(map(torch.equal, on[name], off[name]))


# what to trip over ----------------------------------------------------------------


@pytest.mark.parametrize(
    'samples',
    [
        pytest.param([sample([], [])], id='one image without objects'),
        pytest.param([sample([], []), sample(OBJECTS, [1, 1, 2])], id='one of two'),
        pytest.param([sample([[10, 10, 10.5, 11]], [3])], id='less than a pixel'),
        pytest.param([sample([[-50, -50, 400, 400]], [3])], id='larger than the image'),
        pytest.param([sample([[250, 250, 380, 390]], [19])], id='partly outside'),
        pytest.param([sample(OBJECTS * 100, [0, 1, 2] * 100)], id='300 objects'),
    ],
)
def test_losses_and_gradients_are_finite(model_cfg, samples):
    head = build(model_cfg, sigma=0.1)
    x = [level.requires_grad_() for level in maps(len(samples))]
    losses = head.loss(x, samples)
    terms = [losses['loss_reg'], losses['loss_prior']]
    total = sum(term.sum() for term in [*losses['loss_cls'], *losses['loss_bbox'], *terms])
    total.backward()
    assert total.isfinite()
    for parameter in head.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


def test_scores_that_are_all_background_detect_nothing(model_cfg):
    head = build(model_cfg).eval()
    scores, boxes, *_ = predictions(classes=20)
    for level in scores:
        level.view(1, -1, 21, *level.shape[2:])[:, :, 20] = 50
    (found,) = head.predict_by_feat(scores, boxes, batch_img_metas=[META])
    assert len(found) == 0


def test_bad_arguments_are_named(model_cfg):
    with pytest.raises(ValueError, match=r"prior_cfg=.*\['nms'\] is unknown"):
        build(model_cfg, prior_cfg=dict(nms=0.4))
    with pytest.raises(ValueError, match='sigma=-1 must be'):
        build(model_cfg, sigma=-1)


def test_published_options_reach_the_head(model_cfg):
    head = build(model_cfg)
    assert type(head) is BiDetSSDHead
    assert head.prior_cfg == dict(score_thr=0.03, iou_threshold=0.45, max_per_class=200)
    assert (head.loss_reg.loss_weight, head.loss_prior.loss_weight) == (0.1, 0.2)
    assert build(model_cfg, prior_cfg=dict(score_thr=0.1)).prior_cfg == dict(
        score_thr=0.1, iou_threshold=0.45, max_per_class=200
    )
