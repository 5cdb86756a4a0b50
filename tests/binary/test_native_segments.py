"""Segments that are recomputed on the native kernels."""

import copy
from threading import Thread

import pytest
import torch
from torch import nn

from mmesbnn.binary import TiledBatchNorm2d, recompute, recompute_elementwise
from mmesbnn.binary.recompute import recompute_segment
from mmesbnn.binary.unit_steps import normalized
from mmesbnn.models.backbones import ReActNet
from tests.binary.units import Step, Unit, inputs, results
from tests.native.signs import needs_kernels

pytestmark = needs_kernels


def test_a_segment_inside_another_is_recomputed(calls):
    torch.manual_seed(0)
    plain = ReActNet(dict(channels=[16, 32, 32]), stem_stride=1).train()
    nested = copy.deepcopy(plain)
    nested.with_cp = True
    images = torch.randn(2, 3, 32, 32)
    found = []
    for network, run in ((plain, lambda f, x: f(x)), (nested, recompute_elementwise)):
        x = images.clone().requires_grad_()
        y = run(lambda x, network=network: network(x)[0], x)
        y.square().mean().backward()
        found.append((y, x.grad))
    assert all(map(torch.equal, *found))
    for name, parameter in plain.named_parameters():
        assert torch.equal(nested.get_parameter(name).grad, parameter.grad), name
    for name, buffer in plain.named_buffers():
        assert torch.equal(nested.get_buffer(name), buffer), name


class Random(nn.Module):
    """A native convolution, dropout, and a parameter that nothing reads."""

    def __init__(self):
        super().__init__()
        self.step, self.gate = Step('signed'), inputs(2, 16, 6, 6)[1]
        self.unused = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return nn.functional.dropout(self.step(x, self.gate), 0.5).sin()


def gradients_of(run, module, x):
    """Return the result of ``run(x)`` with fixed random numbers, and gradients."""
    torch.manual_seed(3)
    y = run(x)
    wanted = [x, *module.parameters()]
    y.sum().backward(retain_graph=True)
    found = [one.grad for one in wanted]
    again = torch.autograd.grad(y.sum(), wanted, allow_unused=True)
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(found, again))
    return [y.detach(), *(one for one in found if one is not None), torch.rand(1)]


def test_a_recomputed_segment_is_its_function(calls):
    torch.manual_seed(0)
    module = Random()
    other, x = copy.deepcopy(module), inputs(2, 16, 6, 6)[0]
    expected = gradients_of(module, module, x.clone().requires_grad_())
    assert len(calls) == 1
    found = gradients_of(
        lambda x: recompute_segment(other, x, [other]), other, x.clone().requires_grad_()
    )
    assert len(calls) == 4  # once, and once in each of the two backward passes
    assert module.unused.grad is other.unused.grad is None
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_a_recomputed_segment_ignores_autocast_around_its_backward_pass(calls):
    module, x = Random(), inputs(2, 16, 6, 6)[0].requires_grad_()
    found = []
    for enabled in (False, True):
        torch.manual_seed(3)
        y = recompute_segment(module, x, [module])
        with torch.autocast('cpu', torch.bfloat16, enabled=enabled):
            found.append(torch.autograd.grad(y.sum(), [x, *module.parameters()], allow_unused=True))
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert len(calls) == 4


@pytest.mark.parametrize('late', [True, False])
def test_hooks_of_parameters_run_once_in_a_recomputed_segment(calls, late):
    module, x = Random(), inputs(2, 16, 6, 6)[0].requires_grad_()
    weight, found = module.step.conv.weight, []
    for segment in (False, True):
        torch.manual_seed(3)
        weight.grad = None
        y = recompute_segment(module, x, [module]) if segment and late else None
        hook = weight.register_hook(lambda grad: found.append(grad) or grad.neg())
        if y is None:
            y = recompute_segment(module, x, [module]) if segment else module(x)
        for _ in range(2):  # hooks are there again after the first backward pass
            y.sum().backward(retain_graph=True)
        hook.remove()
        found.append(weight.grad)
    assert len(found) == 6
    assert all(map(torch.equal, found[:3], found[3:]))


