"""The photographs of the super-resolution demo."""

import sys

import pytest
import torch
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_image

from mmesbnn.datasets import PairedSRDataset, write_photographs
from mmesbnn.datasets.photographs import TEST, TILE, TRAIN
from mmesbnn.images.bicubic import resize
from mmesbnn.images.tensors import read_rgb


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('data') / 'nested' / 'photographs'
    assert write_photographs(root) == 9
    return root


def rgb(image):
    return torch.from_numpy(image.copy()).permute(2, 0, 1)


def test_layout(root):
    assert [path.name for path in root.parent.iterdir()] == ['photographs']
    folders = sorted({str(p.parent.relative_to(root)) for p in root.rglob('*.png')})
    assert folders == ['test/HR', 'test/LR_bicubic/X2', 'train/HR']
    assert {p.stem for p in (root / 'test/HR').iterdir()} == set(TEST)
    names = {p.stem.partition('_s')[0] for p in (root / 'train/HR').iterdir()}
    assert names == {name.partition('_s')[0] for name in TRAIN}
    assert not set(TRAIN) & set(TEST)


def test_tiles_are_the_photograph(root):
    coffee = rgb(data.coffee())
    assert coffee.shape == (3, 400, 600)
    tiles = sorted((root / 'train/HR').glob('coffee_s*.png'))
    assert len(tiles) == 3 * 5
    for i, path in enumerate(tiles):
        top, left = (TILE * n for n in divmod(i, 5))
        expected = coffee[:, top : top + TILE, left : left + TILE]
        assert torch.equal(read_rgb(path), expected)


def test_test_images_are_the_middle_and_its_bicubic_version(root):
    flower = rgb(load_sample_image('flower.jpg'))
    assert flower.shape == (3, 427, 640)
    hr = read_rgb(root / 'test/HR/flower.png')
    assert torch.equal(hr, flower[:, 85:341, 192:448])
    lr = read_rgb(root / 'test/LR_bicubic/X2/flower.png')
    assert torch.equal(lr, resize(hr, (128, 128)))


def test_datasets_read_them(root):
    train = PairedSRDataset(2, str(root / 'train/HR'), crop_size=48, augment=True)
    assert len(train) > 100
    assert train[0]['data_samples']['hr'].shape == (3, 48, 48)
    lr = str(root / 'test/LR_bicubic/X2')
    assert len(PairedSRDataset(2, str(root / 'test/HR'), lr)) == 3


def test_other_sizes_and_an_existing_folder(tmp_path):
    write_photographs(tmp_path / 'x4', scale=4, test_size=64)
    size = Image.open(tmp_path / 'x4/test/LR_bicubic/X4/china.png').size
    assert size == (16, 16)
    assert write_photographs(tmp_path / 'x4') == 0


@pytest.mark.parametrize('size', [0, 63, 302])
def test_impossible_size(tmp_path, size):
    with pytest.raises(ValueError, match=f'test_size={size} must be a'):
        write_photographs(tmp_path / 'p', test_size=size)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('package', ['skimage', 'sklearn'])
def test_missing_packages_are_explained(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"{package}.*'mmesbnn\[demo\]'"):
        write_photographs(tmp_path / 'p')
    assert not list(tmp_path.iterdir())
