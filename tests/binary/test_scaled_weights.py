"""Weights without a scale, with a scale in the gradient, and with a learned scale."""

import pytest
import torch

from mmesbnn.binary import (
    BinaryConv2d,
    LearnedScaleWeight,
    MagnitudeAwareWeight,
    RankOneScale,
    SignWeight,
    binarize,
    magnitude_aware_weight,
    sign,
    sign_weight,
)


def weight(*shape):
    w = 2 * torch.randn(shape, dtype=torch.float64)
    w.view(-1)[:2] = torch.tensor([1.0, -1.0])
    return w


def gradient(function, w, upstream):
    w = w.clone().requires_grad_()
    function(w).backward(upstream)
    return w.grad


@pytest.mark.parametrize('clip', [1.0, 0.5, None])
def test_plain_signs(clip):
    w, u = weight(4, 3, 2, 2), torch.randn(4, 3, 2, 2, dtype=torch.float64)
    mask = torch.ones_like(w) if clip is None else w.abs() <= clip
    for function in (SignWeight(clip), lambda w: sign_weight(w, clip)):
        assert torch.equal(function(w), sign(w))
        assert torch.equal(gradient(function, w, u), u * mask)


@pytest.mark.parametrize('clip', [1.0, 2.5])
def test_the_magnitude_is_a_factor_of_the_gradient(clip):
    w, u = weight(4, 3, 2, 2), torch.randn(4, 3, 2, 2, dtype=torch.float64)
    scale = w.abs().mean((1, 2, 3), keepdim=True)
    for function in (MagnitudeAwareWeight(clip), lambda w: magnitude_aware_weight(w, clip)):
        torch.testing.assert_close(function(w), scale * sign(w))
        expected = scale * u * (w.abs() <= clip)
        torch.testing.assert_close(gradient(function, w, u), expected)


def test_learned_scales():
    layer = LearnedScaleWeight(channels=4).double()
    layer.scale.data.uniform_(0.5, 2)
    w, u = weight(4, 3, 2, 2), torch.randn(4, 3, 2, 2, dtype=torch.float64)
    scale = layer.scale.detach().view(4, 1, 1, 1)
    torch.testing.assert_close(layer(w).detach(), scale * sign(w))
    torch.testing.assert_close(gradient(layer, w, u), scale * u * (w.abs() <= 1))
    torch.testing.assert_close(layer.scale.grad, (u * sign(w)).sum((1, 2, 3)))
    with pytest.raises(ValueError, match=r'5 output channels.*channels=4'):
        layer(weight(5, 3))


def test_a_layer_fills_in_the_number_of_channels():
    conv = BinaryConv2d(3, 6, 1, weight_binarizer='learned_scale')
    assert conv.weight_binarizer.scale.shape == (6,)
    model = torch.nn.Sequential(*(torch.nn.Conv2d(4, 4, 1) for _ in range(3)))
    binarize(model, tau=2, weight_binarizer='learned_scale')
    assert model[1].conv.weight_binarizer.scale.shape == (2,)


def test_rank_one_scale():
    layer = RankOneScale(3, 4, 5).double()
    for parameter in layer.parameters():
        torch.nn.init.uniform_(parameter, 0.5, 2)
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    a, b, g = layer.of_channels.flatten(), layer.of_rows.flatten(), layer.of_columns
    torch.testing.assert_close(layer(x), torch.einsum('nchw,c,h,w->nchw', x, a, b, g))
    assert torch.autograd.gradcheck(layer, x.requires_grad_())
    for wrong in ((2, 3, 5, 5), (2, 3, 4, 1)):
        with pytest.raises(ValueError, match='RankOneScale: the map is'):
            layer(torch.randn(wrong))


@pytest.mark.parametrize(
    ('build', 'name'),
    [
        (lambda: SignWeight(clip=0), 'clip=0'),
        (lambda: MagnitudeAwareWeight(clip=-1.0), 'clip=-1'),
        (lambda: LearnedScaleWeight(channels=0), 'channels=0'),
        (lambda: RankOneScale(3, 0, 5), 'height=0'),
    ],
)
def test_wrong_arguments(build, name):
    with pytest.raises(ValueError, match=name):
        build()


def test_options_show_in_the_representation():
    assert 'clip=None, zero=-1' in repr(SignWeight(None))
    assert 'clip=2.0, zero=0' in repr(MagnitudeAwareWeight(2.0, 0))
    assert '4, clip=1.0' in repr(LearnedScaleWeight(4))
