"""Packed files that are cut, changed, or written again with wrong parts."""

import base64
import json
import zlib

import pytest
from safetensors.torch import load_file, save_file

from mmesbnn.deploy import pack
from mmesbnn.deploy.packed.file import read_packed
from mmesbnn.deploy.packed.layout import checksum
from tests.campaigns.damage import damaged
from tests.checkpoints.readers import Reader
from tests.deploy.small_network import network

VALUES = ['', 'AAAA', '[]', '{}', '3', 'null', 'x' * 10**5, '[' * 10**5]


@pytest.fixture
def packed(tmp_path):
    pack(network(), tmp_path / 'net.safetensors')
    return tmp_path / 'net.safetensors'


def test_damaged_packed_files(campaign, packed, tmp_path):
    whole, path = packed.read_bytes(), tmp_path / 'damaged.safetensors'
    with Reader('tests.deploy.small_network.load') as read:
        good = read(packed)['read']
        for rng in campaign.draws(least=60):
            kind, data = damaged(rng, whole)
            path.write_bytes(data)
            with campaign.attempt(kind):
                answer = read(path)
                assert 'refused' in answer or answer.get('read') == good, answer


def changed_layout(rng, layout):
    entries = json.loads(zlib.decompress(base64.b64decode(layout)))
    entry = rng.choice(entries)
    place = rng.randrange(3)
    entry[place] = rng.choice(
        [
            None,
            3,
            -1,
            '',
            'a',
            [],
            [-1],
            [2**62],
            [0, 2**62],
            {},
            [1.5],
            'float64',
            entries[0][place],
        ]
    )
    text = json.dumps(entries).encode()
    return base64.b64encode(zlib.compress(text)).decode()


def test_packed_files_with_wrong_parts(campaign, packed, tmp_path):
    tensors, (_, metadata) = load_file(packed), read_packed(packed)
    path = tmp_path / 'changed.safetensors'
    with Reader('tests.deploy.small_network.load') as read:
        good = read(packed)['read']
        for rng in campaign.draws(least=40):
            parts, about = dict(tensors), dict(metadata)
            kind = rng.choice(['layout', 'metadata', 'missing', 'tensor'])
            if kind == 'layout':
                about['layout'] = changed_layout(rng, about['layout'])
            elif kind == 'metadata':
                about[rng.choice([*about, 'config'])] = rng.choice(VALUES)
            elif kind == 'missing':
                del about[rng.choice(list(about))]
            else:
                name = rng.choice(list(parts))
                parts[name] = rng.choice(
                    [parts[name][1:], parts[name].double(), parts[name].view(1, -1)]
                ).clone()
            if rng.random() < 0.8:  # as an attacker would
                about['sha256'] = checksum(parts, about)
            save_file(parts, path, about)
            with campaign.attempt(kind):
                answer = read(path)
                assert 'refused' in answer or answer.get('read') == good, answer
