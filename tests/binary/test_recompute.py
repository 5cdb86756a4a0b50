"""Recomputation changes the memory and no value."""

import copy
from threading import Thread

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from mmesbnn.binary import (
    BinaryConv2d,
    BinaryLinear,
    Expansion,
    ShrunkConv2d,
    TiledBatchNorm2d,
    is_recomputing,
    recompute,
    recompute_elementwise,
)
from mmesbnn.binary.operators import BINARY_CONV2D, BINARY_LINEAR
from tests.binary.operators import CONVOLUTIONS, Recorder, saved_bytes


@pytest.fixture(autouse=True)
def every_convolution_is_large(monkeypatch):
    monkeypatch.setattr(recompute, 'FEW_PRODUCTS', 0)


class Block(nn.Module):
    """Binary and float convolutions among norms of both kinds and a PReLU."""

    def __init__(self):
        super().__init__()
        self.conv = ShrunkConv2d(4, 8, 3, padding=1, expansion=Expansion(2))
        self.tiled = TiledBatchNorm2d(16, 4)
        self.act = nn.PReLU(16)
        self.pointwise = nn.Conv2d(16, 8, 1)
        self.norm = TiledBatchNorm2d(8)

    def forward(self, x):
        y = self.act(self.tiled(self.conv(x)))
        return x + self.norm(self.pointwise(y)).sigmoid()


def run(block, x, recompute, upstream):
    x = x.clone().requires_grad_()
    y = recompute_elementwise(block, x) if recompute else block(x)
    y.backward(upstream)
    return y.detach(), x.grad


@pytest.fixture
def nothing_is_kept(monkeypatch):
    """As on a GPU."""
    monkeypatch.setattr(recompute, 'keeps_convolutions', lambda x: False)


@pytest.mark.parametrize('keeps', [True, False])
@pytest.mark.parametrize('training', [True, False])
def test_outputs_gradients_and_statistics_are_the_same(training, keeps, monkeypatch):
    monkeypatch.setattr(recompute, 'keeps_convolutions', lambda x: keeps)
    plain = Block().train(training)
    saving = copy.deepcopy(plain)
    for _ in range(2):
        x, upstream = torch.randn(3, 8, 6, 5), torch.randn(3, 8, 6, 5)
        expected = run(plain, x, False, upstream)
        assert all(map(torch.equal, run(saving, x, True, upstream), expected))
    for name, parameter in plain.named_parameters():
        assert torch.equal(saving.get_parameter(name).grad, parameter.grad), name
    for name, buffer in plain.named_buffers():
        assert torch.equal(saving.get_buffer(name), buffer), name
    assert saving.tiled.num_batches_tracked == 2 * training
    assert saving.norm.num_batches_tracked == 2 * training


@pytest.mark.parametrize('keeps', [True, False])
def test_gradients_are_the_same_of_norms_without_tracking(keeps, monkeypatch):
    monkeypatch.setattr(recompute, 'keeps_convolutions', lambda x: keeps)
    torch.manual_seed(0)
    block, x, upstream = Block().double(), torch.randn(2, 8, 5, 5).double(), torch.randn(2, 8, 5, 5)
    block.norm.track_running_stats = False
    twin = copy.deepcopy(block)
    _, expected = run(block, x, False, upstream.double())
    _, found = run(twin, x, True, upstream.double())
    torch.testing.assert_close(found, expected)
    for one, other in zip(twin.parameters(), block.parameters()):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize('reentrant', [True, False])
def test_recomputation_by_torch_updates_statistics_once(reentrant):
    plain = Block()
    saving = copy.deepcopy(plain)
    x, upstream = torch.randn(2, 2, 8, 16, 16)
    expected = run(plain, x, False, upstream)
    found = run(lambda x: checkpoint(saving, x, use_reentrant=reentrant), x, False, upstream)
    assert all(map(torch.equal, found, expected))
    for name, buffer in plain.named_buffers():
        assert torch.equal(saving.get_buffer(name), buffer), name


def test_fewer_bytes_are_saved():
    block, x = Block(), torch.randn(2, 8, 16, 16, requires_grad=True)
    plain = saved_bytes(lambda: block(x), block, False)
    saving = saved_bytes(lambda: recompute_elementwise(block, x), block, True)
    map_bytes = 2 * 16 * 16 * 4
    # the input, the convolutions' outputs (4 and 8 channels); 10% for statistics
    assert saving < 1.1 * (8 + 4 + 8) * map_bytes
    assert saving < plain / 3


def test_convolutions_run_once_and_the_rest_twice():
    block, x = Block(), torch.randn(2, 8, 6, 6, requires_grad=True)
    with Recorder() as recorder:
        y = recompute_elementwise(block, x)
        forward = recorder.count(torch.ops.aten._prelu_kernel.default)
        y.sum().backward()
    assert recorder.count(*CONVOLUTIONS) == 2
    assert forward == 1
    assert recorder.count(torch.ops.aten._prelu_kernel.default) == 2


