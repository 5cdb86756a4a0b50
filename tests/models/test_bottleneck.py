"""Bottleneck terms and sampled boxes: formulas, gradients and empty inputs."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.registry import MODELS

import mmesbnn  # noqa: F401  (registers)
from mmesbnn.models.losses import FeatureEnergyLoss, SparseObjectLoss, VariationalBoxes
from mmesbnn.models.losses.bottleneck import (
    feature_energy,
    object_entropy,
    sample_boxes,
    split_boxes,
    zero_of,
)


def double(*shape):
    return torch.randn(*shape, dtype=torch.double).requires_grad_()


def probabilities(count):
    return (0.05 + 0.9 * torch.rand(count, dtype=torch.double)).requires_grad_()


# energy of features ---------------------------------------------------------------


def test_energy_is_the_mean_over_maps_of_mean_squares():
    maps = [double(2, 3, 4, 4), double(2, 5, 2, 2), double(2, 1, 1, 1)]
    loss = feature_energy(maps)
    expected = np.mean([(m.detach().numpy() ** 2).mean() for m in maps])
    assert loss.item() == pytest.approx(expected, rel=1e-14)
    loss.backward()
    for m in maps:
        torch.testing.assert_close(m.grad, 2 * m.detach() / (3 * m.numel()))


def test_energy_of_half_precision_is_not_rounded_to_it():
    x = torch.full((1, 1, 4, 4), 300.0, dtype=torch.float16)
    assert feature_energy([x]).item() == 90_000  # beyond float16


def test_energy_of_no_regions_is_zero():
    empty = double(0, 512)
    loss = FeatureEnergyLoss(2.0)(empty)
    loss.backward()
    assert loss == 0
    assert empty.grad.shape == (0, 512)


def test_energy_loss_takes_one_map_or_several():
    x = double(2, 3, 4, 4)
    loss = FeatureEnergyLoss(0.5)
    assert loss(x) == loss([x]) == 0.5 * x.square().mean()


# entropy of scores ----------------------------------------------------------------


@given(st.integers(1, 30), st.integers(1, 5))
def test_entropy_and_its_gradient_follow_the_formula(count, num_gt):
    scores = probabilities(count)
    loss = object_entropy(scores, num_gt)
    s = scores.detach().numpy()
    p = s / s.sum()
    assert loss.item() == pytest.approx(-(p * np.log(p)).sum() / num_gt, abs=1e-12)
    (gradient,) = torch.autograd.grad(loss, scores)
    expected = -(np.log(p) + 1) / (num_gt * s.sum())
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-10)


def test_scores_of_zero_are_no_nan():
    scores = torch.tensor([0.0, 0.5, 0.5], requires_grad=True)
    loss = object_entropy(scores, 1)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert scores.grad.isfinite().all()
    zeros = torch.zeros(3, requires_grad=True)
    loss = object_entropy(zeros, 1)
    loss.backward()
    assert loss.isfinite() and zeros.grad.isfinite().all()


def test_loss_is_the_mean_over_the_groups_that_count():
    logits = double(4)
    groups = [(probabilities(n), g) for n, g in ((7, 2), (5, 1), (3, 3), (9, 0))]
    loss = SparseObjectLoss(0.3)(groups, logits)
    counted = [object_entropy(*groups[0]), object_entropy(*groups[1])]
    assert loss.item() == pytest.approx(0.3 * sum(counted).item() / 2, rel=1e-12)
    loss.backward()
    for i, (scores, _) in enumerate(groups):
        assert (scores.grad is not None) == (i < 2)


@pytest.mark.parametrize('groups', [[], [(torch.rand(0), 2)], [(torch.rand(5), 0)]])
def test_without_detections_or_objects_it_is_a_zero_in_the_graph(groups):
    logits = torch.tensor([1.0, torch.inf, torch.nan], requires_grad=True)
    loss = SparseObjectLoss()(groups, logits)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.tolist() == [0, 0, 0]


def test_attached_scores_get_gradients_and_detached_ones_the_same_value():
    logits = double(6)
    losses = []
    for attached in (True, False):
        logits.grad = None
        loss = SparseObjectLoss(0.2, attached)([(logits.sigmoid(), 1)], logits)
        loss.backward()
        losses.append(loss.item())
        assert (logits.grad.abs().sum() > 0) == attached
    assert losses[0] == losses[1] > 0


# on and off -----------------------------------------------------------------------


def never():
    raise AssertionError('a term that is off must not compute anything')
    yield


@pytest.mark.parametrize('off', [dict(active=False), dict(loss_weight=0.0)])
def test_a_term_that_is_off_is_a_zero_that_costs_nothing(off):
    x = double(2, 3)
    terms = SparseObjectLoss(), FeatureEnergyLoss()
    for term in terms:
        assert term.active  # without a hook terms are on
        vars(term).update(off)
    for loss in (terms[0](never(), x), terms[1](x)):
        x.grad = None
        loss.backward()
        assert loss == 0
        assert x.grad.abs().sum() == 0


def test_zero_of_anything_is_zero():
    for x in (torch.tensor([torch.nan]), torch.rand(0), torch.rand(2, 2).half()):
        assert zero_of(x) == 0


# boxes ----------------------------------------------------------------------------


def test_split_takes_log_variance_then_mean_of_every_anchor():
    x = torch.arange(16.0)
    log_var, mean = split_boxes(x.view(1, 16, 1, 1))
    assert log_var.flatten().tolist() == [0, 1, 2, 3, 8, 9, 10, 11]
    assert mean.flatten().tolist() == [4, 5, 6, 7, 12, 13, 14, 15]
    assert log_var.shape == mean.shape == (1, 8, 1, 1)
    rows = torch.stack([x[:8], x[8:]])  # a linear layer's, one box per region
    assert split_boxes(rows)[1].tolist() == [[4, 5, 6, 7], [12, 13, 14, 15]]


def test_sampled_boxes_follow_the_formula_and_so_do_gradients():
    mean, log_var = double(5, 4), double(5, 4)
    boxes = sample_boxes(mean, log_var, 0.3)
    torch.manual_seed(3)
    boxes = sample_boxes(mean, log_var, 0.3)
    torch.manual_seed(3)
    noise = 0.3 * (log_var.detach() / 2).exp() * torch.randn(5, 4, dtype=torch.double)
    torch.testing.assert_close(boxes, mean + noise)
    g = torch.randn(5, 4, dtype=torch.double)
    boxes.backward(g)
    torch.testing.assert_close(mean.grad, g)
    torch.testing.assert_close(log_var.grad, g * noise / 2)


def test_samples_have_mean_and_standard_deviation():
    mean, log_var = torch.full((100_000,), 2.0), torch.full((100_000,), math.log(9.0))
    boxes = sample_boxes(mean, log_var, 0.5)
    assert boxes.mean().item() == pytest.approx(2, abs=0.03)
    assert boxes.std().item() == pytest.approx(1.5, abs=0.03)


def test_only_training_samples():
    x = double(2, 16, 3, 3)
    boxes = VariationalBoxes(0.1)
    mean = split_boxes(x)[1]
    assert not torch.equal(boxes(x), mean)
    assert not torch.equal(boxes(x), boxes(x))
    assert torch.equal(boxes.eval()(x), mean)


def test_without_sigma_the_log_variance_gets_no_gradient_whatever_it_is():
    x = torch.full((1, 8, 1, 1), 1e4, requires_grad=True)
    VariationalBoxes()(x).sum().backward()
    assert x.grad.flatten().tolist() == [0] * 4 + [1] * 4


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        (dict(type='VariationalBoxes', sigma=-1.0), 'sigma=-1.0 must be'),
        (dict(type='VariationalBoxes', sigma=math.nan), 'sigma=nan must be'),
        (dict(type='FeatureEnergyLoss', loss_weight=-1), 'loss_weight=-1 must be'),
        (dict(type='SparseObjectLoss', loss_weight=math.inf), 'loss_weight=inf must'),
    ],
)
def test_bad_arguments_are_named(cfg, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(cfg)


def test_arguments_show_in_the_repr():
    assert 'loss_weight=0.2, attached=False' in repr(SparseObjectLoss(attached=False))
    assert 'sigma=0.001' in repr(VariationalBoxes(0.001))