def test_a_recomputed_segment_stores_its_input_only(calls):
    module, x = Random(), inputs(2, 16, 6, 6)[0].requires_grad_()
    stored = []
    with torch.autograd.graph.saved_tensors_hooks(stored.append, lambda saved: saved):
        recompute_segment(module, x, [module])
    parameters = {p.data_ptr() for p in module.parameters()}
    assert [t.data_ptr() for t in stored if t.data_ptr() not in parameters] == [x.data_ptr()]


@pytest.mark.parametrize('extra', [0, 1])
def test_a_segment_of_few_pixels_and_many_weights_is_not_recomputed(calls, extra):
    module, x = Random(), inputs(2, 16, 6, 6)[0].requires_grad_()
    weights = recompute.MAPS_OF_SEGMENT * x.numel()
    missing = weights - sum(p.numel() for p in module.parameters())
    module.unused = nn.Parameter(torch.ones(1 + missing + extra))
    y = recompute_segment(module, x, [module])
    y.sum().backward()
    assert len(calls) == (1 if extra else 2)


@pytest.mark.parametrize('recomputes', [recompute_segment, recompute_elementwise])
def test_steps_of_another_thread_are_not_part_of_a_segment(calls, recomputes):
    torch.manual_seed(0)
    module, other = Random(), Unit()
    x, gate = inputs(2, 16, 6, 6)
    expected, found = results(copy.deepcopy(other), x, gate), []

    def function(x):
        twin = copy.deepcopy(other)
        thread = Thread(target=lambda: found.append(results(twin, 1 * x.detach(), gate)))
        thread.start()
        thread.join()
        return module(x)

    more = () if recomputes is recompute_elementwise else ([module],)
    recomputes(function, x.clone().requires_grad_(), *more).sum().backward()
    assert len(found) == 2
    for one in found:
        assert all(
            a is b is None or torch.equal(a, b) for a, b in zip(one.values(), expected.values())
        )


def test_parameters_frozen_before_the_second_pass_are_an_error(calls):
    module, x = Random(), inputs(2, 16, 6, 6)[0].requires_grad_()
    y = recompute_segment(module, x, [module])
    module.step.conv.requires_grad_(False)
    with pytest.raises(RuntimeError, match='requires_grad_'):
        y.sum().backward()


@pytest.mark.parametrize('processes', [True, False])
@pytest.mark.parametrize('sync', [True, False])
def test_a_small_segment_is_recomputed_if_its_norms_wait_for_processes(
    calls, monkeypatch, sync, processes
):
    monkeypatch.setattr(torch.distributed, 'is_initialized', lambda: processes)
    module, x = Random(), inputs(2, 16, 6, 6)[0].requires_grad_()
    module.norm = TiledBatchNorm2d(4, sync=sync)
    module.unused = nn.Parameter(torch.ones(recompute.MAPS_OF_SEGMENT * x.numel()))
    recompute_segment(module, x, [module]).sum().backward()
    assert len(calls) == (2 if sync and processes else 1)


def test_a_segment_without_gradients_is_not_recomputed(calls):
    module, x = Random(), inputs(2, 16, 6, 6)[0]
    with torch.no_grad():
        y = recompute_segment(module, x, [module])
    assert not y.requires_grad
    assert not calls


@pytest.mark.parametrize('segment', [True, False])
@pytest.mark.parametrize('training', [True, False])
def test_a_mode_that_changes_before_the_second_pass_is_an_error(calls, training, segment):
    norm, x = TiledBatchNorm2d(16).train(training), inputs(2, 16, 6, 6)[0].requires_grad_()

    def function(x):
        return normalized(x, norm).square()

    if segment:
        y = recompute_segment(function, x, [norm])
    else:
        y = recompute.recompute_elementwise(function, x)
    norm.train(not training)
    # torch says it of its own checkpoints where fewer steps run
    with pytest.raises(RuntimeError, match='were changed' if segment or not training else None):
        y.sum().backward()