def test_only_the_input_is_saved_where_nothing_is_kept(nothing_is_kept):
    block, x = Block(), torch.randn(2, 8, 16, 16, requires_grad=True)
    saving = saved_bytes(lambda: recompute_elementwise(block, x), block, False)
    assert saving <= x.numel() * x.element_size()
    with Recorder() as recorder:
        recompute_elementwise(block, x).sum().backward()
    assert recorder.count(*CONVOLUTIONS) == 4


def test_a_gpu_keeps_nothing_unless_compiled():
    class OnGpu:
        is_cuda = True

    assert recompute.keeps_convolutions(torch.ones(1))
    assert not recompute.keeps_convolutions(OnGpu())


def test_outputs_that_sum_few_products_are_computed_again(monkeypatch):
    block, x = Block(), torch.randn(2, 8, 6, 6, requires_grad=True)
    monkeypatch.setattr(recompute, 'FEW_PRODUCTS', 16)  # those of the 1x1 convolution
    with Recorder() as recorder:
        recompute_elementwise(block, x).sum().backward()
    assert recorder.count(BINARY_CONV2D) == 1
    assert recorder.count(torch.ops.aten.convolution.default) == 2


def test_linears_run_once():
    layer, x = BinaryLinear(4, 4), torch.randn(3, 4, requires_grad=True)
    with Recorder() as recorder:
        recompute_elementwise(lambda x: layer(x).relu() + 1, x).sum().backward()
    assert recorder.count(BINARY_LINEAR) == 1
    assert recorder.count(torch.ops.aten.relu.default) == 2


@pytest.mark.parametrize('keeps', [True, False])
def test_only_the_second_pass_is_a_recomputation(keeps, monkeypatch):
    monkeypatch.setattr(recompute, 'keeps_convolutions', lambda x: keeps)
    flags, x = [], torch.ones(2, requires_grad=True)

    def function(x):
        flags.append(is_recomputing())
        return x.sin().exp()

    y = recompute_elementwise(function, x)
    assert not is_recomputing()
    y.sum().backward()
    assert flags == [False, True]
    assert not is_recomputing()


def test_another_thread_is_no_recomputation():
    flags, x = [], torch.ones(2, requires_grad=True)

    def function(x):
        other = Thread(target=lambda: flags.append(is_recomputing()))
        other.start()
        other.join()
        return x.sin().exp()

    recompute_elementwise(function, x).sum().backward()
    assert flags == [False, False]


@pytest.mark.parametrize('keeps', [True, False])
def test_a_failed_recomputation_ends_the_recomputation(keeps, monkeypatch):
    monkeypatch.setattr(recompute, 'keeps_convolutions', lambda x: keeps)
    passes, x = [], torch.ones(2, requires_grad=True)

    def function(x):
        passes.append(x)
        if len(passes) == 2:
            raise RuntimeError('broken')
        return x.sin().exp()

    y = recompute_elementwise(function, x)
    with pytest.raises(RuntimeError, match='broken'):
        y.sum().backward()
    assert not is_recomputing()


@pytest.mark.parametrize('keeps', [True, False])
def test_dropout_draws_the_same_numbers_in_both_passes(keeps, monkeypatch):
    monkeypatch.setattr(recompute, 'keeps_convolutions', lambda x: keeps)
    layer, x = BinaryConv2d(4, 4, 1), torch.randn(2, 4, 8, 8, requires_grad=True)

    def function(x):
        return nn.functional.dropout(layer(x), 0.5).sin()

    results = []
    for call in (function, lambda x: recompute_elementwise(function, x)):
        torch.manual_seed(1)
        y = call(x)
        results.append((y, *torch.autograd.grad(y.sum(), (x, layer.weight))))
    assert all(map(torch.equal, *results))


def test_autocast_is_repeated_in_the_second_pass():
    block, x = Block(), torch.randn(2, 8, 6, 6)
    other = copy.deepcopy(block)
    upstream = torch.randn(2, 8, 6, 6)
    with torch.autocast('cpu', torch.bfloat16):
        expected = run(block, x, False, upstream)
        got = run(other, x, True, upstream)
    assert all(map(torch.equal, got, expected))


def test_compiles_to_one_graph():
    block, x = Block(), torch.randn(2, 8, 6, 6)
    compiled_block, upstream = copy.deepcopy(block), torch.randn(2, 8, 6, 6)
    compiled = torch.compile(
        lambda x: recompute_elementwise(compiled_block, x), backend='aot_eager', fullgraph=True
    )
    expected, got = run(block, x, False, upstream), run(compiled, x, False, upstream)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(compiled_block.state_dict(), block.state_dict())
    assert compiled_block.tiled.num_batches_tracked == 1
