"""Packed files that cannot be read, or belong to another network."""

import os
import shutil

import pytest
import torch
from torch import nn

from mmesbnn.binary import BinaryConv2d, BinaryLinear
from mmesbnn.deploy import PackError, load_packed, pack
from mmesbnn.deploy.packed import unpacking
from mmesbnn.deploy.packed.file import read_packed
from mmesbnn.deploy.packed.layout import CHECKSUM, checksum
from tests.deploy.packed.nets import Net, shaken
from tests.families import float_unet

pytest.importorskip('safetensors')


@pytest.fixture
def packed(tmp_path):
    path = tmp_path / 'net.safetensors'
    pack(shaken(Net('scaled_sign')), path)
    return path


def test_no_config_and_no_model(packed):
    with pytest.raises(PackError, match='holds no config: pass the model'):
        load_packed(packed)


@pytest.mark.skipif(os.name == 'nt', reason='names are text there')
def test_a_path_that_is_no_text(packed, tmp_path):
    folder = tmp_path / os.fsdecode(b'a\xff')
    folder.mkdir()
    path = shutil.copy(packed, folder / os.fsdecode(b'n\xfe.safetensors'))
    with pytest.raises(PackError, match=r'holds no config: pass the model'):
        load_packed(path)
    with pytest.raises(FileNotFoundError, match='no such file'):
        load_packed(f'{path}x')
    path.write_bytes(packed.read_bytes()[:50])
    with pytest.raises(PackError, match=r'truncated'):
        load_packed(path)


def test_a_network_without_values(packed):
    with torch.device('meta'):
        net = Net('scaled_sign')
    with pytest.raises(PackError, match=r'into Net: its .* is on the device meta, without values'):
        load_packed(packed, net)


def test_truncated_file(packed):
    packed.write_bytes(packed.read_bytes()[:-10])
    with pytest.raises(PackError, match=r'(do not fit the file|truncated|no JSON)'):
        load_packed(packed, Net('scaled_sign'))


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='no such file'):
        load_packed(tmp_path / 'x.safetensors')


def test_another_safetensors_file(tmp_path):
    from safetensors.torch import save_file

    save_file({'x': torch.zeros(1)}, tmp_path / 'x.safetensors')
    with pytest.raises(PackError, match='not a packed network'):
        load_packed(tmp_path / 'x.safetensors')


@pytest.mark.parametrize(
    ('key', 'value', 'words'),
    [
        ('format', 'mmesbnn-packed-9', 'of a later format'),
        ('dtype', 'int32', "dtype 'int32'"),
        ('layout', 'AAAA', 'damaged'),
    ],
)
def test_spoiled_metadata(packed, key, value, words):
    from safetensors.torch import load_file, save_file

    tensors, (_, metadata) = load_file(packed), read_packed(packed)
    save_file(tensors, packed, {**metadata, key: value})
    with pytest.raises(PackError, match=words):
        load_packed(packed, Net('scaled_sign'))


@pytest.mark.parametrize('text', ['[]', '{', '{"norm.weight": "int8"}', '{"norm.weight": [1]}'])
def test_spoiled_dtypes(packed, text):
    from safetensors.torch import load_file, save_file

    tensors, (_, metadata) = load_file(packed), read_packed(packed)
    metadata['dtypes'] = text
    metadata[CHECKSUM] = checksum(tensors, {k: v for k, v in metadata.items() if k != CHECKSUM})
    save_file(tensors, packed, metadata)
    with pytest.raises(PackError, match=r'net.safetensors: its entry dtypes'):
        load_packed(packed, Net('scaled_sign'))


def test_another_network(packed):
    narrow = Net('scaled_sign')
    narrow.wide = BinaryConv2d(24, 7, 3)
    with pytest.raises(PackError, match='wide does not fit the network'):
        load_packed(packed, narrow)
    larger = Net('scaled_sign')
    larger.more = BinaryLinear(3, 3)
    with pytest.raises(PackError, match='no bits for the layer more'):
        load_packed(packed, larger)
    other = Net('scaled_sign')
    other.extra = nn.Linear(1, 1)
    del other.wide
    message = r'are missing \(extra\.weight.*are unknown \(wide\.weight\.bits'
    with pytest.raises(PackError, match=message):
        load_packed(packed, other)


# networks of configs --------------------------------------------------------------


def test_a_model_of_diffusers_that_a_binary_config_made(tmp_path):
    pytest.importorskip('diffusers')
    from mmesbnn.diffusion import BinaryConfig, binarize_unet

    models = [float_unet() for _ in range(2)]
    for model in models:
        binarize_unet(model, options=BinaryConfig(tau=2))
    sample, path = torch.randn(2, 3, 16, 16), tmp_path / 'net.safetensors'
    pack(models[0].eval(), path)
    loaded = load_packed(path, models[1])
    assert torch.equal(loaded(sample, 5).sample, models[0](sample, 5).sample)


class Silent(nn.Sequential):
    """A network whose ``train`` returns nothing, as that of mmpretrain's backbones."""

    def train(self, mode=True):
        super().train(mode)


def test_a_network_whose_train_returns_nothing(tmp_path):
    model, again = Silent(BinaryLinear(4, 3)), Silent(BinaryLinear(4, 3))
    pack(model, tmp_path / 'net.safetensors')
    assert load_packed(tmp_path / 'net.safetensors', again) is again and not again[0].training


def test_a_lack_of_memory_is_no_wrong_file(packed, monkeypatch):
    def allocate(*args):
        return torch.empty(2**50, dtype=torch.uint8)

    monkeypatch.setattr(unpacking, 'stored_weight', allocate)
    with pytest.raises(MemoryError, match=r'net\.safetensors: not enough memory to load it'):
        load_packed(packed, model=Net('scaled_sign'))
