"""Sums with convolutions over crosses are those of float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from mmesbnn import native
from tests.native.signs import fastest_again, needs_kernels  # noqa: F401

pytestmark = needs_kernels


def depthwise(taps):
    """Return the taps as depthwise kernels ``(C, 1, 2 r + 1, 2 r + 1)``."""
    reach = len(taps) // 4
    kernels = taps.new_zeros(taps.shape[1], 2 * reach + 1, 2 * reach + 1)
    kernels[:, reach, reach] = taps[0]
    for far in range(1, reach + 1):
        up, down, left, right = taps[4 * far - 3 : 4 * far + 1]
        kernels[:, reach - far, reach], kernels[:, reach + far, reach] = up, down
        kernels[:, reach, reach - far], kernels[:, reach, reach + far] = left, right
    return kernels[:, None]


def in_float64(base, x, taps, shift):
    """Compute the sum with torch's convolution."""
    maps = x.permute(0, 3, 1, 2)
    y = F.conv2d(maps, depthwise(taps), shift, padding=len(taps) // 4, groups=x.shape[3])
    return base + y.permute(0, 2, 3, 1)


@given(
    seed=st.integers(0, 10_000),
    batch=st.integers(1, 3),
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    channels=st.sampled_from([1, 3, 8, 16, 40, 67]),
    reach=st.integers(0, 3),
)
def test_any_sum_is_that_of_float64(seed, batch, size, channels, reach):
    rng = np.random.default_rng(seed)

    def some(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    map_shape = (batch, *size, channels)
    operands = some(*map_shape), some(*map_shape), some(4 * reach + 1, channels), some(channels)
    grad = some(*map_shape)
    leaves = [torch.from_numpy(one).double().requires_grad_() for one in operands]
    expected = in_float64(*leaves)
    wanted = torch.autograd.grad(expected, leaves[1:], torch.from_numpy(grad).double())
    for name in native.instruction_sets():
        native.use_instruction_set(name)
        found = native.add_cross(*operands, threads=2)
        np.testing.assert_allclose(found, expected.detach().numpy(), rtol=0, atol=2e-5)
        np.testing.assert_array_equal(native.add_cross(*operands), found)
        gradients = native.cross_gradients(grad, *operands[1:3], threads=2)
        for ours, exact in zip(gradients, wanted):
            atol = 2e-5 * np.sqrt(grad.size)
            np.testing.assert_allclose(ours, exact.numpy(), rtol=0, atol=atol)
        for ours, other in zip(gradients, native.cross_gradients(grad, *operands[1:3], threads=1)):
            np.testing.assert_array_equal(ours, other)


def test_wrong_arguments_are_named():
    x, taps, shift = np.ones((2, 4, 4, 3), np.float32), np.ones((5, 3), np.float32), np.ones(3)
    shift = shift.astype(np.float32)
    cases = [
        (lambda: native.add_cross(x, x[0], taps, shift), 'x has the shape'),
        (lambda: native.add_cross(x[:1], x, taps, shift), 'base has the shape'),
        (lambda: native.add_cross(x, x, taps[:4], shift), 'taps has the shape'),
        (lambda: native.add_cross(x, x, taps[:, :2], shift), 'taps has the shape'),
        (lambda: native.add_cross(x, x, taps, shift[:2]), 'shift has the shape'),
        (lambda: native.add_cross(x, x.astype(np.float64), taps, shift), 'x is of float64'),
        (lambda: native.add_cross(x, x, taps, shift, threads=0), 'threads=0'),
        (lambda: native.cross_gradients(x[:1], x, taps), 'grad has the shape'),
    ]
    for call, message in cases:
        with pytest.raises(native.NativeError, match=message):
            call()
