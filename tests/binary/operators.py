"""Helpers of tests: a recorder of operators, calls without the kernels, batches of gradients."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mmesbnn.binary import use_native
from mmesbnn.binary.operators import BINARY_CONV2D

CONVOLUTIONS = (BINARY_CONV2D, torch.ops.aten.convolution.default)


class Recorder(TorchDispatchMode):
    """Record every operator that ran, and its output."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, out))
        return out

    def count(self, *operators):
        return sum(func in operators for func, _ in self.calls)

    def outputs(self, *operators):
        return [out for func, out in self.calls if func in operators]


def saved_bytes(run, model, recompute):
    """Return the bytes that stay allocated between ``run()`` and the backward pass."""
    storages = {}

    def keep(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, Recorder() as recorder:
        y = run()
    # recomputation stores the outputs of convolutions without hooks
    for output in recorder.outputs(*CONVOLUTIONS) if recompute else ():
        keep(output)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    size = sum(t.untyped_storage().nbytes() for k, t in storages.items() if k not in own)
    y.sum().backward()
    return size


def without_kernels(function, *args):
    """Call a function while the native kernels are switched off."""
    return _switched(False, function, *args)


def with_kernels(function, *args):
    """Call a function while the native kernels are switched on."""
    return _switched(True, function, *args)


def count_forwards(monkeypatch, step):
    """Return a list that grows each time a step of autograd runs forward."""
    done, forward = [], step.forward
    monkeypatch.setattr(step, 'forward', lambda *args: done.append(1) or forward(*args))
    return done


def _switched(enabled, function, *args):
    before = use_native(enabled)
    try:
        return function(*args)
    finally:
        use_native(before)


def assert_batched_gradients(function, x, *parameters):
    """Assert that gradients of several upstream gradients at once are those of each."""
    operands = (x.requires_grad_(), *parameters)
    y = function(x)
    upstream = torch.randn(3, *y.shape)
    each = [torch.autograd.grad(y, operands, one, retain_graph=True) for one in upstream]
    got = torch.autograd.grad(y, operands, upstream, is_grads_batched=True)
    expected = tuple(torch.stack(found) for found in zip(*each, strict=True))
    torch.testing.assert_close(got, expected)
