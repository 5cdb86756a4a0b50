"""BiDet's proposal network and second stage: formulas, losses, gradients, empty inputs."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

import mmesbnn  # noqa: F401 (registers the components)

pytest.importorskip('mmcv.ops', exc_type=ImportError)
pytest.importorskip('mmdet')

from mmcv.ops import nms
from mmdet.registry import MODELS, TASK_UTILS
from mmdet.structures import DetDataSample

CODER = dict(type='LegacyDeltaXYWHBBoxCoder')
NMS = dict(type='nms', iou_threshold=0.7)
SIZE = (96, 128)


def sampler(num, fraction, gt):
    return dict(
        type='RandomSampler', num=num, pos_fraction=fraction, neg_pos_ub=-1, add_gt_as_proposals=gt
    )


def assigner(pos, neg, low):
    return dict(
        type='MaxIoUAssigner',
        pos_iou_thr=pos,
        neg_iou_thr=neg,
        min_pos_iou=1e-5 if low else pos,
        match_low_quality=low,
        ignore_iof_thr=-1,
    )


def make_rpn(in_channels=8, **options):
    cfg = dict(
        type='BiDetRPNHead',
        in_channels=in_channels,
        feat_channels=16,
        anchor_generator=dict(
            type='RoundedAnchorGenerator', scales=[2, 4], ratios=[0.5, 1.0, 2.0], strides=[16]
        ),
        bbox_coder=CODER,
        train_cfg=dict(
            assigner=assigner(0.7, 0.3, True),
            sampler=sampler(64, 0.5, False),
            allowed_border=-1,
            pos_weight=-1,
            debug=False,
        ),
        test_cfg=dict(nms_pre=200, max_per_img=50, nms=NMS, min_bbox_size=0),
    )
    return MODELS.build(ConfigDict({**cfg, **options}))


def make_roi(kind='BiDetRoIHead', **options):
    cfg = dict(
        type=kind,
        shared_head=dict(type='BiDetResStage', in_channels=8, out_channels=16, depth=2),
        bbox_roi_extractor=dict(
            type='SingleRoIExtractor',
            out_channels=8,
            featmap_strides=[16],
            roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=0, aligned=False),
        ),
        bbox_head=dict(
            type='BiDetBBoxHead',
            in_channels=16,
            roi_feat_size=4,
            num_classes=3,
            bbox_coder=dict(CODER, target_stds=[0.1, 0.1, 0.2, 0.2]),
            **options,
        ),
        train_cfg=dict(
            assigner=assigner(0.5, 0.5, False),
            sampler=sampler(32, 0.25, True),
            pos_weight=-1,
            debug=False,
        ),
        test_cfg=dict(score_thr=0.0, nms=dict(type='nms', iou_threshold=0.3), max_per_img=20),
    )
    return MODELS.build(ConfigDict(cfg))


def sample(boxes, labels=None):
    boxes = torch.as_tensor(boxes, dtype=torch.float).reshape(-1, 4)
    labels = torch.zeros(len(boxes)) if labels is None else torch.as_tensor(labels)
    data = DetDataSample(
        metainfo=dict(img_shape=SIZE, pad_shape=SIZE, ori_shape=SIZE, scale_factor=(1, 1))
    )
    data.gt_instances = InstanceData(bboxes=boxes, labels=labels.long())
    data.ignored_instances = InstanceData(bboxes=boxes[:0], labels=labels[:0].long())
    return data


TWO = [[10, 10, 50, 60], [70, 20, 110, 80]]


def features(count=2, channels=8):
    return [torch.randn(count, channels, 6, 8, requires_grad=True)]


# anchors --------------------------------------------------------------------------


def test_anchors_are_those_of_the_first_faster_rcnn():
    generator = TASK_UTILS.build(
        dict(
            type='RoundedAnchorGenerator', scales=[8, 16, 32], ratios=[0.5, 1.0, 2.0], strides=[16]
        )
    )
    # the list in every copy of the published code
    expected = [
        [-84, -40, 99, 55],
        [-176, -88, 191, 103],
        [-360, -184, 375, 199],
        [-56, -56, 71, 71],
        [-120, -120, 135, 135],
        [-248, -248, 263, 263],
        [-36, -80, 51, 95],
        [-80, -168, 95, 183],
        [-168, -344, 183, 359],
    ]
    (base,) = generator.base_anchors
    assert base.tolist() == expected
    (grid,) = generator.grid_priors([(2, 3)], device='cpu')
    assert grid[9 * 4].tolist() == [16 - 84, 16 - 40, 16 + 99, 16 + 55]


# the proposal network -------------------------------------------------------------


@pytest.mark.parametrize(('tau', 'groups'), [(1, 1), (2, 1), (2, 2)])
def test_proposal_network_computes_its_formula(tau, groups):
    head = make_rpn(tau=tau, groups=groups).double().eval()
    for parameter in head.parameters():
        parameter.data.normal_()
    x = torch.randn(2, 8 * tau * groups, 6, 8, dtype=torch.double)
    weight = head.rpn_conv.weight
    assert weight.shape == (16 // tau, 8 * tau, 3, 3)
    scale = weight.abs().mean((1, 2, 3), keepdim=True)
    signs = F.pad(torch.where(x > 0, 1.0, -1.0).double(), (1,) * 4, value=-1.0)
    y = F.conv2d(signs, scale * weight.sign(), head.rpn_conv.bias, groups=groups)
    y = head.norm.weight.view(1, -1, 1, 1) * torch.cat([y] * tau, 1) / (
        1 + head.norm.eps
    ) ** 0.5 + head.norm.bias.view(1, -1, 1, 1)
    ((scores,), (boxes,)) = head([x])
    torch.testing.assert_close(scores, F.conv2d(y, head.rpn_cls.weight, head.rpn_cls.bias))
    means = F.conv2d(y, head.rpn_reg.weight, head.rpn_reg.bias)
    means = means.unflatten(1, (6, 8))[:, :, 4:].flatten(1, 2)
    torch.testing.assert_close(boxes, means)


def test_boxes_are_sampled_in_training_only():
    head = make_rpn(sigma=1.0)
    x = features()
    torch.manual_seed(0)
    (first,) = head(x)[1]
    torch.manual_seed(1)
    (second,) = head(x)[1]
    assert not torch.equal(first, second)
    head.eval()
    assert torch.equal(head(x)[1][0], head(x)[1][0])


def test_plain_boxes_have_four_channels():
    head = make_rpn(sigma=None)
    assert head.rpn_reg.out_channels == 6 * 4
    assert head(features())[1][0].shape == (2, 24, 6, 8)


def test_norms_may_stay_untrained():
    head = make_rpn(norm_cfg=dict(type='BN', requires_grad=False))
    assert not any(p.requires_grad for p in head.norm.parameters())
    assert head.rpn_conv.weight.requires_grad


def test_sign_and_weight_binarizer_of_the_rpn_are_options():
    conv = make_rpn(sign=dict(type='swish', beta=2.0), weight_binarizer='learned_scale').rpn_conv
    assert conv.sign.beta == 2 and conv.weight_binarizer.scale.shape == (16,)
    with pytest.raises(ValueError, match="sign='heaviside' gives 0 and 1: BiDet pads with -1"):
        make_rpn(sign='heaviside')


def test_copies_of_the_rpn_start_as_copy_init_says():
    alike, head = make_rpn(tau=2), make_rpn(tau=2, copy_init='balanced')
    assert alike.norm.weight.eq(1).all()
    assert head.state_dict().keys() == alike.state_dict().keys()
    torch.nn.init.constant_(head.norm.weight, 0.5)
    head.init_weights()
    assert head.norm.weight.abs().eq(0.5).all()
    assert ((head.norm.weight < 0).view(2, -1).sum(0) == 1).all()


def run_rpn(head, samples, x=None):
    x = x or features(len(samples))
    losses, proposals = head.loss_and_predict(x, samples)
    return (x, {k: sum(v) if isinstance(v, list) else v for k, v in losses.items()}, (proposals))


def test_energy_is_that_of_the_features_after_the_norm():
    head = make_rpn(loss_reg=dict(type='FeatureEnergyLoss', loss_weight=0.5))
    x, losses, _ = run_rpn(head.eval(), [sample(TWO), sample(TWO)])
    expected = 0.5 * head.features(x[0]).square().mean()
    torch.testing.assert_close(losses['loss_rpn_reg'], expected)


def test_entropy_is_that_of_the_proposals_scores():
    head = make_rpn(loss_prior=dict(type='SparseObjectLoss', loss_weight=2.0)).eval()
    for layer in (head.rpn_cls, head.rpn_reg):
        layer.weight.data.normal_(std=0.3)
    x, losses, proposals = run_rpn(head, [sample(TWO), sample(TWO[:1])])
    entropies = []
    for found, count in zip(proposals, (2, 1)):
        assert len(found) > count
        assert not found.scores.requires_grad
        p = found.scores / found.scores.sum()
        entropies.append(-(p * p.log()).sum() / count)
    torch.testing.assert_close(losses['loss_rpn_prior'], 2 * torch.stack(entropies).mean())
    # and the proposals equal mmdet's own prediction
    metas = [s.metainfo for s in (sample(TWO), sample(TWO))]
    plain = head.predict_by_feat(*head(x), batch_img_metas=metas, cfg=head.test_cfg)
    for ours, theirs in zip(proposals, plain):
        torch.testing.assert_close(ours.bboxes, theirs.bboxes)
        torch.testing.assert_close(ours.scores, theirs.scores)


@pytest.mark.parametrize('attached', [True, False])
def test_prior_has_gradients_unless_it_is_as_published(attached):
    head = make_rpn(loss_prior=dict(type='SparseObjectLoss', loss_weight=1.0, attached=attached))
    _, losses, _ = run_rpn(head, [sample(TWO)])
    assert losses['loss_rpn_prior'] > 0
    losses['loss_rpn_prior'].backward()
    flows = head.rpn_cls.weight.grad.abs().sum() > 0
    assert bool(flows) is attached
    assert head.rpn_reg.weight.grad is None  # an image without boxes


def test_terms_that_are_off_are_zero():
    head = make_rpn()
    head.loss_reg.active = head.loss_prior.active = False
    _, losses, _ = run_rpn(head, [sample(TWO)])
    assert losses['loss_rpn_reg'] == losses['loss_rpn_prior'] == 0
    assert losses['loss_rpn_cls'] > 0


@pytest.mark.parametrize('boxes', [[], [TWO[0]]])
def test_images_without_objects_give_finite_losses(boxes):
    head = make_rpn()
    _, losses, _ = run_rpn(head, [sample(boxes), sample([])])
    total = sum(losses.values())
    assert total.isfinite()
    total.backward()
    assert all(p.grad.isfinite().all() for p in head.parameters() if p.grad is not None)
    if not boxes:
        assert losses['loss_rpn_prior'] == 0


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
def test_proposals_under_autocast_are_those_of_full_precision(dtype):
    rpn, samples = make_rpn(sigma=0.0), [sample(TWO), sample([])]
    with torch.autocast('cpu', dtype):
        maps = rpn(features())
        assert maps[0][0].dtype == dtype
        _, proposals = rpn.loss_and_predict(features(), samples)
    assert {x.dtype for found in proposals for x in (found.bboxes, found.scores)} == {torch.float}
    metas = [x.metainfo for x in samples]
    wide = [[x.float() for x in levels] for levels in maps]
    for found, expected in zip(
        rpn.predict_by_feat(*maps, batch_img_metas=metas),
        rpn.predict_by_feat(*wide, batch_img_metas=metas),
    ):
        assert torch.equal(found.bboxes, expected.bboxes)
        assert torch.equal(found.scores, expected.scores)


def test_loss_alone_is_that_of_both():
    head = make_rpn(sigma=0.0).eval()
    samples, x = [sample(TWO)], features(1)
    torch.manual_seed(0)
    alone = head.loss(x, samples)
    torch.manual_seed(0)
    both, _ = head.loss_and_predict(x, samples)
    assert alone.keys() == both.keys()
    assert torch.equal(alone['loss_rpn_reg'], both['loss_rpn_reg'])


# the second stage -----------------------------------------------------------------


def proposals(*images):
    return [
        InstanceData(
            bboxes=torch.as_tensor(boxes, dtype=torch.float).reshape(-1, 4),
            scores=torch.ones(len(boxes)),
            labels=torch.zeros(len(boxes)).long(),
        )
        for boxes in images
    ]


NEAR = [
    [8, 12, 52, 58],
    [12, 8, 49, 63],
    [72, 22, 108, 79],
    [0, 0, 20, 20],
    [60, 50, 127, 95],
    [30, 30, 90, 70],
]


def test_head_computes_its_formula():
    head = make_roi().bbox_head.double().eval()
    x = torch.randn(5, 16, 4, 4, dtype=torch.double)
    scores, boxes = head(x)
    mean = x.mean((2, 3))
    torch.testing.assert_close(scores, mean @ head.fc_cls.weight.T + head.fc_cls.bias)
    torch.testing.assert_close(boxes, (mean @ head.fc_reg.weight.T + head.fc_reg.bias)[:, 4:])


def reference_entropy(head, logits, deltas, rois, result):
    """Compute the prior term of one image by its formula."""
    scores, entropies = logits.softmax(1), []
    boxes = head.bbox_coder.decode(rois[:, 1:], deltas)
    labels = {}
    for label, index in zip(result.pos_gt_labels, result.pos_assigned_gt_inds):
        labels.setdefault(int(label), set()).add(int(index))
    for label, objects in labels.items():
        keep = scores[:, label] > 0.01
        found, _ = nms(boxes[keep], scores[keep, label], 0.3)
        s = found[:, -1]
        if len(s) > len(objects):
            p = s / s.sum()
            entropies.append(-(p * p.log()).sum() / len(objects))
    return entropies


def test_second_stage_adds_energy_and_entropy(monkeypatch):
    head = make_roi(
        sigma=0.0,
        loss_reg=dict(type='FeatureEnergyLoss', loss_weight=0.02),
        loss_prior=dict(type='SparseObjectLoss', loss_weight=0.05),
    ).eval()
    seen = {}
    original = head.bbox_head.bottleneck_losses

    def spy(results, rois, sampling_results):
        seen.update(results=results, rois=rois, sampled=sampling_results)
        return original(results, rois, sampling_results)

    monkeypatch.setattr(head.bbox_head, 'bottleneck_losses', spy)
    samples = [sample(TWO, [0, 2]), sample(TWO[:1], [1])]
    losses = head.loss(features(), proposals(NEAR, NEAR), samples)
    energy = seen['results']['bbox_feats'].mean((2, 3)).square().mean()
    torch.testing.assert_close(losses['loss_head_reg'], 0.02 * energy)
    sizes = [len(result.priors) for result in seen['sampled']]
    parts = (seen['results']['cls_score'], seen['results']['bbox_pred'], seen['rois'])
    entropies = [
        entropy
        for *image, result in zip(*(p.split(sizes) for p in parts), seen['sampled'])
        for entropy in reference_entropy(head.bbox_head, *image, result)
    ]
    assert len(entropies) == 3
    expected = 0.05 * torch.stack(entropies).mean()
    torch.testing.assert_close(losses['loss_head_prior'], expected)
    head.zero_grad()
    losses['loss_head_prior'].backward()
    assert head.bbox_head.fc_cls.weight.grad.abs().sum() > 0
    assert head.bbox_head.fc_reg.weight.grad is None


@pytest.mark.parametrize(
    ('near', 'boxes', 'labels'),
    [(NEAR, [], []), ([], TWO, [0, 1]), ([], [], []), (NEAR[:1], TWO[:1], [2])],
)
def test_second_stage_survives_emptiness(near, boxes, labels):
    head = make_roi()
    losses = head.loss(features(1), proposals(near), [sample(boxes, labels)])
    losses = {k: v for k, v in losses.items() if 'loss' in k}
    total = sum(losses.values())
    assert total.isfinite()
    total.backward()


@pytest.mark.parametrize('weight', [0.0, 0.1])
def test_roi_heads_that_leave_the_terms_out_are_warned_of(weight, recwarn):
    terms = {
        'loss_reg': dict(type='FeatureEnergyLoss', loss_weight=0.0),
        'loss_prior': dict(type='SparseObjectLoss', loss_weight=weight),
    }
    for kind in ('BiDetRoIHead', 'mmdet.StandardRoIHead'):
        head = make_roi(kind, **terms)
        losses = head.loss(features(1), proposals(NEAR), [sample(TWO, [0, 1])])
        leaves_out = 'loss_head_prior' not in losses
        assert leaves_out == (kind != 'BiDetRoIHead')
        told = [w for w in recwarn.list if 'leaves out loss_reg and loss_prior' in str(w.message)]
        assert len(told) == (leaves_out and weight > 0)


def test_a_batch_of_one_image_and_no_proposals_predicts_nothing():
    head = make_roi().eval()
    with torch.no_grad():
        (found,) = head.predict(features(1), proposals([]), [sample([])])
    assert len(found) == 0


def test_softmax_scores_are_refused():
    with pytest.raises(ValueError, match='must have use_sigmoid=True'):
        make_rpn(loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False))


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        (dict(reg_class_agnostic=False), 'reg_class_agnostic=False must be True'),
        (dict(with_avg_pool=False), 'with_avg_pool=False must be True'),
        (dict(with_reg=False), 'with_reg=False must be True'),
        (dict(with_cls=False), 'with_cls=False must be True'),
        (dict(reg_predictor_cfg=dict(type='NormedLinear')), "must be {'type': 'Linear'}"),
    ],
)
def test_options_that_the_second_stage_lacks_are_refused(option, message):
    with pytest.raises(ValueError, match=message):
        make_roi(**option)


def test_a_proposal_network_has_one_convolution():
    make_rpn(num_convs=1)
    with pytest.raises(ValueError, match='num_convs=2 must be 1'):
        make_rpn(num_convs=2)


def test_the_second_stage_needs_its_own_head():
    head = dict(type='Shared2FCBBoxHead', in_channels=16, num_classes=3)
    with pytest.raises(ValueError, match='bbox_head of BiDetRoIHead is a Shared2FCBBoxHead: use'):
        MODELS.build(
            dict(
                type='BiDetRoIHead',
                bbox_head=head,
                bbox_roi_extractor=dict(
                    type='SingleRoIExtractor',
                    out_channels=16,
                    featmap_strides=[16],
                    roi_layer=dict(type='RoIAlign', output_size=7),
                ),
            )
        )
