"""Branches of tokens: their formula, and the same on the native kernels."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mmesbnn.binary import use_native
from mmesbnn.models.layers import branches
from mmesbnn.models.layers.branches import LayerScale, PoolBranches, add_scaled
from tests.binary.operators import Recorder, saved_bytes
from tests.compiled import TELLS_EXPORT, compiled, exported_operators
from tests.native.signs import needs_kernels


@pytest.fixture
def calls(monkeypatch):
    """Use the kernels; list what the native step gets as its size."""
    found = []
    apply = branches._AddCross.apply

    def counted(*args):
        found.append(args[-1])
        return apply(*args)

    monkeypatch.setattr(branches._AddCross, 'apply', counted)
    use_native()
    yield found
    use_native(False)


def drawn(module):
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


def tokens(channels, size):
    torch.manual_seed(0)
    return [torch.randn(2, size[0] * size[1], channels).requires_grad_() for _ in range(2)]


def in_float64(module, y, x, size):
    """Sum over the definition of a padded average, pixel by pixel."""
    height, width = size
    maps = x.double().unflatten(1, size)
    found = y.double().unflatten(1, size)
    for (rows, columns), scale in zip(module.kernels, module.scales):
        up, left = rows // 2, columns // 2
        padded = F.pad(maps, (0, 0, left, left, up, up))
        windows = [
            padded[:, i : i + height, j : j + width] for i in range(rows) for j in range(columns)
        ]
        mean = sum(windows) / (rows * columns)
        found = found + mean * scale.scale.double() + scale.shift.double()
    return found.flatten(1, 2)


def results(function, y, x, module):
    out = function(y, x)
    grad = torch.linspace(-1, 1, out.numel()).view_as(out).to(out.dtype)
    return [out, *torch.autograd.grad(out, [y, x, *module.parameters()], grad)]


def assert_near(found, expected):
    for ours, exact in zip(found, expected):
        bound = 1e-5 * float(exact.detach().abs().max().clamp(min=1))
        torch.testing.assert_close(ours, exact.to(ours.dtype), rtol=0, atol=bound)


SIZES = [(7, 5), (3, 1), (1, 9)]


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('kernels', [(3, 5), (1,), (5, 1, 3), (7,)])
def test_pooling_branches_are_their_formula(size, kernels):
    module = drawn(PoolBranches(6, kernels))
    y, x = tokens(6, size)
    expected = results(lambda y, x: in_float64(module, y, x, size), y, x, module)
    assert_near(results(lambda y, x: module(y, x, size), y, x, module), expected)


@needs_kernels
@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('kernels', [(3, 5), (1,), (5, 1, 3), (7,)])
def test_pooling_branches_on_the_kernels_are_their_formula(calls, size, kernels):
    module = drawn(PoolBranches(6, kernels))
    y, x = tokens(6, size)
    expected = results(lambda y, x: in_float64(module, y, x, size), y, x, module)
    assert not calls
    assert_near(results(lambda y, x: module(y, x, size), y, x, module), expected)
    assert calls == [size]


@needs_kernels
def test_a_scaled_sum_on_the_kernels_is_its_formula(calls):
    scale = drawn(LayerScale(6, 0.1))
    y, x = tokens(6, (4, 5))

    def formula(y, x):
        return y.double() + x.double() * scale.scale.double() + scale.shift.double()

    expected = results(formula, y, x, scale)
    assert_near(results(lambda y, x: add_scaled(y, x, scale), y, x, scale), expected)
    assert calls == [(20, 1)]


class Tokens(nn.Module):
    """Branches of a map of 4 x 5 pixels."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, y, x):
        return self.module(y, x, (4, 5))


def test_compiled_branches_are_their_formula_without_poolings():
    module = drawn(PoolBranches(6, (3, 5)))
    y, x = tokens(6, (4, 5))
    expected = results(lambda y, x: in_float64(module, y, x, (4, 5)), y, x, module)
    whole, operators = compiled(Tokens(module))
    assert_near(results(whole, y, x, module), expected)
    assert any('avg_pool2d' in name for name in operators) == (not TELLS_EXPORT)


