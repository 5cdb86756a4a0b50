"""Input gradient of a strided convolution against torch's."""

import pytest
import torch
import torch.nn.functional as F

from mmesbnn.binary import binary_conv2d
from mmesbnn.binary.strided_gradient import is_slow, strided_input_gradient
from tests.binary.operators import assert_batched_gradients


def operands(size=(48, 50), dtype=torch.float32):
    x = torch.randn(2, 3, *size).sign().to(dtype)
    weight = torch.randn(5, 3, 3, 3).sign().to(dtype)
    return x.requires_grad_(), weight.requires_grad_()


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ('stride', 'padding', 'dilation'), [((2, 2), (1, 1), (1, 1)), ((1, 3), (0, 2), (2, 1))]
)
def test_the_gradient_is_torchs(dtype, stride, padding, dilation):
    x, weight = operands(dtype=dtype)
    y = F.conv2d(x, weight, None, stride, padding, dilation)
    grad = torch.randn_like(y)
    (expected,) = torch.autograd.grad(y, x, grad)
    with torch.no_grad():
        got = strided_input_gradient(grad, x, weight, stride, padding, dilation)
    assert got.is_contiguous()
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize('pad_value', [0, 1])
def test_the_operator_has_torchs_gradients(pad_value):
    x, weight = operands()
    y = binary_conv2d(x, weight, 2, 1, pad_value=pad_value)
    expected = F.conv2d(F.pad(x, (1, 1, 1, 1), value=pad_value), weight, None, 2)
    grad = torch.randn_like(y)
    for got, wanted in zip(
        torch.autograd.grad(y, (x, weight), grad),
        torch.autograd.grad(expected, (x, weight), grad),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_only_large_strided_maps_are_slow():
    x, weight = operands()
    grad = torch.randn(2, 5, 24, 25)
    with torch.no_grad():
        assert is_slow(grad, x, weight, (2, 2), 1)
        assert not is_slow(grad, x, weight, (1, 1), 1)
        assert not is_slow(grad, x[..., :24], weight, (2, 2), 1)
        assert not is_slow(grad, x.contiguous(memory_format=torch.channels_last), weight, (2, 2), 1)
        assert not is_slow(grad, x, weight, (2, 2), 3)
    assert not is_slow(grad, x, weight, (2, 2), 1)  # a gradient of the gradient may be wanted


def test_gradients_can_be_computed_in_batches():
    weight = torch.randn(4, 3, 3, 3, requires_grad=True)
    x = torch.randn(1, 3, 64, 64)
    assert_batched_gradients(lambda x: binary_conv2d(x, weight, 2, 1), x, weight)
