"""Networks of mmpretrain and mmdet train with ``conv_cfg=dict(type='ESConv2d')``."""

import re

import pytest

pytest.importorskip('mmcv')

import torch
from mmcv.cnn import ConvModule, build_conv_layer
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

from mmesbnn.analysis import check_binary, count_ops
from mmesbnn.binary import ESConv2d
from mmesbnn.checkpoints import read_checkpoint
from mmesbnn.models.layers import es_conv2d

ES = dict(type='ESConv2d', tau=2, es_groups=1)


def drop_ins(model):
    return [m for m in model.modules() if isinstance(m, ESConv2d)]


def floats(model):
    return [m for m in model.modules() if type(m) is nn.Conv2d]


# what is built --------------------------------------------------------------------


@pytest.mark.parametrize(
    ('options', 'groups'), [(dict(), 1), (dict(es_groups=2), 2), (dict(groups=1, es_groups=4), 4)]
)
def test_dense_convolutions_become_es_ones(options, groups):
    layer = es_conv2d(8, 16, 3, 2, 1, bias=True, tau=2, spread=0.25, **options)
    assert type(layer) is ESConv2d
    assert (layer.expansion.tau, layer.expansion.groups) == (2, groups)
    assert layer.shift.min() == -0.5 and layer.shift.max() == 0 and layer.bias is not None
    assert layer(torch.randn(2, 8, 9, 9)).shape == (2, 16, 5, 5)


@pytest.mark.parametrize('options', [dict(groups=8), dict(groups=8, es_groups=2), dict(groups=2)])
def test_depthwise_and_grouped_convolutions_stay_real(options):
    layer = es_conv2d(8, 16, 3, 2, 1, 2, bias=True, tau=2, **options)
    assert type(layer) is nn.Conv2d and layer.groups == options['groups']
    assert (layer.kernel_size, layer.stride, layer.padding, layer.dilation) == (
        (3, 3),
        (2, 2),
        (1, 1),
        (2, 2),
    )
    assert layer.bias is not None and layer.out_channels == 16


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(es_groups=3), 'groups=3 does not divide'),
        (dict(tau=3), 'tau=3 does not divide out_channels=128'),
        (dict(tau=0), 'tau=0 must be an integer >= 1'),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        es_conv2d(64, 128, 3, **options)


def test_mmcv_builds_both():
    dense = build_conv_layer(dict(type='ESConv2d', tau=2), 8, 8, 3)
    depthwise = build_conv_layer(dict(type='ESConv2d', tau=2), 8, 8, 3, groups=8)
    assert type(dense) is ESConv2d and type(depthwise) is nn.Conv2d
    module = ConvModule(8, 8, 3, groups=8, conv_cfg=ES, norm_cfg=dict(type='BN'))
    assert type(module.conv) is nn.Conv2d and module.conv.groups == 8


@pytest.mark.parametrize('cfg', [ES, dict(type='ESConv2d', tau=2)])
def test_mobilenets_depthwise_convolutions_stay_real(cfg):
    registry = pytest.importorskip('mmpretrain.registry').MODELS
    plain = registry.build(dict(type='MobileNetV2'))
    model = registry.build(dict(type='MobileNetV2', conv_cfg=cfg))
    real = floats(model)
    assert len(real) == 17
    assert all(conv.groups == conv.in_channels > 1 for conv in real)
    assert len(drop_ins(model)) == len(floats(plain)) - len(real)
    before, after = (count_ops(net, (3, 32, 32)).total for net in (plain, model))
    assert before['fp_macs'] == after['fp_macs'] + after['bops']
    assert after['bops'] > after['fp_macs'] > 0


# what trains ----------------------------------------------------------------------


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
    """Write 32 scanned digits of four classes as an image folder."""
    root = tmp_path_factory.mktemp('digits')
    scans = load_digits(n_class=4)
    for i in range(32):
        folder = root / str(scans.target[i])
        folder.mkdir(exist_ok=True)
        grey = (scans.images[i] * 255 / 16).astype('uint8')
        Image.fromarray(grey).save(folder / f'{i}.png')
    return root


