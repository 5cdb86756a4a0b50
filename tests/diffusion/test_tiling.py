"""Padding and tiles cover every pixel once or with weights."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from mmesbnn.diffusion.tiling import check_tiles, pad_reflect, tile_starts, tile_weights
from tests.defaults import torch_default, with_other_defaults


@given(height=st.integers(1, 20), width=st.integers(1, 20), factor=st.integers(1, 9))
def test_padding_is_numpys_reflection(height, width, factor):
    image = torch.arange(float(height * width)).view(1, 1, height, width)
    padded = pad_reflect(image, factor)
    more = [-length % factor for length in (height, width)]
    expected = np.pad(image[0, 0].numpy(), [(0, n) for n in more], mode='reflect')
    assert np.array_equal(padded[0, 0].numpy(), expected)


def test_padding_is_the_published_one():
    image = torch.randn(2, 3, 13, 9)
    assert torch.equal(pad_reflect(image, 8), F.pad(image, (0, 7, 0, 3), 'reflect'))
    even = torch.randn(2, 3, 8, 16)
    assert pad_reflect(even, 8) is even


@given(
    blocks=st.integers(1, 60),
    tile=st.integers(1, 20),
    share=st.floats(0, 1),
    factor=st.sampled_from([1, 4, 8]),
)
def test_tiles_cover_everything_and_overlap(blocks, tile, share, factor):
    length, tile = blocks * factor, tile * factor
    overlap = int(share * (tile - factor))
    starts = tile_starts(length, tile, overlap, factor)
    assert starts[0] == 0
    assert all(start % factor == 0 for start in starts)
    assert max(starts[-1] + tile, length) == max(tile, length)
    for one, two in itertools.pairwise(starts):
        assert one < two <= one + tile - overlap
    assert tile >= length or starts[-1] + tile == length


def test_weights_rise_over_the_overlap():
    assert tile_weights(8, 3).tolist() == [0.25, 0.5, 0.75, 1, 1, 0.75, 0.5, 0.25]
    assert tile_weights(4, 0).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    'tile, overlap, message',
    [
        (100, 0, 'tile_size=100 must be a positive multiple of 8'),
        (0, 0, 'tile_size=0 must be'),
        (64, 64, 'tile_overlap=64 must be from 0 to 56'),
        (64, -1, 'tile_overlap=-1 must be from 0'),
    ],
)
def test_bad_tiles_are_refused(tile, overlap, message):
    with pytest.raises(ValueError, match=message):
        check_tiles(tile, overlap, 8)


@with_other_defaults
def test_weights_do_not_depend_on_the_defaults_of_torch(default):
    with torch_default(default):
        found = tile_weights(8, 3)
    assert torch.equal(found, tile_weights(8, 3))
