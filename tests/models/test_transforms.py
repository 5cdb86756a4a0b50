"""torch.func, forward-mode differentiation, tracing and layouts, for every family."""

import copy
import warnings

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmesbnn.binary import BinaryConv2d, BinaryLinear, binary_matmul
from tests import families


def loss_of(model, inputs):
    def loss(parameters):
        outputs = families.tensors(functional_call(model, parameters, tuple(inputs)))
        return sum(y.square().mean() for y in outputs)

    return loss


@pytest.mark.parametrize('name', families.NAMES)
def test_gradients_of_torch_func(name):
    model, inputs = families.build(name, hard=False)
    loss = loss_of(model, inputs)
    loss(dict(model.named_parameters())).backward()
    parameters = {k: p.detach() for k, p in model.named_parameters()}
    found = grad(loss)(parameters)
    for key, parameter in model.named_parameters():
        expected = parameter.grad
        if expected is None:
            expected = torch.zeros_like(parameter)
        torch.testing.assert_close(found[key], expected, rtol=1e-4, atol=1e-6)


# torch's own group norm fails on a tangent of diffusers' transposed attention
@pytest.mark.parametrize('name', [n for n in families.NAMES if n != 'diffusers-unet'])
def test_directional_derivatives_agree_with_gradients(name):
    model, inputs = families.build(name, hard=False)
    model, inputs = model.double(), [x.double() if x.is_floating_point() else x for x in inputs]
    loss = loss_of(model, inputs)
    parameters = {k: p.detach() for k, p in model.named_parameters()}
    torch.manual_seed(1)
    direction = {k: torch.randn_like(p) for k, p in parameters.items()}
    # torch's fused attention has no forward-mode derivative
    with sdpa_kernel(SDPBackend.MATH):
        _, along = jvp(loss, (parameters,), (direction,))
    gradients = grad(loss)(parameters)
    expected = sum((gradients[k] * direction[k]).sum() for k in parameters)
    assert expected.abs() > 0
    torch.testing.assert_close(along, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ('layer', 'shape'),
    [(BinaryConv2d(4, 6, 3, padding=1, pad_value=-1), (2, 4, 5, 5)), (BinaryLinear(4, 6), (2, 4))],
)
def test_dual_numbers_pass_the_operators(layer, shape):
    layer, x, v = layer.double(), *torch.randn(2, *shape, dtype=torch.double)
    with forward_ad.dual_level():
        y = layer(forward_ad.make_dual(x, v))
        found = forward_ad.unpack_dual(y).tangent
    leaf = x.clone().requires_grad_()
    y, u = layer(leaf), torch.randn(6, dtype=torch.double)
    u = torch.randn_like(y)
    (gradient,) = torch.autograd.grad(y, leaf, u)
    assert found.abs().sum() > 0
    torch.testing.assert_close((found * u).sum(), (gradient * v).sum())


def test_vmap_over_images_and_products():
    layer, x = BinaryConv2d(4, 6, 3), torch.randn(3, 2, 4, 5, 5)
    torch.testing.assert_close(vmap(layer)(x), torch.stack([layer(y) for y in x]))
    a, b = torch.randn(3, 4, 5).sign(), torch.randn(3, 5, 2).sign()
    torch.testing.assert_close(vmap(binary_matmul)(a, b), a @ b)


@pytest.mark.parametrize('name', [n for n in families.NAMES if 'diff' not in n])
def test_tracing_with_gradients_on(name):
    model, inputs = families.build(name)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        # strict=False: mmpretrain's and our backbones may return lists
        traced = torch.jit.trace(model, inputs, strict=False)
    found, expected = map(families.tensors, (traced(*inputs), model(*inputs)))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@torch.no_grad()
@pytest.mark.parametrize('name', [n for n in families.NAMES if 'vit' not in n and 'diff' not in n])
def test_channels_last(name):
    model, (x,) = families.build(name)
    model, x = model.double(), x.double()  # a sign must not change by rounding
    fast = copy.deepcopy(model).to(memory_format=torch.channels_last)
    outputs = families.tensors(fast(x.contiguous(memory_format=torch.channels_last)))
    for ours, theirs in zip(outputs, families.tensors(model(x)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
        if ours.dim() == 4:
            assert ours.is_contiguous(memory_format=torch.channels_last)
