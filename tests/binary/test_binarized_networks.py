"""``binarize`` of networks of mmpretrain, torchvision, mmdet and mmcv."""

import pytest
import torch
from torch import nn

from mmesbnn.analysis import check_binary, count_ops
from mmesbnn.binary import ESConv2d, ESLinear, binarize
from tests.binary.float_networks import Net, names, why


def mmpretrain(cfg):
    pytest.importorskip('mmpretrain')
    from mmpretrain.registry import MODELS

    return MODELS.build(cfg)


def mmpretrain_resnet():
    return mmpretrain(
        dict(
            type='ImageClassifier',
            backbone=dict(type='ResNet', depth=18),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=10, in_channels=512),
        )
    )


def mmpretrain_vit():
    backbone = dict(type='VisionTransformer', arch='deit-tiny', img_size=32, patch_size=8)
    head = dict(type='VisionTransformerClsHead', num_classes=10, in_channels=192)
    return mmpretrain(dict(type='ImageClassifier', backbone=backbone, head=head))


def torchvision_resnet():
    return pytest.importorskip('torchvision').models.resnet18()


def torchvision_vit():
    models = pytest.importorskip('torchvision').models
    return models.VisionTransformer(32, 8, 3, 4, hidden_dim=32, mlp_dim=64)


class BackboneAndNeck(nn.Module):
    def __init__(self, backbone, neck):
        super().__init__()
        self.backbone, self.neck = backbone, neck

    def forward(self, x):
        return self.neck(self.backbone(x))


def mmdet_fpn():
    pytest.importorskip('mmdet')
    pytest.importorskip('mmcv.ops', exc_type=ImportError)
    from mmdet.models import FPN, ResNet

    backbone = ResNet(18, norm_cfg=dict(type='BN'))
    return BackboneAndNeck(backbone, FPN([64, 128, 256, 512], 64, 5))


@pytest.mark.parametrize(
    ('build', 'replaced', 'kept'),
    [
        (mmpretrain_resnet, 19, ['backbone.conv1', 'head.fc']),
        (mmpretrain_vit, 48, ['backbone.patch_embed.projection', 'head.layers.head']),
        (torchvision_resnet, 19, ['conv1', 'fc']),
        # the out_proj of its attentions is kept too
        (torchvision_vit, 6, ['conv_proj', 'heads.head']),
        (mmdet_fpn, 26, ['backbone.conv1', 'neck.fpn_convs.3.conv']),
        (lambda: mmpretrain(dict(type='MobileNetV2')), 33, ['conv1.conv', 'conv2.conv']),
    ],
)
def test_networks_of_the_ecosystem(build, replaced, kept):
    net = build()
    x = torch.randn(2, 3, 32, 32)
    shapes = [y.shape for y in leaves(net(x))]
    report = binarize(net, tau=2)
    assert len(report.replaced) == replaced
    assert {kept[0], kept[1]} <= set(names(report.kept))
    binary = [m for m in net.modules() if isinstance(m, (ESConv2d, ESLinear))]
    assert len(binary) == replaced
    outputs = leaves(net(x))
    assert [y.shape for y in outputs] == shapes
    sum(y.square().mean() for y in outputs).backward()
    assert all(m.shift.grad.isfinite().all() for m in binary)
    assert check_binary(net, x) == []
    assert count_ops(net, (3, 32, 32)).total['binary_layers'] == replaced


def leaves(result):
    return [result] if isinstance(result, torch.Tensor) else list(result)


@pytest.mark.slow
def test_an_example_finds_both_outputs_of_a_detector():
    mmdet = pytest.importorskip('mmdet')
    pytest.importorskip('mmcv.ops', exc_type=ImportError)
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules
    from mmengine.config import Config

    register_all_modules(init_default_scope=True)
    base = f'{mmdet.__path__[0]}/.mim/configs/_base_/models/retinanet_r50_fpn.py'
    cfg = Config.fromfile(base).model
    cfg.backbone.update(depth=18, init_cfg=None)
    cfg.neck.update(in_channels=[64, 128, 256, 512], out_channels=32)
    cfg.bbox_head.update(in_channels=32, feat_channels=32)
    model = MODELS.build(cfg)
    example = dict(inputs=torch.randn(1, 3, 64, 64), mode='tensor')
    report = binarize(model, tau=2, example=example)
    assert names(report.kept) == ['backbone.conv1', 'bbox_head.retina_cls', 'bbox_head.retina_reg']
    assert all(y.isfinite().all() for part in model(**example) for y in part)


@pytest.mark.parametrize('name', ['swin_t', 'swin_v2_t'])
def test_swin_of_torchvision_runs(name):
    models = pytest.importorskip('torchvision').models
    net = getattr(models, name)(num_classes=3)
    report = binarize(net, tau=2)
    assert any(layer.name.endswith('mlp.0') for layer in report.replaced)
    assert not any('qkv' in layer.name for layer in report.replaced)
    assert net(torch.rand(1, 3, 64, 64)).shape == (1, 3)


@pytest.mark.parametrize('keep', [(), 'middle.0'])
def test_other_layers_of_mmcv_are_kept(keep):
    wrappers = pytest.importorskip('mmcv.cnn.bricks.wrappers')
    net = Net(wrappers.ConvTranspose2d(8, 8, 3), wrappers.Conv2d(8, 8, 1))
    net.volume = wrappers.Conv3d(8, 8, 1)
    report = why(binarize(net, keep=keep, keep_last=False))
    assert keep or report['middle.0'] == ('ConvTranspose2d is neither nn.Conv2d nor nn.Linear')
    assert report['volume'] == 'Conv3d is neither nn.Conv2d nor nn.Linear'
    assert report['middle.1'] == 'now ESConv2d'
