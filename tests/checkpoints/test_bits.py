"""Eight binary weights are one byte."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmesbnn.checkpoints.bits import BITS, SCALE, pack_bits, parts_of, unpack_bits


@given(st.lists(st.sampled_from([-2.0, -1.0, -0.0, 0.0, 0.5]), min_size=1))
def test_bits_are_least_significant_first(values):
    weight = torch.tensor(values)
    bits = pack_bits(weight)
    for i, value in enumerate(values):
        assert bool(bits[i // 8] >> (i % 8) & 1) == (value > 0)
    signs = unpack_bits(bits, weight.shape)
    assert torch.equal(signs, torch.where(weight > 0, 1.0, -1.0))


def test_bits_must_be_as_many_as_weights():
    with pytest.raises(ValueError, match='2 bytes of bits for 17 weights'):
        unpack_bits(torch.zeros(2, dtype=torch.uint8), torch.Size([17]))


@pytest.mark.parametrize('bits', [torch.zeros(2), torch.zeros(2, dtype=torch.int8)])
def test_bits_must_be_bytes(bits):
    with pytest.raises(ValueError, match=r'bits of torch\.\w+, not of torch\.uint8'):
        unpack_bits(bits, torch.Size([16]))


def test_bits_must_be_flat():
    with pytest.raises(ValueError, match='2 bytes of bits for 16 weights'):
        unpack_bits(torch.zeros(1, 2, dtype=torch.uint8), torch.Size([16]))


def test_scales_of_1_are_no_part():
    signs = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    assert parts_of(signs).keys() == {BITS}
    parts = parts_of(signs * torch.tensor([[0.5], [1.0]]))
    assert torch.equal(parts[BITS], pack_bits(signs))
    assert parts[SCALE].tolist() == [0.5, 1.0]
