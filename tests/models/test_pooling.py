"""The poolings are torch's, to the last bit."""

import pytest
import torch
import torch.nn.functional as F

from mmesbnn.models.layers.pooling import AveragePool, MaxPool


def average(x):
    return F.avg_pool2d(x, 2, 2, 0, True, False)


def largest(x):
    return F.max_pool2d(x, 3, 2, 1)


@pytest.mark.parametrize(
    ('pool', 'torchs'), [(AveragePool(), average), (MaxPool(3, 2, 1), largest)]
)
@pytest.mark.parametrize('size', [(2, 2), (4, 6), (3, 4), (4, 5), (7, 7), (14, 28)])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('rounded', [False, True])
def test_results_and_gradients_are_those_of_torch(pool, torchs, size, dtype, layout, rounded):
    x = torch.randn(2, 3, *size, dtype=dtype).contiguous(memory_format=layout)
    if rounded:  # values are often equal, so there are several largest ones
        x = x.round()
    found = []
    for function in (pool, torchs):
        given = x.clone().requires_grad_()
        y = function(given)
        (grad,) = torch.autograd.grad((y * torch.linspace(-1, 1, y.shape[-1])).sum(), given)
        found.append((y.detach(), grad))
    (ours, our_grad), (theirs, their_grad) = found
    assert torch.equal(ours, theirs)
    assert torch.equal(our_grad, their_grad)
    assert torch.equal(pool(x), theirs)
    assert ours.shape[-2:] == (-(-size[0] // 2), -(-size[1] // 2))


@pytest.mark.parametrize('pool', [AveragePool(), MaxPool(3, 2, 1)])
def test_second_gradients(pool):
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(pool, x)
    assert torch.autograd.gradgradcheck(pool, x)


def test_a_max_pool_stores_places_only():
    x, stored = torch.randn(2, 3, 8, 8, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: stored.append(t.shape), lambda t: t):
        y = MaxPool(3, 2, 1)(x)
    assert stored == [y.shape]


def test_nan_stays_in_its_window():
    x = torch.zeros(1, 1, 4, 4, requires_grad=True)
    y = AveragePool()(x + torch.full((4, 4), 0.0).index_fill(1, torch.tensor(3), float('nan')))
    assert y.isnan().tolist() == [[[[False, True], [False, True]]]]
