"""Layers refuse inputs that do not fit; messages have the layer's rule and the shape."""

import warnings

import pytest
import torch

from mmesbnn import binary
from mmesbnn.models import backbones

MAPS, TOKENS = (2, 8, 6, 6), (2, 4, 8)

LAYERS = [
    (binary.BinaryConv2d(8, 4, 3), MAPS),
    (binary.ShrunkConv2d(4, 4, 3, expansion=binary.Expansion(2)), MAPS),
    (binary.ESConv2d(8, 4, 3, tau=2, es_groups=2), MAPS),
    (binary.TiledBatchNorm2d(16, 2), MAPS),
    (binary.LearnableShift(8), MAPS),
    (binary.RSign(8), MAPS),
    (binary.RPReLU(8), MAPS),
    (binary.BinaryLinear(8, 4), TOKENS),
    (binary.ShrunkLinear(2, 4, expansion=binary.Expansion(2, 2)), TOKENS),
    (binary.ESLinear(8, 4, tau=2, es_groups=2), TOKENS),
    (binary.LearnableShift(8, channels_last=True), TOKENS),
    (binary.RSign(8, channels_last=True), TOKENS),
    (binary.RPReLU(8, channels_last=True), TOKENS),
    (binary.BinaryMultiheadAttention(8, 2), TOKENS),
    (binary.BinaryFeedForward(4, 16, tau=2, expanded=True), TOKENS),
    (binary.BinaryFeedForward(8, 16, tau=2), TOKENS),
    (backbones.BNext(dict(channels=[8, 8, 16], depths=[1, 1]), in_channels=4), (2, 4, 32, 32)),
    (backbones.ReActNet(dict(channels=[8, 8, 16], depths=[1, 1]), in_channels=4), (2, 4, 32, 32)),
    (backbones.BiDetResNet(widths=(8, 8, 16), depths=(1, 1)), (2, 3, 32, 32)),
    (backbones.BiDetResStage(8, 16, depth=1), MAPS),
    (
        backbones.BiDetVGG(dict(channels=[8, 8, 16, 16], depths=[1, 1]), out_indices=(0,)),
        (2, 3, 32, 32),
    ),
    (
        backbones.BinaryViT(
            dict(dims=[8, 16], depths=[1, 1], heads=[1, 2], ffn_dims=[16, 32], sr_ratios=[2, 1]),
            img_size=32,
        ),
        (2, 3, 32, 32),
    ),
]
NAMES = [f'{type(layer).__name__}-{i}' for i, (layer, _) in enumerate(LAYERS)]


def wrong_shapes(shape):
    axis = 1 if len(shape) == 4 else -1
    for width in (1, shape[axis] + 1, 2 * shape[axis]):
        other = list(shape)
        other[axis] = width
        yield tuple(other)
    yield ()
    if len(shape) == 4:
        yield shape[1:]
        yield (1, *shape)


@pytest.mark.parametrize(('layer', 'shape'), LAYERS, ids=NAMES)
def test_wrong_shapes(layer, shape):
    layer.eval()(torch.randn(shape))
    for wrong in wrong_shapes(shape):
        with pytest.raises(ValueError, match=type(layer).__name__) as caught:
            layer(torch.randn(wrong))
        assert str(caught.value).endswith(f'not float32 of shape {wrong}')


@pytest.mark.parametrize(('layer', 'shape'), LAYERS, ids=NAMES)
def test_wrong_kinds(layer, shape):
    x = torch.ones(shape)
    for wrong in (x.long(), x.to(torch.uint8), x.bool(), x.to(torch.complex64), x.numpy(), None):
        with pytest.raises(TypeError, match=f'{type(layer).__name__}: the input must be'):
            layer.eval()(wrong)


def test_the_residual_of_a_unit():
    unit = binary.ResidualBinaryLinear(8, 4)
    unit(torch.randn(2, 4, 8), torch.randn(2, 4, 4))
    with pytest.raises(ValueError, match='the residual must be'):
        unit(torch.randn(2, 4, 8), torch.randn(2, 4, 1))
    with pytest.raises(ValueError, match='the input must be'):
        unit(torch.randn(2, 4, 1), torch.randn(2, 4, 4))


def test_signs_of_integers():
    with pytest.raises(TypeError, match=r'must be a floating tensor, not torch\.int64'):
        binary.sign(torch.tensor([1, -1]))


@pytest.mark.parametrize('index', [*range(13), 14, 15])  # attention can also give other warnings
def test_traces_do_not_see_the_checks(index):
    layer, shape = LAYERS[index]
    layer, x = layer.eval(), torch.randn(shape)
    with warnings.catch_warnings():
        warnings.simplefilter('error', torch.jit.TracerWarning)
        traced = torch.jit.trace(layer, x)
    torch.testing.assert_close(traced(x), layer(x))


@pytest.mark.parametrize('index', [0, 2, 3, 8, 13, 15])
def test_graphs_have_no_breaks(index):
    layer, shape = LAYERS[index]
    layer, x = layer.eval(), torch.randn(shape)
    whole = torch.compile(layer, backend='eager', fullgraph=True)
    torch.testing.assert_close(whole(x), layer(x))


def test_func_maps_over_samples():
    conv = binary.BinaryConv2d(8, 4, 3)
    x = torch.randn(2, 3, 8, 6, 6)
    torch.testing.assert_close(torch.func.vmap(conv)(x), torch.stack([conv(y) for y in x]))
