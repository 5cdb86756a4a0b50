"""Gradients of single steps against those of the composed formulas."""

from functools import partial

import pytest
import torch

from mmesbnn.binary import (
    centred_sign_weight,
    estimators,
    hard_tanh_sign,
    identity_sign,
    quadratic_sign,
    reste_sign,
    scaled_sign_weight,
    signs,
    temperature_weight,
)

HARD, SOFT = torch.zeros(1), torch.full((1,), 0.3)
FUNCTIONS = {
    'hard tanh': partial(hard_tanh_sign, clip=1.5),
    'narrow hard tanh': partial(hard_tanh_sign, clip=0.1),
    'quadratic': partial(quadratic_sign, zero=0),
    'identity': identity_sign,
    'power': partial(reste_sign, progress=1.0),
    'power in a narrow window': partial(reste_sign, progress=1.0, near=2.0, clip=1.5),
    'scaled': scaled_sign_weight,
    'attached': partial(scaled_sign_weight, attached=True),
    'centred': centred_sign_weight,
    'hard': partial(temperature_weight, temperature=HARD),
    'soft': partial(temperature_weight, temperature=SOFT),
}
every_function = pytest.mark.parametrize('function', FUNCTIONS.values(), ids=FUNCTIONS)


def composed(monkeypatch):
    monkeypatch.setattr(signs, 'is_composed', lambda: True)


def inputs(dtype=torch.float64):
    """Entries beside, on and inside the ends of all windows."""
    ends = torch.tensor([0.0, -0.0, 0.1, 0.5, 1.0, 1.5, 2.0], dtype=dtype)
    x = torch.cat([ends, -ends, torch.linspace(-2, 2, 18).to(dtype)]).view(4, 8)
    return x.requires_grad_()


def first_and_second(function, x):
    """The value, its gradient, and the gradients of that gradient."""
    generator = torch.Generator().manual_seed(1)
    u, v = torch.randn(2, *x.shape, generator=generator, dtype=torch.float64).to(x.dtype)
    u.requires_grad_()
    y = function(x)
    (first,) = torch.autograd.grad(y, x, u, create_graph=True)
    through_x, through_u = torch.autograd.grad(first, (x, u), v, allow_unused=True)
    zeros = torch.zeros_like(x)
    return y.detach(), first.detach(), zeros if through_x is None else through_x, through_u


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize('default', [torch.float32, torch.float64, torch.bfloat16])
def test_the_bounds_of_a_window_do_not_depend_on_the_default_dtype(default, dtype):
    estimators._just_above.cache_clear()
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        x = torch.tensor([-1.0, 1.0], dtype=dtype).requires_grad_()
        hard_tanh_sign(x).sum().backward()
    finally:
        torch.set_default_dtype(before)
    assert x.grad.tolist() == [1, 1]


def away_from_kinks():
    return torch.linspace(-2.05, 1.95, 32, dtype=torch.float64).view(4, 8).requires_grad_()


@every_function
def test_gradients_are_those_of_the_composed_formula(function, monkeypatch):
    got = first_and_second(function, away_from_kinks())
    composed(monkeypatch)
    expected = first_and_second(function, away_from_kinks())
    assert torch.equal(got[0], expected[0])
    torch.testing.assert_close(got[1:], expected[1:], rtol=1e-12, atol=1e-12)


DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@every_function
def test_windows_end_where_they_do_in_every_dtype(function, dtype, monkeypatch):
    def gradient():
        x = inputs(dtype)
        return torch.autograd.grad(function(x).sum(), x)[0]

    got = gradient()
    composed(monkeypatch)
    error = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(got, gradient(), rtol=error, atol=error)
    assert got.dtype == dtype


@pytest.mark.parametrize(
    ('function', 'kept'), [(hard_tanh_sign, 1), (quadratic_sign, 1), (identity_sign, 0)]
)
def test_at_most_the_input_is_kept(function, kept):
    x, saved = inputs(), []
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda t: t):
        function(x)
    assert [t.data_ptr() for t in saved] == [x.data_ptr()] * kept