@pytest.mark.parametrize('case', ['no grad', 'hook', 'export'])
def test_what_is_not_trained_shows_the_poolings(case):
    module = drawn(PoolBranches(6, (3, 5)))
    if case == 'hook':
        module.scales[1].register_forward_hook(lambda *args: None)
    y, x = tokens(6, (4, 5))
    if case == 'export':
        found = exported_operators(Tokens(module), y.detach(), x.detach())
    else:
        with torch.set_grad_enabled(case == 'hook'), Recorder() as seen:
            module(y, x, (4, 5))
        found = [str(func) for func, _ in seen.calls]
    assert found.count('aten.avg_pool2d.default') == len(module.kernels)
    assert 'aten.convolution.default' not in found


@pytest.mark.parametrize('converts', [True, False])
def test_half_precision_is_that_of_the_scaled_tokens(converts):
    module = drawn(PoolBranches(6, (3, 5)))
    y, x = (one.detach() for one in tokens(6, (4, 5)))
    exact = in_float64(module, y, x.bfloat16(), (4, 5))
    if converts:
        module, y = module.bfloat16(), y.bfloat16()
    with torch.autocast('cpu', torch.bfloat16):
        found = module(y, x.bfloat16(), (4, 5))
    assert found.dtype == (torch.bfloat16 if converts else torch.float32)
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=0.1 if converts else 1e-5)


def test_second_gradients_and_samples():
    module = drawn(PoolBranches(2, (3, 1))).double()
    y, x = (one.detach().double().requires_grad_() for one in tokens(2, (3, 2)))
    assert torch.autograd.gradgradcheck(lambda y, x: module(y, x, (3, 2)), (y, x))
    each = torch.func.vmap(lambda y, x: module(y[None], x[None], (3, 2))[0])(y, x)
    torch.testing.assert_close(each, module(y, x, (3, 2)), rtol=1e-12, atol=1e-12)


def test_no_pooling_is_stored():
    module = drawn(PoolBranches(64, (3, 5, 7)))
    y, x = tokens(64, (9, 9))
    stored = saved_bytes(lambda: module(y, x, (9, 9)), module, False) / x.element_size()
    parameters = sum(p.numel() for p in module.parameters())
    assert stored < x.numel() + 8 * parameters < 2 * x.numel()


def test_a_new_branch_adds_nothing_and_a_scale_starts_at_its_value():
    y, x = tokens(6, (4, 5))
    torch.testing.assert_close(PoolBranches(6, (3, 5))(y, x, (4, 5)), y, rtol=0, atol=0)
    torch.testing.assert_close(add_scaled(y, x, LayerScale(6, 0.25)), y + x / 4, rtol=0, atol=0)
    torch.testing.assert_close(add_scaled(y, x, nn.Identity()), y + x, rtol=0, atol=0)


@pytest.mark.parametrize('sizes', [(3, 11), (3, 13)])
def test_fake_tensors_and_real_ones_do_not_meet(sizes):
    def run():
        y, x = (torch.zeros(1, 16, 4, requires_grad=True) for _ in range(2))
        return PoolBranches(4, sizes)(y, x, (4, 4))

    if sizes == (3, 13):
        run()
    with FakeTensorMode():
        assert run().shape == (1, 16, 4)
    assert run().sum() == 0


@needs_kernels
@pytest.mark.parametrize('case', ['hook', 'double', 'view', 'no grad', 'identity', 'no branch'])
def test_other_calls_run_in_torch(calls, case):
    scale, module = LayerScale(6, 0.5), PoolBranches(6, () if case == 'no branch' else (3,))
    y, x = tokens(6, (4, 5))
    if case == 'hook':
        for one in (scale, *module.scales):
            one.register_forward_hook(lambda *args: None)
    if case == 'double':
        scale, module, y, x = scale.double(), module.double(), y.double(), x.double()
    if case == 'view':
        x = x.transpose(1, 2).contiguous().transpose(1, 2)
    if case in ('identity', 'no branch'):
        scale = nn.Identity()
    with torch.set_grad_enabled(case != 'no grad'):
        add_scaled(y, x, scale)
        if case != 'identity':
            module(y, x, (4, 5))
    assert not calls
