"""Resizing equals torch and MATLAB's definition, written tap by tap."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from mmesbnn.images import bicubic
from mmesbnn.images.bicubic import cubic, resize, resize_taps
from tests.defaults import torch_default, with_other_defaults
from tests.real_data import photograph


def keys(x):
    x = abs(x)
    if x <= 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x <= 2 else 0.0


def matlab_line(line, new_length):
    """Resize one line with MATLAB's one-based formulas, in Python's floats."""
    length = len(line)
    scale = new_length / length
    shrink = min(scale, 1)
    width = 4 / shrink
    aux = [*range(1, length + 1), *range(length, 0, -1)]
    result = []
    for x in range(1, new_length + 1):
        u = x / scale + 0.5 * (1 - 1 / scale)
        left = math.floor(u - width / 2)
        taps = range(left, left + math.ceil(width) + 2)
        weights = [shrink * keys(shrink * (u - tap)) for tap in taps]
        values = [line[aux[(tap - 1) % len(aux)] - 1] for tap in taps]
        products = (w * v for w, v in zip(weights, values))
        result.append(math.fsum(products) / math.fsum(weights))
    return result


def matlab(image, size):
    """Resize a (H, W) array like imresize: first the direction with the smaller scale."""
    order = sorted((0, 1), key=lambda axis: size[axis] / image.shape[axis])
    for axis in order:
        image = np.apply_along_axis(matlab_line, axis, image, size[axis])
    return image


def grey(height, width):
    image = photograph(1)[100 : 100 + height, 120 : 120 + width, 1]
    return torch.from_numpy(image.copy())


@pytest.mark.parametrize(
    ('shape', 'size'),
    [
        ((40, 60), (20, 30)),
        ((40, 60), (10, 15)),
        ((10, 15), (40, 60)),
        ((9, 12), (3, 4)),
        ((13, 17), (5, 23)),
        ((7, 30), (14, 11)),
        ((1, 1), (4, 3)),
        ((5, 8), (1, 1)),
        ((6, 6), (6, 3)),
    ],
)
def test_resize_is_matlabs(shape, size):
    image = grey(*shape).double() / 255
    expected = torch.from_numpy(matlab(image.numpy(), size))
    assert (resize(image, size) - expected).abs().max() < 1e-13


def test_uint8_is_rounded_after_either_direction():
    image = grey(24, 32)
    expected = image.numpy().astype(float)
    for axis, length in ((0, 6), (1, 16)):  # rows shrink more
        expected = np.apply_along_axis(matlab_line, axis, expected, length)
        expected = np.floor(np.clip(expected, 0, 255) + 0.5)
    assert resize(image, (6, 16)).dtype == torch.uint8
    assert np.array_equal(resize(image, (6, 16)).numpy(), expected)
    # black and white overshoot
    steps = torch.tensor([0, 255] * 8, dtype=torch.uint8).repeat_interleave(4)[None]
    assert set(resize(steps, (1, 128)).unique().tolist()) >= {0, 255}


@pytest.mark.parametrize('size', [(75, 112), (100, 150), (600, 902), (150, 902)])
def test_inside_it_is_torchs_antialiased_bicubic(size):
    image = torch.from_numpy(photograph(1)).permute(2, 0, 1).double() / 255
    options = dict(size=size, mode='bicubic', antialias=True)
    theirs, ours = F.interpolate(image[None], **options)[0], resize(image, size)
    border = 8
    inside = (slice(None), slice(border, -border), slice(border, -border))
    assert (ours - theirs)[inside].abs().max() < 1e-13
    # at the border torch omits the pixels that MATLAB mirrors
    assert (ours - theirs).abs().max() > 1e-4


def test_kernel():
    at = torch.tensor([0, 0.5, 1, 1.5, 2, 2.5], dtype=torch.float64)
    values = torch.tensor([1, 0.5625, 0, -0.0625, 0, 0], dtype=torch.float64)
    assert torch.equal(cubic(at), values)
    assert torch.equal(cubic(-at), values)


@given(st.integers(1, 40), st.integers(1, 90))
def test_weights_sum_to_one_and_lie_inside(length, new_length):
    indices, weights = resize_taps(length, new_length)
    assert indices.shape == weights.shape and len(indices) == new_length
    assert indices.min() >= 0 and indices.max() < length
    assert (weights.sum(1) - 1).abs().max() < 1e-12


@given(st.integers(3, 12), st.integers(2, 4), st.booleans())
def test_mirroring_and_transposing_commute(length, scale, smaller):
    small, large = (length, length + 1), (length * scale, (length + 1) * scale)
    shape, size = (large, small) if smaller else (small, large)
    image = torch.rand(shape, dtype=torch.float64)
    result = resize(image, size)
    assert torch.allclose(resize(image.flip(0, 1), size).flip(0, 1), result, atol=1e-12)
    assert torch.allclose(resize(image.T, size[::-1]).T, result, atol=1e-12)


def test_leading_dimensions_dtype_and_same_size():
    image = torch.rand(2, 3, 8, 6)
    result = resize(image, (4, 12))
    assert result.shape == (2, 3, 4, 12) and result.dtype == torch.float32
    assert torch.equal(result[1, 2], resize(image[1, 2], (4, 12)))
    assert torch.equal(resize(image, (8, 6)), image)
    image.requires_grad_()
    resize(image, (4, 3)).sum().backward()
    assert torch.allclose(image.grad.sum(), torch.tensor(2 * 3 * 12.0))


@pytest.mark.parametrize(
    ('image', 'size', 'message'),
    [
        (torch.rand(4, 4), (0, 2), r'of shape \(4, 4\) to \(0, 2\)'),
        (torch.rand(3, 0, 4), (2, 2), 'must be at least 1'),
        (torch.rand(4), (2, 2), 'must be at least 1'),
        (torch.ones(4, 4, dtype=torch.int32), (2, 2), 'image has dtype torch.int32'),
    ],
)
def test_bad_input(image, size, message):
    with pytest.raises(ValueError, match=message):
        resize(image, size)


@pytest.mark.parametrize('dtype', [torch.uint8, torch.float32, torch.float64])
@pytest.mark.parametrize('size', [(20, 30), (90, 31), (1, 100)])
def test_strips_change_nothing(dtype, size, monkeypatch):
    image = torch.from_numpy(photograph(1)[:50, :40]).permute(2, 0, 1).to(dtype)
    whole = resize(image, size)
    monkeypatch.setattr(bicubic, '_STRIP', 500)
    assert torch.equal(resize(image, size), whole)


def test_large_images_take_little_more_memory_than_their_own():
    code = """
import resource, torch
from mmesbnn.images.bicubic import resize
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
resize(torch.zeros(3, 64, 64, dtype=torch.uint8), (32, 32))
before = peak()
resize(torch.zeros(3, 6000, 6000, dtype=torch.uint8), (3000, 3000))
print(peak() - before)
"""
    done = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(Path(__file__).parents[2])},
    )
    assert done.returncode == 0, done.stderr
    # the image has 108 MB, in float64 864 MB
    assert int(done.stdout) < 700e6


@with_other_defaults
@pytest.mark.parametrize('dtype', [torch.float32, torch.uint8])
def test_resizing_does_not_depend_on_the_defaults_of_torch(dtype, default):
    image = (255 * torch.rand(3, 9, 12)).to(dtype)
    expected = resize(image, (6, 30))
    with torch_default(default):
        assert torch.equal(resize(image, (6, 30)), expected)
