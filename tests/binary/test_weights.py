"""Effective weights and their gradients equal formulas in numpy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from mmesbnn.binary import (
    CentredSignWeight,
    FixedWeight,
    RealWeight,
    ScaledSignWeight,
    TemperatureWeight,
    build_weight_binarizer,
    centred_sign_weight,
    scaled_sign_weight,
    temperature_weight,
)

SHAPES = [(4, 3, 3, 3), (5, 2, 1, 1), (3, 7)]
LIMIT = np.float32(1e-7)
TEMPERATURES = {
    'one': 1.0,
    'usual': 0.3,
    'cold': 1e-6,
    'just above': float(np.nextafter(LIMIT, np.float32(1))),
    'just below': float(np.nextafter(LIMIT, np.float32(0))),
    'zero': 0.0,
}


def tensor(array, dtype=torch.float64):
    return torch.tensor(np.asarray(array), dtype=dtype)


def gradient(function, weight, upstream):
    weight = weight.clone().requires_grad_()
    function(weight).backward(upstream)
    return weight.grad


def close(got, expected, tolerance=1e-12):
    torch.testing.assert_close(
        got.detach().double(), tensor(expected), rtol=tolerance, atol=tolerance
    )


def numpy_sign(w, zero=-1):
    return np.where(w > 0, 1.0, np.where(w < 0, -1.0, zero))


def per_output(w, statistic):
    flat = w.reshape(len(w), -1)
    return statistic(flat, axis=1).reshape(-1, *[1] * (w.ndim - 1))


def numpy_scaled_sign(w, zero=-1):
    return per_output(np.abs(w), np.mean) * numpy_sign(w, zero)


def numpy_centred_sign(w, zero=-1):
    centred = w - per_output(w, np.mean)
    return per_output(np.abs(w), np.mean) * numpy_sign(centred, zero)


# temperature ---------------------------------------------------------------------


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('name', TEMPERATURES)
def test_temperature_formula(name, dtype):
    temperature = TEMPERATURES[name]
    w = np.array([-3, -0.2, -2e-7, -4e-8, 0, 4e-8, 2e-7, 0.1, 0.2, 0.7, 3])
    if temperature < 1e-7:
        expected = numpy_sign(w)
    else:
        expected = np.clip(w / max(temperature, 1e-8), -1, 1)
    got = temperature_weight(tensor(w, dtype), torch.tensor([temperature], dtype=dtype))
    assert got.dtype == dtype
    close(got, expected, 1e-6 if dtype == torch.float32 else 1e-14)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_weights_are_signs_only_strictly_below_the_limit(dtype):
    w = torch.tensor([4e-8], dtype=dtype)
    limit = torch.tensor([1e-7], dtype=dtype)
    below, above = (torch.nextafter(limit, torch.full_like(limit, to)) for to in (0, 1))
    assert temperature_weight(w, below).item() == 1
    assert temperature_weight(w, limit).item() == pytest.approx(0.4)
    assert temperature_weight(w, above).item() == pytest.approx(0.4)


def test_the_limit_is_an_option():
    w, temperature = torch.tensor([4e-7, -4e-7]), torch.tensor([5e-6])
    assert temperature_weight(w, temperature, 1e-5).tolist() == [1, -1]
    soft = temperature_weight(w, temperature, 1e-7)
    assert soft.tolist() == pytest.approx([0.08, -0.08])


def test_soft_weights_are_divided_by_1e_8_at_least():
    w, temperature = torch.tensor([2e-9, -5e-9, 0.0]), torch.tensor([1e-12])
    soft = temperature_weight(w, temperature, binary_below=0.0)
    assert soft.tolist() == pytest.approx([0.2, -0.5, 0])


@pytest.mark.parametrize('temperature', [0.0, 1e-8])
def test_temperature_zero_convention_holds_once_binary(temperature):
    w, cold = torch.zeros(1), torch.tensor([temperature])
    assert temperature_weight(w, cold).item() == -1
    assert temperature_weight(w, cold, zero=0).item() == 0


@pytest.mark.parametrize('temperature', TEMPERATURES.values())
def test_temperature_gradient_is_the_identity_without_a_mask(temperature):
    w, upstream = torch.randn(4, 3, 3, 3) * 10, torch.randn(4, 3, 3, 3)
    w[0, 0, 0, 0] = 0
    cold = torch.tensor([temperature])
    got = gradient(lambda w: temperature_weight(w, cold), w, upstream)
    assert torch.equal(got, upstream)


@pytest.mark.parametrize('temperature', [1.0, 1e-9])
def test_temperature_forward_is_the_same_with_and_without_gradient(temperature):
    w = torch.tensor([3e8, -1e-3, 0.0, 0.3, math.inf, -math.inf, math.nan])
    cold = torch.tensor([temperature])
    without = temperature_weight(w, cold)
    assert without.isnan().tolist() == [False] * 6 + [True]
    assert without[-3:-1].tolist() == [1, -1]
    trained = temperature_weight(w.requires_grad_(), cold).detach()
    assert torch.equal(trained[:-1], without[:-1])
    assert trained[-1].isnan()


def test_a_broken_temperature_shows():
    assert temperature_weight(torch.ones(2), torch.tensor([math.nan])).isnan().all()


def test_temperature_module_keeps_its_temperature_as_a_buffer():
    layer = TemperatureWeight()
    assert layer.state_dict() == {'temperature': torch.ones(1)}
    w = torch.randn(3, 4)
    assert torch.equal(layer.train()(w), w.clamp(-1, 1))
    layer.load_state_dict({'temperature': torch.tensor([0.5])})
    assert torch.equal(layer(w), (2 * w).clamp(-1, 1))
    assert layer.temperature.item() == 0.5, 'forward moved it'


def test_temperature_module_passes_its_options_on():
    layer = TemperatureWeight(binary_below=2.0, zero=0)
    assert layer(torch.tensor([0.5, -0.5, 0])).tolist() == [1, -1, 0]
    assert 'binary_below=2.0' in repr(layer)
    assert 'zero=0' in repr(layer)


@pytest.mark.parametrize('kind', ['temperature', 'scaled_sign', 'centred_sign', 'real'])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_modules_keep_the_dtype_they_were_cast_to(kind, dtype):
    layer = build_weight_binarizer(kind).to(dtype)
    assert layer(torch.randn(3, 4, dtype=dtype)).dtype == dtype
    assert layer(torch.randn(3, 4, dtype=dtype, requires_grad=True)).dtype == dtype


# scaled sign ---------------------------------------------------------------------


@pytest.mark.parametrize('attached', [False, True])
@pytest.mark.parametrize('shape', SHAPES)
def test_scaled_sign_formula(shape, attached):
    w = torch.randn(shape, dtype=torch.float64)
    close(scaled_sign_weight(w, attached), numpy_scaled_sign(w.numpy()))
    w.requires_grad_()
    close(scaled_sign_weight(w, attached), numpy_scaled_sign(w.detach().numpy()))


@pytest.mark.parametrize('shape', SHAPES)
def test_detached_scale_passes_gradients_of_small_weights(shape):
    w = 2 * torch.randn(shape, dtype=torch.float64)
    w.view(-1)[:2] = torch.tensor([1.0, -1.0])
    upstream = torch.randn_like(w)
    mask = w.abs() <= 1
    assert 0 < mask.sum() < mask.numel()
    assert torch.equal(gradient(scaled_sign_weight, w, upstream), upstream * mask)


def attached_scaled_sign(w):
    return scaled_sign_weight(w, attached=True)


@pytest.mark.parametrize('shape', SHAPES)
def test_attached_scale_gradient_formula(shape):
    w = 2 * torch.randn(shape, dtype=torch.float64)
    upstream = torch.randn_like(w)
    weight, g = w.numpy(), upstream.numpy()
    scale, signs = per_output(np.abs(weight), np.mean), numpy_sign(weight)
    expected = scale * g + signs * per_output(g * signs, np.mean)
    close(gradient(attached_scaled_sign, w, upstream), expected)


def test_attached_scale_gradient_against_finite_differences():
    # Away from 0 the sign is constant: what differences see is the scale's part.
    w = torch.randn(3, 2, 3, 3, dtype=torch.float64)
    w = w + 0.1 * w.sign()
    upstream = torch.randn_like(w)
    step, differences = 1e-6, torch.zeros_like(w)
    for i in range(w.numel()):
        bump = torch.zeros_like(w)
        bump.view(-1)[i] = step
        change = attached_scaled_sign(w + bump) - attached_scaled_sign(w - bump)
        differences.view(-1)[i] = (upstream * change).sum() / (2 * step)
    through_sign = upstream * w.abs().mean((1, 2, 3), keepdim=True)
    got = gradient(attached_scaled_sign, w, upstream) - through_sign
    torch.testing.assert_close(got, differences, rtol=1e-7, atol=1e-8)


@given(arrays(np.float64, (3, 5), elements=st.floats(-2, 2)))
def test_every_output_channel_has_one_magnitude(w):
    magnitudes = scaled_sign_weight(tensor(w)).abs()
    close(magnitudes, np.broadcast_to(np.abs(w).mean(1, keepdims=True), w.shape))


@pytest.mark.parametrize('function', [scaled_sign_weight, centred_sign_weight])
def test_output_channels_take_two_values(function):
    for channel in function(torch.randn(6, 8, 3, 3)):
        low, high = channel.unique().tolist()
        assert low == -high < 0


@pytest.mark.parametrize(
    'function', [scaled_sign_weight, attached_scaled_sign, centred_sign_weight]
)
def test_zero_weights_stay_zero_and_nan_shows(function):
    w = torch.randn(3, 2, 3, 3)
    w[0] = 0
    w[1, 0, 0, 0] = math.nan
    for requires_grad in (False, True):
        effective = function(w.requires_grad_(requires_grad))
        assert not effective[0].any()
        assert effective[1].isnan().all()
        assert effective[2].isfinite().all()


@pytest.mark.parametrize('attached', [False, True])
def test_scaled_sign_of_zero_follows_the_convention(attached):
    w = torch.tensor([[0.0, 3.0]])
    assert scaled_sign_weight(w, attached).tolist() == [[-1.5, 1.5]]
    assert scaled_sign_weight(w, attached, zero=0).tolist() == [[0, 1.5]]


# centred sign --------------------------------------------------------------------


@pytest.mark.parametrize('shape', SHAPES)
def test_centred_sign_formula(shape):
    w = torch.randn(shape, dtype=torch.float64) + 0.7
    expected = numpy_centred_sign(w.numpy())
    assert not np.allclose(expected, numpy_scaled_sign(w.numpy()))
    close(centred_sign_weight(w), expected)
    close(centred_sign_weight(w.requires_grad_()), expected)


@pytest.mark.parametrize('shape', SHAPES)
def test_centred_gradient_formula(shape):
    w = 2 * torch.randn(shape, dtype=torch.float64) + 0.7
    upstream = torch.randn_like(w)
    weight, g = w.numpy(), upstream.numpy()
    mask = np.abs(weight - per_output(weight, np.mean)) <= 1
    assert 0 < mask.sum() < mask.size
    expected = mask * g - per_output(mask * g, np.mean)
    close(gradient(centred_sign_weight, w, upstream), expected)


def test_centred_sign_of_zero_follows_the_convention():
    w = torch.tensor([[1.0, 2.0, 3.0]])
    assert centred_sign_weight(w).tolist() == [[-2, -2, 2]]
    assert centred_sign_weight(w, zero=0).tolist() == [[-2, 0, 2]]


# modules -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('layer', 'function'),
    [
        (ScaledSignWeight(), scaled_sign_weight),
        (ScaledSignWeight(zero=0), lambda w: scaled_sign_weight(w, zero=0)),
        (ScaledSignWeight(attached=True), attached_scaled_sign),
        (CentredSignWeight(), centred_sign_weight),
        (CentredSignWeight(zero=0), lambda w: centred_sign_weight(w, zero=0)),
    ],
)
def test_modules_are_their_functions(layer, function):
    w, upstream = torch.randn(3, 5).round(decimals=1), torch.randn(3, 5)
    w[0], w[1, 0] = torch.arange(-2.0, 3), 0
    assert torch.equal(layer(w), function(w))
    expected = gradient(function, w, upstream)
    assert torch.equal(gradient(layer, w, upstream), expected)
    assert not layer.state_dict()


@pytest.mark.parametrize('module', [RealWeight, FixedWeight])
def test_real_and_fixed_weights_are_the_latent_ones(module):
    w = torch.randn(3)
    assert module()(w) is w


def test_options_show_in_the_representation():
    assert 'attached=True, zero=0' in repr(ScaledSignWeight(True, 0))
    assert 'zero=0' in repr(CentredSignWeight(0))


@pytest.mark.parametrize('module', [TemperatureWeight, ScaledSignWeight, CentredSignWeight])
def test_other_zeros_are_refused(module):
    with pytest.raises(ValueError, match='zero=1'):
        module(zero=1)


@pytest.mark.parametrize(
    ('spec', 'kind'),
    [
        ('temperature', TemperatureWeight),
        ('scaled_sign', ScaledSignWeight),
        ('centred_sign', CentredSignWeight),
        ('real', RealWeight),
        ('fixed', FixedWeight),
        (dict(type='scaled_sign', attached=True), ScaledSignWeight),
    ],
)
def test_binarizers_are_built_by_name(spec, kind):
    layer = build_weight_binarizer(spec)
    assert type(layer) is kind
    assert getattr(layer, 'attached', False) == isinstance(spec, dict)


def test_build_copies_a_module():
    layer = nn.PReLU(3)
    built = build_weight_binarizer(layer)
    assert type(built) is nn.PReLU and built is not layer
    assert built.weight is not layer.weight and torch.equal(built.weight, layer.weight)


@pytest.mark.parametrize('spec', ['sign', dict(type='sign'), dict(zero=0)])
def test_unknown_binarizers_are_refused_by_name(spec):
    with pytest.raises(ValueError, match=r'weight_binarizer=.*scaled_sign.*temperature'):
        build_weight_binarizer(spec)


def test_compiles_to_one_graph():
    temperature = torch.tensor([0.4])

    def every_binarizer(w):
        return (
            temperature_weight(w, temperature)
            + scaled_sign_weight(w)
            + attached_scaled_sign(w)
            + centred_sign_weight(w)
        )

    w, upstream = torch.randn(4, 3, 3, 3), torch.randn(4, 3, 3, 3)
    compiled = torch.compile(every_binarizer, backend='aot_eager', fullgraph=True)
    torch.testing.assert_close(compiled(w), every_binarizer(w))
    expected = gradient(every_binarizer, w, upstream)
    torch.testing.assert_close(gradient(compiled, w, upstream), expected)
