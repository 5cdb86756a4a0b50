"""Fusing batch norms into convolutions keeps binary networks correct or is refused."""

import copy
from functools import partial

import pytest

pytest.importorskip('mmcv')

import torch
from mmcv.cnn import fuse_conv_bn
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from mmesbnn.binary import BinaryConv2d, BinaryLinear, TiledBatchNorm2d
from tests import families


@torch.no_grad()
@pytest.mark.parametrize('name', [n for n in families.NAMES if 'diff' not in n])
def test_fusing_is_right_or_refused(name):
    model, inputs = families.build(name)
    try:
        fused = fuse_conv_bn(copy.deepcopy(model))
        outputs = families.tensors(fused(*inputs))
    except (TypeError, RuntimeError) as error:
        # a full-precision convolution whose norm has more channels cannot be reshaped
        assert 'cannot be fused with a batch norm' in str(error) or (
            'is invalid for input of size' in str(error)
        )
        return
    for ours, theirs in zip(outputs, families.tensors(model(*inputs)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('fuse', [fuse_conv_bn, None])
def test_a_binary_convolution_is_not_fused(fuse):
    pair = nn.Sequential(BinaryConv2d(4, 4, 3), TiledBatchNorm2d(4)).eval()
    with pytest.raises(TypeError, match='cannot be fused with a batch norm'):
        fuse(pair) if fuse else fuse_conv_bn_eval(*pair)


def fused(weight_binarizer, kind, fuse):
    """Return the result of a layer with a bias and a norm, and of both fused by ``fuse``."""
    torch.manual_seed(0)
    layer = kind(bias=True, weight_binarizer=weight_binarizer).eval()
    norm = (nn.BatchNorm1d if isinstance(layer, nn.Linear) else nn.BatchNorm2d)(4).eval()
    nn.init.uniform_(norm.weight, -2, 2)
    nn.init.uniform_(norm.running_mean, -1, 1)
    x = torch.randn(3, 4) if isinstance(layer, nn.Linear) else torch.randn(2, 4, 5, 5)
    expected = norm(layer(x))
    return expected, fuse(layer, norm)(x)


FUSING = [
    (partial(BinaryConv2d, 4, 4, 3), fuse_conv_bn_eval),
    (partial(BinaryConv2d, 4, 4, 3), lambda *pair: fuse_conv_bn(nn.Sequential(*pair))),
    (partial(BinaryLinear, 4, 4), fuse_linear_bn_eval),
]


@torch.no_grad()
@pytest.mark.parametrize('kind, fuse', FUSING)
@pytest.mark.parametrize('binarizer', ['plain_sign', 'learned_scale', 'balanced', 'recu'])
def test_a_layer_with_a_bias_that_would_lose_the_gains_is_not_fused(binarizer, kind, fuse):
    with pytest.raises(TypeError, match='cannot be fused with a batch norm, because its '):
        fused(binarizer, kind, fuse)


@torch.no_grad()
@pytest.mark.parametrize('kind, fuse', FUSING)
@pytest.mark.parametrize('binarizer', ['scaled_sign', 'centred_sign', 'magnitude_aware', 'real'])
def test_a_layer_whose_scales_take_the_gains_is_fused(binarizer, kind, fuse):
    torch.testing.assert_close(*fused(binarizer, kind, fuse), rtol=1e-4, atol=1e-5)


def test_weight_and_bias_can_be_replaced():
    layer = BinaryConv2d(4, 4, 3, bias=True, weight_binarizer='plain_sign')
    for weight in (torch.randn(4, 4, 3, 3), layer.weight.detach().clone()):
        layer.weight = nn.Parameter(weight)
        layer.bias = nn.Parameter(torch.ones(4))
    layer.weight = nn.Parameter(2 * layer.weight.detach())
    layer.bias = None


@pytest.mark.parametrize('training', [True, False])
def test_norms_are_not_merged_on_the_fly(training):
    from mmengine.model.efficient_conv_bn_eval import turn_on_efficient_conv_bn_eval

    net = nn.Sequential(nn.Sequential(BinaryConv2d(4, 4, 3), TiledBatchNorm2d(4))).train(training)
    turn_on_efficient_conv_bn_eval(net, '0')
    with pytest.raises(TypeError, match='only the signs of its weight count'):
        net(torch.randn(2, 4, 5, 5))


def test_biases_can_be_set_where_there_is_one():
    for layer in (BinaryConv2d(4, 4, 3, bias=True), BinaryLinear(4, 4, bias=True)):
        layer.bias = nn.Parameter(torch.ones(4))
        assert layer.bias.sum() == 4
    layer = BinaryLinear(4, 4)
    layer.bias = None
    with pytest.raises(TypeError, match='BinaryLinear was made without a bias'):
        layer.bias = nn.Parameter(torch.ones(4))


def test_the_fused_proposal_network_stops():
    pytest.importorskip('mmcv.ops', exc_type=ImportError)
    pytest.importorskip('mmdet')
    from tests.models.test_bidet_faster_rcnn import make_rpn

    head = fuse_conv_bn(make_rpn().eval())
    with pytest.raises(TypeError, match='rpn_conv has lost its norm'):
        head.features(torch.randn(1, 8, 4, 4))
