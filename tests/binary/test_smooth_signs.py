"""Gradients equal the slopes of the published functions, in float64."""

import math

import numpy as np
import pytest
import torch

from mmesbnn.binary import (
    EDESign,
    FDASign,
    ReSTESign,
    SwishSign,
    ede_sign,
    fda_sign,
    reste_sign,
    swish_sign,
)
from tests.defaults import torch_default, with_other_defaults

X = torch.linspace(-2.96, 3.01, 400, dtype=torch.float64)


def gradient(function, x=X):
    x = x.clone().requires_grad_()
    upstream = torch.linspace(-1, 2, x.numel(), dtype=x.dtype)
    function(x).backward(upstream)
    return (x.grad / upstream).numpy()


def slope(surrogate, x, step=1e-6):
    """The slope of a function in numpy, by differences."""
    return (surrogate(x + step) - surrogate(x - step)) / (2 * step)


def sign_swish(x, beta):
    s = 1 / (1 + np.exp(-beta * x))
    return 2 * s * (1 + beta * x * (1 - s)) - 1


@pytest.mark.parametrize('beta', [1.0, 5.0, 10.0])
def test_swish(beta):
    x = X.numpy()
    got = gradient(lambda x: swish_sign(x, beta))
    formula = beta * (2 - beta * x * np.tanh(beta * x / 2)) / (1 + np.cosh(beta * x))
    np.testing.assert_allclose(got, formula, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(got, slope(lambda x: sign_swish(x, beta), x), atol=1e-7)
    assert SwishSign().beta == 5


def test_swish_of_huge_values():
    x = torch.tensor([1e30, -1e30, math.inf], requires_grad=True)
    swish_sign(x).sum().backward()
    assert x.grad.abs().max() < 1e-20


@pytest.mark.parametrize(('progress', 't'), [(0.0, 0.1), (0.5, 1.0), (0.75, 10**0.5), (1.0, 10.0)])
def test_error_decay(progress, t):
    k = max(1 / t, 1)
    x = X.numpy()
    got = gradient(lambda x: ede_sign(x, progress))
    np.testing.assert_allclose(got, k * t * (1 - np.tanh(t * x) ** 2), rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(got, slope(lambda x: k * np.tanh(t * x), x), rtol=1e-5, atol=1e-7)


def reste(x, o, m=0.1, clip=1.5):
    size = np.minimum(np.abs(x), clip)
    return np.sign(x) * np.where(size <= m, size / m * m ** (1 / o), size ** (1 / o))


@pytest.mark.parametrize(('progress', 'o'), [(0.0, 1.0), (0.5, 2.0), (1.0, 3.0)])
def test_rectified(progress, o):
    x = X.numpy()
    got = gradient(lambda x: reste_sign(x, progress))
    far = (np.abs(np.abs(x) - 0.1) > 1e-5) & (np.abs(np.abs(x) - 1.5) > 1e-5)
    np.testing.assert_allclose(got[far], slope(lambda x: reste(x, o), x)[far], rtol=1e-6, atol=1e-8)
    inside = (np.abs(x) > 0.1) & (np.abs(x) < 1.5)
    formula = np.abs(x) ** (1 / o - 1) / o
    np.testing.assert_allclose(got[inside], formula[inside], rtol=1e-6)
    assert set(got[np.abs(x) > 1.5]) == {0}


@pytest.mark.parametrize('x', [0.1, -0.1, 1.5, -1.5, 0.0])
def test_ends_of_the_windows(x):
    leaf = torch.tensor([x], dtype=torch.float64)
    expected = 0.1 ** (1 / 3 - 1) if abs(x) <= 0.1 else 1.5 ** (1 / 3 - 1) / 3
    assert gradient(lambda x: reste_sign(x, 1.0), leaf)[0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(('progress', 'n'), [(0.0, 9), (0.5, 14), (1.0, 18)])
@pytest.mark.parametrize('w', [0.1, 1.0])
def test_fourier(progress, n, w):
    x = X.numpy()
    got = gradient(lambda x: fda_sign(x, progress, frequency=w))
    i = np.arange(n)[:, None]
    formula = 4 * w / np.pi * np.cos((2 * i + 1) * w * x).sum(0)
    formula[np.abs(x) > np.pi / (2 * w)] = 0
    np.testing.assert_allclose(got, formula, rtol=1e-9, atol=1e-9)


def test_fourier_series_approach_the_sign():
    x = torch.tensor([0.0], dtype=torch.float64)
    assert gradient(lambda x: fda_sign(x, 0.0), x)[0] == pytest.approx(4 * 0.1 * 9 / math.pi)
    assert gradient(lambda x: fda_sign(x, 1.0), x)[0] == pytest.approx(4 * 0.1 * 18 / math.pi)


@pytest.mark.parametrize(
    ('module', 'function'),
    [(EDESign(), ede_sign), (ReSTESign(), reste_sign), (FDASign(), fda_sign)],
)
@pytest.mark.parametrize('progress', [0.0, 0.3, 1.0])
def test_modules_are_their_functions(module, function, progress):
    module.progress.fill_(progress)
    assert not module.state_dict()
    np.testing.assert_allclose(
        gradient(module), gradient(lambda x: function(x, progress)), rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize(
    ('build', 'name'),
    [
        (lambda: SwishSign(beta=0), 'beta=0'),
        (lambda: EDESign(start=-1.0), 'start=-1'),
        (lambda: ReSTESign(power=0.5), 'power=0.5'),
        (lambda: FDASign(first_terms=0), 'first_terms=0'),
    ],
)
def test_wrong_arguments(build, name):
    with pytest.raises(ValueError, match=name):
        build()


def test_options_show_in_the_representation():
    assert 'beta=5.0, zero=-1' in repr(SwishSign())
    assert 'start=0.1, end=10.0' in repr(EDESign())
    assert 'power=3.0, near=0.1, clip=1.5' in repr(ReSTESign())
    assert 'terms=(9, 18), frequency=0.1' in repr(FDASign())


@with_other_defaults
def test_progress_is_not_rounded_to_the_default_dtype_of_torch(default):
    x, expected = X.clone().requires_grad_(), gradient(lambda x: ede_sign(x, 0.3))
    with torch_default(default):
        y = ede_sign(x, 0.3)
    np.testing.assert_allclose(torch.autograd.grad(y.sum(), x)[0].numpy(), expected, rtol=1e-12)
