"""Damage in a packed file is noticed; files without a checksum load with a warning."""

import base64
import json
import zlib

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mmesbnn.checkpoints import CheckpointError
from mmesbnn.deploy import load_packed, pack
from mmesbnn.deploy.packed.file import PackError, read_packed
from mmesbnn.deploy.packed.layout import CHECKSUM, flatten, unflatten
from tests.deploy.small_network import network

CONTENT = {
    'a': torch.arange(6.0).view(2, 3),
    'b': torch.arange(3, dtype=torch.uint8),
    'c': torch.ones(()),
    'd': torch.empty(0, 2),
}


def encoded(text):
    return base64.b64encode(zlib.compress(text.encode())).decode()


def test_what_was_flattened_comes_back():
    back = unflatten(*flatten(CONTENT))
    assert list(back) == list(CONTENT)
    assert all(torch.equal(back[key], CONTENT[key]) for key in CONTENT)


GOOD = [['a', 'float32', [2, 3]], ['b', 'uint8', [3]]]


@pytest.mark.parametrize(
    'entries',
    [
        3,
        {},
        [3],
        [[]],
        [['a', 'float32']],
        [[1, 'float32', [6]]],
        [['a', 3, [6]]],
        [['a', 'float32', 6]],
        [['a', 'float32', [6.0]]],
        [['a', 'float32', [True] * 6]],
        [['a', 'float32', [-2, -3]]],
        [['a', 'float32', [2**62, 2**62]]],
        [['a', 'float32', [6]], ['b', 'float32', [0, 2**48, 2**48]]],
        [['a', 'float32', [1] * 100]],
        [['a', 'float64', [6]]],
        [['a', 'float32', [7]]],
        [['a', 'float32', [5]]],
        [['a', 'float32', [3]], ['a', 'float32', [3]]],
        [['a', 'float32', [2, 3]], ['b', 'uint8', [3]], ['c', 'uint8', [1]]],
    ],
)
def test_layouts_that_do_not_fit(entries):
    flat = {'float32': torch.ones(6)}
    assert list(unflatten(flat, encoded(json.dumps(GOOD[:1])))) == ['a']
    with pytest.raises(CheckpointError, match='damaged'):
        unflatten(flat, encoded(json.dumps(entries)))


@pytest.mark.parametrize(
    'layout', ['', 'A', '#', 'AAAA', encoded('['), encoded('[' * 10**5), encoded('[]')[:-8]]
)
def test_layouts_that_are_none(layout):
    with pytest.raises(CheckpointError):
        unflatten({'float32': torch.ones(6)}, layout)


def test_layouts_of_thousands_of_tensors_and_no_millions_of_lists():
    name = 'down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0.weight.scale'
    many = [[f'{name}{i}', 'float32', [0]] for i in range(2**14)]
    assert len(unflatten({'float32': torch.zeros(0)}, encoded(json.dumps(many)))) == 2**14
    with pytest.raises(CheckpointError, match=r'larger than .* raise max_bytes'):
        unflatten({'float32': torch.zeros(0)}, encoded(f'[{"[]," * 2**20}[]]'))


def test_a_layout_that_fills_the_memory():
    bomb = encoded('[' + ' ' * 2**27 + ']')
    with pytest.raises(CheckpointError, match=r'larger than .* raise max_bytes'):
        unflatten({}, bomb)
    assert unflatten({}, bomb, max_bytes=2**33) == {}


@pytest.fixture
def packed(tmp_path):
    pack(network(), tmp_path / 'net.safetensors')
    return tmp_path / 'net.safetensors'


def test_a_flipped_bit_is_noticed(packed):
    whole = bytearray(packed.read_bytes())
    for place in (-1, -100, len(whole) // 2):
        data = bytearray(whole)
        data[place] ^= 16
        packed.write_bytes(data)
        with pytest.raises(PackError, match=r'damaged|header'):
            load_packed(packed, network())


def test_a_file_of_an_earlier_version_loads_with_a_warning(packed):
    tensors, metadata = load_file(packed), read_packed(packed)[1]
    expected = load_packed(packed, network()).state_dict()
    del metadata[CHECKSUM]
    save_file(tensors, packed, metadata)
    with pytest.warns(UserWarning, match='packed without a checksum'):
        loaded = load_packed(packed, network()).state_dict()
    assert all(torch.equal(loaded[key], expected[key]) for key in expected)


def test_weights_that_are_not_finite_are_refused(packed):
    tensors, metadata = load_file(packed), read_packed(packed)[1]
    tensors['float32'][-1] = np.nan
    del metadata[CHECKSUM]
    save_file(tensors, packed, metadata)
    with (
        pytest.warns(UserWarning, match='without a checksum'),
        pytest.raises(PackError, match='holds NaN or infinity'),
    ):
        load_packed(packed, network())
