"""Helpers of the tests of the kernels."""

import numpy as np
import pytest

from mmesbnn import native

needs_kernels = pytest.mark.skipif(
    not native.available(), reason='the native kernels are not compiled'
)


@pytest.fixture(autouse=True, scope='module')
def fastest_again():
    yield
    native.use_instruction_set(native.instruction_sets()[0])


def signs(rng, *shape):
    return np.where(rng.random(shape) > 0.5, 1, -1).astype(np.float32)


def laid_out(x, channels_last):
    """Return a map whose channels lie side by side in memory, or whose pixels do."""
    if channels_last:
        return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(x)
