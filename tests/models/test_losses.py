"""The distillation loss and its gradients equal formulas in numpy."""

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS

import mmesbnn  # noqa: F401  (registers)
from mmesbnn.models.losses import HardnessWeightedKDLoss

WEIGHTINGS = ['batch', 'sample']
SAMPLES, CLASSES = 6, 5


def softmax(x, axis):
    x = np.exp(x - x.max(axis, keepdims=True))
    return x / x.sum(axis, keepdims=True)


def reference(logits, teachers, weighting):
    """Return the loss and its gradient for ``logits``, in float64."""
    student = softmax(logits, 1)
    targets = np.stack([softmax(teacher, 1) for teacher in teachers])
    entropy = -(targets * np.log(student)).sum(2)  # (teachers, samples)
    weights = softmax(entropy, 0)
    if weighting == 'batch':
        weights = np.broadcast_to(weights.mean(1, keepdims=True), entropy.shape)
    loss = 0.5 * (weights * entropy).sum(0).mean()
    difference = weights[..., None] * (student - targets)
    return loss, 0.5 * difference.sum(0) / len(logits)


def draw(count, scale=3.0):
    """Draw logits of the student and of ``count`` teachers, as float64 tensors."""
    x = scale * torch.randn(count + 1, SAMPLES, CLASSES, dtype=torch.float64)
    # teachers of different difficulty, so that weights matter
    return x[0], [(i + 1) * teacher for i, teacher in enumerate(x[1:])]


def as_numpy(teachers):
    return [teacher.numpy() for teacher in teachers]


@pytest.mark.parametrize('weighting', WEIGHTINGS)
@pytest.mark.parametrize('count', [1, 2, 3])
def test_loss_and_gradient_follow_the_formula(weighting, count):
    logits, teachers = draw(count)
    expected, slope = reference(logits.numpy(), as_numpy(teachers), weighting)
    logits.requires_grad_()
    loss = HardnessWeightedKDLoss(weighting)(logits, teachers)
    loss.backward()
    assert loss.shape == ()
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(logits.grad.numpy(), slope, rtol=1e-10, atol=1e-14)


def test_batch_gradient_in_closed_form():
    logits, teachers = draw(2)
    logits.requires_grad_()
    HardnessWeightedKDLoss()(logits, teachers).backward()
    student = logits.detach().softmax(1)
    targets = [teacher.softmax(1) for teacher in teachers]
    entropy = torch.stack([-(p * student.log()).sum(1) for p in targets])
    shares = entropy.softmax(0).mean(1)
    expected = sum(a * (student - p) for a, p in zip(shares, targets)) / 2 / SAMPLES
    torch.testing.assert_close(logits.grad, expected)


def test_weightings_differ_with_several_teachers_only():
    logits, teachers = draw(2)
    batch, sample = (HardnessWeightedKDLoss(w) for w in WEIGHTINGS)
    assert abs(batch(logits, teachers) - sample(logits, teachers)) > 1e-3
    single = teachers[:1]
    torch.testing.assert_close(batch(logits, single), sample(logits, single))


def test_the_harder_teacher_weighs_more():
    logits = torch.tensor([[4.0, 0.0]], dtype=torch.float64, requires_grad=True)
    easy, hard = logits.detach().clone(), -logits.detach()
    HardnessWeightedKDLoss()(logits, [easy, hard]).backward()
    # the easy teacher alone would not change the student
    alone = 0.5 * (logits.detach().softmax(1) - hard.softmax(1))
    share = (logits.grad / alone).unique()
    assert ((share > 0.9) & (share < 1)).all()


@pytest.mark.parametrize('weighting', WEIGHTINGS)
def test_order_of_teachers_does_not_matter(weighting):
    logits, teachers = draw(3)
    loss = HardnessWeightedKDLoss(weighting)
    torch.testing.assert_close(loss(logits, teachers), loss(logits, teachers[::-1]))


def test_default_is_the_published_weighting_registered_by_name():
    logits, teachers = draw(2)
    built = MODELS.build(dict(type='HardnessWeightedKDLoss'))
    expected, _ = reference(logits.numpy(), as_numpy(teachers), 'batch')
    assert built(logits, teachers).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize('weighting', WEIGHTINGS)
def test_loss_weight_scales_loss_and_gradient(weighting):
    logits, teachers = draw(2)
    expected, slope = reference(logits.numpy(), as_numpy(teachers), weighting)
    logits.requires_grad_()
    loss = HardnessWeightedKDLoss(weighting, loss_weight=0.3)(logits, teachers)
    loss.backward()
    assert loss.item() == pytest.approx(0.3 * expected, rel=1e-12)
    np.testing.assert_allclose(logits.grad.numpy(), 0.3 * slope, rtol=1e-10)


@pytest.mark.parametrize('weighting', WEIGHTINGS)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_computed_in_full_precision(weighting, dtype):
    logits, teachers = draw(2)
    logits = logits.to(dtype)
    teachers = [teacher.to(dtype) for teacher in teachers]
    loss = HardnessWeightedKDLoss(weighting)(logits, teachers)
    assert loss.dtype == torch.float32
    wide = [teacher.double().numpy() for teacher in teachers]
    expected, _ = reference(logits.double().numpy(), wide, weighting)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_half_precision_teachers_of_a_full_precision_student():
    logits, teachers = draw(2)
    halves = [teacher.bfloat16() for teacher in teachers]
    loss = HardnessWeightedKDLoss()(logits.float(), halves)
    wide = [half.double().numpy() for half in halves]
    expected, _ = reference(logits.float().double().numpy(), wide, 'batch')
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_huge_logits_stay_finite():
    logits, teachers = draw(2, scale=1e4)
    logits = logits.float().requires_grad_()
    loss = HardnessWeightedKDLoss()(logits, [teacher.float() for teacher in teachers])
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()


def test_no_teacher_is_an_error():
    with pytest.raises(ValueError, match='needs the logits of a teacher'):
        HardnessWeightedKDLoss()(torch.zeros(2, 3), [])


@pytest.mark.parametrize('shape', [(2, 4), (1, 3), (2, 1), (3,)])
def test_other_shapes_are_an_error_that_names_the_teacher(shape):
    good = torch.zeros(2, 3)
    with pytest.raises(ValueError, match='logits of teacher 1'):
        HardnessWeightedKDLoss()(good, [good, torch.zeros(shape)])


def test_unknown_weighting_is_an_error():
    with pytest.raises(ValueError, match="weighting='instance' must be 'batch' or 'sample'"):
        HardnessWeightedKDLoss('instance')
