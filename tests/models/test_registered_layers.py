"""Networks of mmcv and mmpretrain take binary convolutions through ``conv_cfg``."""

import pytest

pytest.importorskip('mmpretrain')

import torch
from mmcv.cnn import ConvModule, build_conv_layer
from mmengine.registry import MODELS
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from torch import nn

import mmesbnn  # noqa: F401  (registers)
from mmesbnn.analysis import count_ops
from mmesbnn.binary import BinaryConv2d, BinaryLinear, BinaryMultiheadAttention, ESConv2d, ESLinear
from mmesbnn.models.layers import es_conv2d

ES = dict(type='ESConv2d', tau=2, es_groups=1)


@pytest.mark.parametrize('registry', [MODELS, MMPRETRAIN_MODELS])
@pytest.mark.parametrize(
    ('name', 'kind'),
    [
        ('BinaryConv2d', BinaryConv2d),
        ('BinaryLinear', BinaryLinear),
        ('BinaryMultiheadAttention', BinaryMultiheadAttention),
        ('ESConv2d', es_conv2d),
        ('ESLinear', ESLinear),
    ],
)
def test_names_mean_the_layers_in_child_registries_too(registry, name, kind):
    assert registry.get(name) is kind


@pytest.mark.parametrize('cfg', [dict(type='BinaryConv2d'), ES])
def test_mmcv_builds_a_convolution_of_the_same_shape(cfg):
    layer = build_conv_layer(cfg, 8, 12, 3, stride=2, padding=1, bias=False)
    plain = nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=False)
    x = torch.randn(2, 8, 9, 9)
    y = layer(x)
    assert y.shape == plain(x).shape
    y.square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in layer.parameters())
    assert sum(p.numel() for p in layer.parameters() if p.dim() == 4) == 8 * 12 * 9


def test_mmcv_passes_options_on():
    layer = build_conv_layer(dict(type='BinaryConv2d', pad_value=-1), 4, 4, 3)
    assert type(layer) is BinaryConv2d and layer.pad_value == -1
    layer = build_conv_layer(dict(ES, tau=4, es_groups=2), 8, 16, 1)
    assert type(layer) is ESConv2d
    assert (layer.expansion.tau, layer.expansion.groups) == (4, 2)


def test_conv_module_takes_es_groups():
    module = ConvModule(8, 8, 3, padding=1, conv_cfg=ES, norm_cfg=dict(type='BN'))
    assert type(module.conv) is ESConv2d
    assert (module.conv.expansion.tau, module.conv.expansion.groups) == (2, 1)
    assert module.conv.bias is None
    x = torch.randn(2, 8, 5, 5)
    expected = module.norm(module.conv(x)).relu()
    assert torch.equal(module(x), expected)
    # copies of the same small map: the first half of the channels is the second
    y = module.conv(x)
    assert torch.equal(y[:, :4], y[:, 4:])


def resnet(**kwargs):
    return MMPRETRAIN_MODELS.build(dict(type='ResNet', depth=18, **kwargs))


def test_resnet_trains_a_step():
    # not zero, because residual branches would then start without a gradient
    model = resnet(conv_cfg=ES, zero_init_residual=False)
    model.init_weights()
    convs = [m for m in model.modules() if isinstance(m, ESConv2d)]
    assert len(convs) == 20
    before = [conv.conv.weight.detach().clone() for conv in convs]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = model(torch.randn(2, 3, 64, 64))[-1].square().mean()
    loss.backward()
    optimizer.step()
    assert loss.isfinite()
    assert all(p.isfinite().all() for p in model.parameters())
    for conv, old in zip(convs, before):
        assert conv.shift.grad.abs().max() > 0
        assert not torch.equal(conv.conv.weight, old)


@pytest.mark.parametrize('cfg', [ES, dict(ES, tau=4), dict(ES, es_groups=2)])
def test_resnets_binary_multiplications_are_those_of_its_convolutions(cfg):
    plain = count_ops(resnet(), (3, 64, 64)).total
    binary = count_ops(resnet(conv_cfg=cfg), (3, 64, 64)).total
    assert plain['bops'] == 0 < plain['fp_macs']
    assert binary['bops'] == plain['fp_macs']
    assert binary['fp_macs'] == binary['int_macs'] == 0
    assert binary['binary_layers'] == 20
    weights = sum(p.numel() for p in resnet().parameters() if p.dim() == 4)
    assert binary['binary_params'] == weights