def config(backbone, channels, root, work_dir):
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=32),
        dict(type='PackInputs'),
    ]
    return Config(
        dict(
            default_scope='mmpretrain',
            custom_imports=dict(imports=['mmesbnn']),
            model=dict(
                type='ImageClassifier',
                backbone=backbone,
                neck=dict(type='GlobalAveragePooling'),
                head=dict(type='LinearClsHead', num_classes=4, in_channels=channels),
            ),
            data_preprocessor=dict(num_classes=4, mean=[77.0] * 3, std=[94.0] * 3),
            train_dataloader=dict(
                batch_size=16,
                num_workers=0,
                sampler=dict(type='DefaultSampler', shuffle=True),
                dataset=dict(type='CustomDataset', data_root=str(root), pipeline=pipeline),
            ),
            train_cfg=dict(by_epoch=True, max_epochs=2),
            optim_wrapper=dict(
                optimizer=dict(type='AdamW', lr=1e-3, weight_decay=1e-3),
                constructor='BinaryOptimWrapperConstructor',
            ),
            custom_hooks=[dict(type='SignFlipHook')],
            default_hooks=dict(logger=dict(type='LoggerHook', interval=1)),
            work_dir=str(work_dir),
            log_level='ERROR',
            randomness=dict(seed=0),
        )
    )


BACKBONES = {
    'resnet': (dict(type='ResNet', depth=18, stem_channels=16, base_channels=16), 128, 20),
    'resnet-groups': (dict(type='ResNet', depth=50, stem_channels=8, base_channels=8), 256, 53),
    'mobilenet-v2': (dict(type='MobileNetV2', widen_factor=0.5), 1280, 35),
    'mobilenet-v3': (dict(type='MobileNetV3', arch='small_075'), 432, None),
}


@pytest.mark.parametrize('name', BACKBONES)
def test_networks_of_mmpretrain_train_from_a_config(name, digits, tmp_path):
    pytest.importorskip('mmpretrain')
    backbone, channels, count = BACKBONES[name]
    cfg = dict(ES, es_groups=2) if name == 'resnet-groups' else ES
    backbone = dict(backbone, conv_cfg=cfg)
    runner = Runner.from_cfg(config(backbone, channels, digits, tmp_path))
    binary = drop_ins(runner.model)
    assert len(binary) == count if count else len(binary) > 20
    before = [layer.conv.weight.detach().clone() for layer in binary]
    runner.train()
    assert all(p.isfinite().all() for p in runner.model.parameters())
    for layer, old in zip(binary, before):
        assert not torch.equal(layer.conv.weight, old)
    assert runner.iter == 4
    # the checkpoint of a binary network loads strictly into a newly built one
    twin = Runner.from_cfg(config(backbone, channels, digits, tmp_path / 'twin'))
    state = read_checkpoint(tmp_path / 'epoch_2.pth')['state_dict']
    twin.model.load_state_dict(state)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(twin.model.eval()(x), runner.model.eval()(x))
    assert check_binary(runner.model, x) == []


def detector(groups):
    pytest.importorskip('mmcv.ops', exc_type=ImportError)
    from mmdet.registry import MODELS

    cfg = dict(type='ESConv2d', tau=2, es_groups=groups)
    # mmdet's ResNet passes no groups, its FPN builds through ConvModule, which does
    backbone = dict(
        type='ResNet',
        depth=18,
        base_channels=16,
        conv_cfg=cfg,
        frozen_stages=-1,
        norm_eval=False,
        zero_init_residual=False,
    )
    neck = dict(
        type='FPN',
        in_channels=[16, 32, 64, 128],
        out_channels=32,
        num_outs=5,
        conv_cfg=cfg,
        norm_cfg=dict(type='BN'),
    )
    return nn.Sequential(MODELS.build(backbone), MODELS.build(neck))


@pytest.mark.parametrize('groups', [1, 2])
def test_mmdets_resnet_and_fpn_train_a_step(groups):
    model = detector(groups)
    for part in model:
        part.init_weights()
    binary = drop_ins(model)
    assert not floats(model) and len(binary) == 20 + 8
    before = [layer.conv.weight.detach().clone() for layer in binary]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(2, 3, 64, 64)
    outputs = model(x)
    assert [y.shape[1:] for y in outputs] == [(32, side, side) for side in (16, 8, 4, 2, 1)]
    loss = sum(y.square().mean() for y in outputs)
    loss.backward()
    optimizer.step()
    assert loss.isfinite()
    for layer, old in zip(binary, before):
        assert layer.shift.grad.abs().max() > 0
        assert not torch.equal(layer.conv.weight, old)
    assert check_binary(model, x) == []


def test_copies_start_by_the_norm_behind_not_by_the_layer():
    with pytest.raises(ValueError, match=r"copy_init='signs': .*type='CopyInitHook'"):
        es_conv2d(8, 8, 3, tau=2, copy_init='signs')
