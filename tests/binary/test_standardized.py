"""Balanced weights and ReCU equal formulas in numpy, and their gradients differences."""

import numpy as np
import pytest
import torch

from mmesbnn.binary import BalancedWeight, ReCUWeight, balanced_weight, recu_weight

SHAPES = [(4, 3, 3, 3), (5, 8)]


def weight(shape):
    return torch.randn(shape, dtype=torch.float64) * 0.1 + 0.03


def rows(w):
    return w.reshape(len(w), -1)


def standard(w):
    flat = rows(w)
    return (flat - flat.mean(1, keepdims=True)) / flat.std(1, keepdims=True)


def differences(function, w, upstream, step=1e-6):
    """The gradient of ``(upstream * function(w)).sum()`` by differences."""
    found = np.zeros(w.size)
    for i in range(w.size):
        bump = np.zeros(w.size)
        bump[i] = step
        bump = bump.reshape(w.shape)
        found[i] = (upstream * (function(w + bump) - function(w - bump))).sum() / (2 * step)
    return found.reshape(w.shape)


def gradient(function, w, upstream):
    w = w.clone().requires_grad_()
    function(w).backward(upstream)
    return w.grad.numpy()


@pytest.mark.parametrize('shape', SHAPES)
def test_balanced_values(shape):
    w = weight(shape)
    s = standard(w.numpy())
    scale = 2 ** np.round(np.log2(np.abs(s).mean(1, keepdims=True)))
    expected = scale * np.where(s > 0, 1, -1)
    for progress in (0.0, 1.0):
        np.testing.assert_array_equal(rows(balanced_weight(w, progress).numpy()), expected)


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize(('progress', 't'), [(0.0, 0.1), (0.5, 1.0), (1.0, 10.0)])
def test_balanced_gradient(shape, progress, t):
    w, k = weight(shape), max(1 / t, 1)
    upstream = torch.randn(shape, dtype=torch.float64)
    scale = 2 ** np.round(np.log2(np.abs(standard(w.numpy())).mean(1, keepdims=True)))

    def surrogate(w):
        return (scale * k * np.tanh(t * standard(w))).reshape(w.shape)

    got = gradient(lambda w: balanced_weight(w, progress), w, upstream)
    expected = differences(surrogate, w.numpy(), upstream.numpy())
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def recu_parts(w, tau):
    s = standard(w)
    return s, -np.log(2 - 2 * tau) * np.abs(s).mean()


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize(('progress', 'tau'), [(0.0, 0.85), (1.0, 0.99)])
def test_recu(shape, progress, tau):
    w = weight(shape)
    upstream = torch.randn(shape, dtype=torch.float64)
    s, bound = recu_parts(w.numpy(), tau)
    clamped = np.clip(s, -bound, bound)
    scale = np.abs(clamped).mean(1, keepdims=True)
    found = rows(recu_weight(w, progress).numpy())
    np.testing.assert_allclose(found, scale * np.where(s > 0, 1, -1), rtol=1e-6)
    if progress == 0:
        assert (np.abs(s) > bound).any(), 'nothing is clamped'

    def surrogate(w):
        return (scale * np.clip(standard(w), -bound, bound)).reshape(w.shape)

    got = gradient(lambda w: recu_weight(w, progress), w, upstream)
    expected = differences(surrogate, w.numpy(), upstream.numpy())
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_recu_schedule():
    e = np.e
    for progress in (0.0, 0.3, 1.0):
        tau = 0.14 / (e - 1) * e**progress + 0.85 - 0.14 / (e - 1)
        w = weight((4, 50))
        s, bound = recu_parts(w.numpy(), tau)
        expected = np.abs(np.clip(s, -bound, bound)).mean(1)
        found = recu_weight(w, progress).abs().numpy()[:, 0]
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_state_dicts():
    assert not BalancedWeight().state_dict()
    assert list(ReCUWeight().state_dict()) == ['progress']


@pytest.mark.parametrize('module', [BalancedWeight, ReCUWeight])
def test_modules_follow_the_progress(module):
    function = {BalancedWeight: balanced_weight, ReCUWeight: recu_weight}[module]
    layer, w, u = module(), weight((3, 20)), torch.ones(3, 20, dtype=torch.float64)
    u[:, ::2] = -1
    for progress in (0.0, 0.7):
        layer.progress.fill_(progress)
        expected = gradient(lambda w: function(w, progress), w, u)  # noqa: B023
        np.testing.assert_allclose(gradient(layer, w, u), expected, rtol=1e-5, atol=1e-6)
    assert 'start=' in repr(layer) and 'zero=-1' in repr(layer)


@pytest.mark.parametrize(
    ('build', 'name'),
    [
        (lambda: BalancedWeight(start=0), 'start=0'),
        (lambda: ReCUWeight(end=1.0), 'end=1.0'),
        (lambda: ReCUWeight(start=0.5), 'start=0.5'),
    ],
)
def test_wrong_arguments(build, name):
    with pytest.raises(ValueError, match=name):
        build()


@pytest.mark.parametrize('function', [balanced_weight, recu_weight])
@pytest.mark.parametrize('count', [1, 2])
def test_a_channel_of_two_weights_has_no_gradient(function, count):
    w = torch.randn(1000, count) * 0.05
    assert not gradient(function, w, torch.randn(1000, count)).any()
