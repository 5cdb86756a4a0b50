"""The poolings are torch's, to the last bit."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from mmesbnn import native
from mmesbnn.binary import use_native
from mmesbnn.binary.prelus import ChannelPReLU
from mmesbnn.models.layers import native_pooling
from mmesbnn.models.layers.pooling import (
    AveragePool,
    MaxPool,
    activated_pool,
    keeps_mean,
    padded_average,
)
from tests.binary.operators import assert_batched_gradients


def average(x):
    return F.avg_pool2d(x, 2, 2, 0, True, False)


def largest(x):
    return F.max_pool2d(x, 3, 2, 1)


@pytest.fixture
def kernels(request):
    """Switch the native kernels on or off."""
    if request.param and not native.available():
        pytest.skip('the native kernels are not compiled')
    before = use_native(request.param)
    yield
    use_native(before)


@pytest.mark.parametrize(
    ('pool', 'torchs'), [(AveragePool(), average), (MaxPool(3, 2, 1), largest)]
)
@pytest.mark.parametrize('size', [(2, 2), (4, 6), (3, 4), (4, 5), (7, 7), (14, 28)])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('rounded', [False, True])
@pytest.mark.parametrize('kernels', [False, True], indirect=True)
def test_results_and_gradients_are_those_of_torch(
    pool, torchs, size, dtype, layout, rounded, kernels
):
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


@pytest.mark.parametrize('kernels', [False, True], indirect=True)
def test_a_max_pool_stores_places_only(kernels):
    x, stored = torch.randn(2, 3, 8, 8, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: stored.append(t.shape), lambda t: t):
        y = MaxPool(3, 2, 1)(x)
    assert stored == [y.shape]


@pytest.mark.parametrize('kernels', [True], indirect=True)
@pytest.mark.parametrize('pool', [AveragePool(), MaxPool(3, 2, 1)])
def test_training_steps_run_on_the_kernels(pool, kernels, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError('called')

    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    last = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    for name in ('average_pool', 'max_pool'):
        monkeypatch.setattr(native_pooling, name, refuse)
    for other in (x.double(), x.bfloat16(), last):
        pool(other)
    with torch.no_grad():
        pool(x)
    with pytest.raises(AssertionError, match='called'):
        pool(x)


@pytest.mark.parametrize('kernels', [False, True], indirect=True)
@pytest.mark.parametrize('size', [(4, 6), (5, 6)])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_a_pooled_prelu_is_that_of_both(size, layout, kernels):
    x, upstream = torch.randn(2, 3, *size).contiguous(memory_format=layout), torch.randn(2, 3, 3, 3)
    act, upstream = ChannelPReLU(3), upstream[:, :, : -(-size[0] // 2)]
    found = []
    for function in (lambda x: activated_pool(x, act, AveragePool()), lambda x: average(act(x))):
        leaf = x.clone().requires_grad_()
        y = function(leaf)
        found.append((y, *torch.autograd.grad(y, (leaf, act.weight), upstream)))
    for ours, theirs in zip(*found):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize('kernels', [True], indirect=True)
def test_a_pooled_prelu_is_not_stored(kernels):
    x, stored = torch.randn(2, 3, 8, 8, requires_grad=True), []
    act = ChannelPReLU(3)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: stored.append(t.shape), lambda t: t):
        activated_pool(x, act, AveragePool())
    assert stored == [x.shape, act.weight.shape]


def test_what_keeps_a_mean():
    even, odd, hooked = torch.zeros(1, 1, 4, 6), torch.zeros(1, 1, 4, 5), AveragePool()
    hooked.register_forward_hook(lambda *_: None)
    assert [keeps_mean(AveragePool(), x) for x in (even, odd)] == [True, False]
    assert [keeps_mean(torch.nn.Identity(), x) for x in (even, odd)] == [True, True]
    assert not keeps_mean(hooked, even)
    assert not keeps_mean(torch.nn.AvgPool2d(3, 1), even)


@pytest.mark.parametrize('kernels', [True], indirect=True)
def test_torch_says_what_is_wrong_with_a_window(kernels):
    x = torch.randn(1, 1, 4, 4, requires_grad=True)
    with pytest.raises(RuntimeError, match='pad'):
        MaxPool(3, 2, 2)(x)
    with pytest.raises(RuntimeError, match='too small'):
        MaxPool(7, 2, 1)(x)
    y = MaxPool(17, 1, 8)(torch.randn(1, 1, 20, 20, requires_grad=True))  # no place for a byte
    assert y.shape == (1, 1, 20, 20)


def test_nan_stays_in_its_window():
    x = torch.zeros(1, 1, 4, 4, requires_grad=True)
    y = AveragePool()(x + torch.full((4, 4), 0.0).index_fill(1, torch.tensor(3), float('nan')))
    assert y.isnan().tolist() == [[[[False, True], [False, True]]]]


@pytest.mark.parametrize('kernel', [(1, 3), (5, 1), (3, 3)])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_a_padded_average_counts_zeros(kernel, layout):
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64).contiguous(memory_format=layout)
    kernels = torch.full((3, 1, *kernel), 1 / (kernel[0] * kernel[1]), dtype=torch.float64)
    means = F.conv2d(x, kernels, padding='same', groups=3)
    torch.testing.assert_close(padded_average(x, kernel), means, rtol=1e-12, atol=1e-12)


class Paddings(TorchDispatchMode):
    """Note the paddings of average poolings."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.avg_pool2d.default:
            self.seen.append(list(args[3]) if len(args) > 3 else [0, 0])
        return func(*args, **(kwargs or {}))


def test_no_accelerator_pads_a_channels_last_average():
    # torch's gradient of it is wrong on a GPU; a meta tensor is on no CPU either
    x = torch.empty(2, 3, 4, 5, device='meta')
    with Paddings() as paddings:
        y = padded_average(x.contiguous(memory_format=torch.channels_last), (3, 1))
        padded_average(x, (3, 1))
    assert paddings.seen == [[0, 0], [1, 0]]
    assert y.shape == x.shape
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_gradients_can_be_computed_in_batches():
    assert_batched_gradients(AveragePool(), torch.randn(2, 3, 4, 6))
