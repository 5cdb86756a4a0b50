"""Values and training gradients of the sign."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mmesbnn.binary import (
    HardTanhSign,
    IdentitySign,
    QuadraticSign,
    build_sign,
    hard_tanh_sign,
    identity_sign,
    quadratic_sign,
    sign,
    straight_through,
)
from mmesbnn.binary.signs import clip_to

FUNCTIONS = (sign, hard_tanh_sign, quadratic_sign, identity_sign)
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
MODULES = (HardTanhSign, QuadraticSign, IdentitySign)

finite_floats = st.floats(allow_nan=False, allow_infinity=False, width=32)


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def gradient(function, x, upstream):
    x = x.clone().requires_grad_()
    function(x).backward(upstream)
    return x.grad


@pytest.mark.parametrize('dtype', DTYPES)
def test_clipping_passes_gradients_at_its_bounds(dtype):
    x = torch.tensor([-3, -1.5, -1, 0, 2, 2.5, math.inf, math.nan], dtype=dtype)
    clipped = torch.tensor([-1.5, -1.5, -1, 0, 2, 2, 2, math.nan], dtype=dtype)
    clip = partial(clip_to, low=-1.5, high=2)
    for leaf in (x, x.clone().requires_grad_()):
        torch.testing.assert_close(clip(leaf), clipped, rtol=0, atol=0, equal_nan=True)
    upstream = torch.arange(1, 9, dtype=dtype)
    assert gradient(clip, x, upstream).tolist() == [0, 2, 3, 4, 5, 0, 0, 8]


def expected_sign(value, zero=-1):
    return zero if value == 0 else math.copysign(1, value)


@pytest.mark.parametrize('requires_grad', [False, True])
@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('function', FUNCTIONS)
def test_every_magnitude_becomes_exactly_plus_or_minus_one(function, dtype, requires_grad):
    info = torch.finfo(dtype)
    denormal = info.smallest_normal / 2
    positive = [denormal, info.smallest_normal, info.eps, 0.3, 1, 1.5, info.max]
    x = torch.tensor([*positive, *(-value for value in positive)], dtype=dtype)
    assert x.count_nonzero() == x.numel(), 'a denormal was lost'
    y = function(x.requires_grad_(requires_grad))
    assert y.dtype == dtype
    assert y.tolist() == [1.0] * len(positive) + [-1.0] * len(positive)


@given(st.lists(finite_floats, min_size=1, max_size=20), st.sampled_from([-1, 0]))
def test_forward_is_the_same_with_and_without_gradient(values, zero):
    expected = [expected_sign(value, zero) for value in values]
    for function in FUNCTIONS:
        x = torch.tensor(values)
        assert function(x, zero=zero).tolist() == expected
        assert function(x.requires_grad_(), zero=zero).tolist() == expected
        with torch.no_grad():
            assert function(x, zero=zero).tolist() == expected


@pytest.mark.parametrize('requires_grad', [False, True])
@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('function', FUNCTIONS)
def test_both_zeros_follow_the_convention(function, dtype, requires_grad):
    x = torch.tensor([0.0, -0.0], dtype=dtype, requires_grad=requires_grad)
    assert function(x).tolist() == [-1, -1]
    assert function(x, zero=-1).tolist() == [-1, -1]
    assert function(x, zero=0).tolist() == [0, 0]


@pytest.mark.parametrize('requires_grad', [False, True])
@pytest.mark.parametrize('function', FUNCTIONS)
def test_infinity_has_a_sign_and_nan_stays_nan(function, requires_grad):
    x = torch.tensor([math.inf, -math.inf, math.nan], requires_grad=requires_grad)
    y = function(x)
    assert y[:2].tolist() == [1, -1]
    assert y[2].isnan()


def test_sign_alone_has_no_gradient():
    assert not sign(torch.ones(3, requires_grad=True)).requires_grad


@pytest.mark.parametrize('function', FUNCTIONS[1:])
def test_no_graph_is_recorded_where_none_is_wanted(function):
    assert not function(torch.ones(3)).requires_grad
    with torch.no_grad():
        assert not function(torch.ones(3, requires_grad=True)).requires_grad


@given(st.lists(st.floats(-4, 4), min_size=1, max_size=20), st.floats(0.1, 3), st.floats(-10, 10))
def test_hard_tanh_passes_gradients_inside_its_window(values, clip, upstream):
    x = double([*values, clip, -clip])
    upstream = torch.full_like(x, upstream)
    got = gradient(lambda x: hard_tanh_sign(x, clip), x, upstream)
    assert torch.equal(got, upstream * (x.abs() <= clip))


def test_hard_tanh_window_is_one_by_default():
    x = double([0.99, 1.0, 1.01, -1.01])
    assert gradient(hard_tanh_sign, x, torch.ones(4)).tolist() == [1, 1, 0, 0]


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=20), st.floats(-10, 10))
def test_quadratic_gradient_is_a_triangle(values, upstream):
    x = double([*values, 0.0, 1.0, -1.0])
    upstream = torch.full_like(x, upstream)
    expected = upstream * (2 - 2 * x.abs()).clamp(min=0)
    got = gradient(quadratic_sign, x, upstream)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@given(st.lists(finite_floats, min_size=1, max_size=20), st.floats(-10, 10))
def test_identity_passes_every_gradient(values, upstream):
    upstream = torch.full((len(values),), upstream)
    assert torch.equal(gradient(identity_sign, torch.tensor(values), upstream), upstream)


@pytest.mark.parametrize('function', FUNCTIONS[1:])
def test_zero_convention_leaves_gradients_alone(function):
    x, upstream = double([0.0, 0.5, -0.5, 2]), double([1.0, -2, 3, 4])
    expected = gradient(function, x, upstream)
    assert torch.equal(gradient(lambda x: function(x, zero=0), x, upstream), expected)


def test_straight_through_is_the_value_forward_and_the_surrogate_backward():
    value = torch.tensor([0.1, -1.0], requires_grad=True)
    x = torch.tensor([3e7, -7e-9], requires_grad=True)
    y = straight_through(value, 5 * x)
    assert torch.equal(y, value)
    y.backward(torch.tensor([1.0, 2.0]))
    assert x.grad.tolist() == [5, 10]
    assert value.grad is None


def test_straight_through_without_a_gradient_is_the_value_itself():
    value = torch.ones(2)
    assert straight_through(value, torch.zeros(2)) is value


@pytest.mark.parametrize(
    ('module', 'function', 'options'),
    [
        (HardTanhSign, hard_tanh_sign, dict(clip=1.5, zero=0)),
        (HardTanhSign, hard_tanh_sign, dict()),
        (QuadraticSign, quadratic_sign, dict(zero=0)),
        (QuadraticSign, quadratic_sign, dict()),
        (IdentitySign, identity_sign, dict(zero=0)),
        (IdentitySign, identity_sign, dict()),
    ],
)
def test_modules_are_their_functions(module, function, options):
    x, upstream = double([-1.6, -1.2, -0.3, 0, 0.7, 1.4, 2]), torch.arange(1.0, 8)
    layer = module(**options)
    assert torch.equal(layer(x), function(x, **options))
    expected = gradient(lambda x: function(x, **options), x, upstream)
    assert torch.equal(gradient(layer, x, upstream), expected)
    for name, value in options.items():
        assert f'{name}={value}' in repr(layer)
    assert not layer.state_dict()


@pytest.mark.parametrize('zero', [1, 0.5, None, 'minus'])
@pytest.mark.parametrize('module', MODULES)
def test_other_zeros_are_refused(module, zero):
    with pytest.raises(ValueError, match=f'zero={zero!r}'):
        module(zero=zero)


@pytest.mark.parametrize('clip', [0, -1.5, math.nan])
def test_windows_without_width_are_refused(clip):
    with pytest.raises(ValueError, match=f'clip={clip!r}'):
        HardTanhSign(clip=clip)


@pytest.mark.parametrize(
    ('spec', 'kind'),
    [
        ('hard_tanh', HardTanhSign),
        ('quadratic', QuadraticSign),
        ('identity', IdentitySign),
        (dict(type='quadratic', zero=0), QuadraticSign),
    ],
)
def test_signs_are_built_by_name(spec, kind):
    assert type(build_sign(spec)) is kind


def test_build_passes_options_on_and_leaves_the_spec_alone():
    spec = dict(type='hard_tanh', clip=1.5, zero=0)
    layer = build_sign(spec)
    assert (layer.clip, layer.zero) == (1.5, 0)
    assert spec == dict(type='hard_tanh', clip=1.5, zero=0)


def test_build_copies_a_module():
    layer = nn.PReLU(3)
    built = build_sign(layer)
    assert type(built) is nn.PReLU and built is not layer
    assert built.weight is not layer.weight and torch.equal(built.weight, layer.weight)


@pytest.mark.parametrize('spec', ['tanh', dict(type='tanh'), dict(zero=0)])
def test_unknown_signs_are_refused_by_name(spec):
    with pytest.raises(ValueError, match=r'sign=.*hard_tanh.*identity.*quadratic'):
        build_sign(spec)


def test_compiles_to_one_graph():
    def every_sign(x):
        return hard_tanh_sign(x, 1.5) + 2 * quadratic_sign(x) + 4 * identity_sign(x, 0)

    x, upstream = torch.randn(50), torch.randn(50)
    x[0] = 0
    compiled = torch.compile(every_sign, backend='aot_eager', fullgraph=True)
    assert torch.equal(compiled(x), every_sign(x))
    expected = gradient(every_sign, x, upstream)
    torch.testing.assert_close(gradient(compiled, x, upstream), expected)
