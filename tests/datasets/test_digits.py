"""The demo's images: scikit-learn's digits as PNGs."""

import sys

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from mmesbnn.datasets import write_digits


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('data') / 'nested' / 'digits'
    assert write_digits(root) == 1797
    return root


def indices(root, split):
    return sorted(int(path.stem) for path in (root / split).glob('*/*.png'))


def test_nothing_but_images_in_imagenets_layout(root):
    assert [path.name for path in root.parent.iterdir()] == ['digits']
    assert sorted(path.name for path in root.iterdir()) == ['train', 'val']
    for split in ('train', 'val'):
        classes = sorted(path.name for path in (root / split).iterdir())
        assert classes == [str(digit) for digit in range(10)]
    files = [path for path in root.rglob('*') if path.is_file()]
    assert len(files) == 1797
    assert {path.suffix for path in files} == {'.png'}


def test_every_image_is_in_one_split(root):
    train, val = indices(root, 'train'), indices(root, 'val')
    assert (len(train), len(val)) == (1257, 540)
    assert sorted(train + val) == list(range(1797))


def test_split_keeps_the_shares_of_the_classes(root):
    for digit, total in enumerate(np.bincount(load_digits().target)):
        held_out = len(list((root / 'val' / str(digit)).iterdir()))
        assert abs(held_out - 0.3 * total) <= 1


def test_images_are_the_scans(root):
    digits = load_digits()
    for path in root.glob('*/*/*.png'):
        image = Image.open(path)
        assert (image.mode, image.size) == ('L', (8, 8))
        index = int(path.stem)
        assert path.parent.name == str(digits.target[index])
        expected = digits.images[index] * 255 / 16
        assert np.abs(np.asarray(image) - expected).max() <= 0.5


def test_an_existing_folder_is_left_alone(tmp_path):
    (tmp_path / 'mine.txt').write_text('mine')
    with pytest.raises(FileExistsError, match='holds something else'):
        write_digits(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['mine.txt']


def test_second_call_writes_nothing(root):
    image = next(root.glob('*/*/*.png'))
    before = image.stat().st_mtime_ns
    assert write_digits(str(root)) == 0
    assert image.stat().st_mtime_ns == before
    assert [path.name for path in root.parent.iterdir()] == ['digits']


def test_split_depends_on_seed_and_share(root, tmp_path):
    write_digits(tmp_path / 'same')
    write_digits(tmp_path / 'other', seed=1)
    write_digits(tmp_path / 'half', val_share=0.5)
    assert indices(tmp_path / 'same', 'val') == indices(root, 'val')
    assert indices(tmp_path / 'other', 'val') != indices(root, 'val')
    assert len(indices(tmp_path / 'half', 'val')) == 899


@pytest.mark.parametrize('share', [0, 1, -0.1, 1.5, 30, float('nan')])
def test_impossible_share(tmp_path, share):
    with pytest.raises(ValueError, match=f'val_share={share} must be a number'):
        write_digits(tmp_path / 'digits', val_share=share)
    assert not list(tmp_path.iterdir())


def test_seed_has_32_bits(tmp_path):
    with pytest.raises(ValueError, match='seed=4294967296 must be an integer from 0 to 4294967295'):
        write_digits(tmp_path / 'digits', seed=2**32)
    assert not list(tmp_path.iterdir())


def test_failing_to_write_leaves_nothing(tmp_path, monkeypatch):
    save, written = Image.Image.save, []

    def fail_on_the_tenth(image, path, *args, **kwargs):
        if len(written) == 9:
            raise OSError(28, 'No space left on device')
        written.append(path)
        save(image, path, *args, **kwargs)

    monkeypatch.setattr(Image.Image, 'save', fail_on_the_tenth)
    with pytest.raises(OSError, match='No space left'):
        write_digits(tmp_path / 'digits')
    assert len(written) == 9
    assert not list(tmp_path.iterdir())


def test_missing_scikit_learn_is_explained(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'sklearn', None)
    with pytest.raises(ImportError, match=r"pip install 'mmesbnn\[demo\]'"):
        write_digits(tmp_path / 'digits')
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_is_filled_and_a_file_is_refused(tmp_path):
    (tmp_path / 'empty').mkdir()
    assert write_digits(tmp_path / 'empty') == 1797
    assert write_digits(tmp_path / 'empty') == 0
    (tmp_path / 'file').write_text('mine')
    with pytest.raises(NotADirectoryError):
        write_digits(tmp_path / 'file')
    assert (tmp_path / 'file').read_text() == 'mine'
