"""Patches of bundled images are real, normalised, and from separate parts."""

import re

import numpy as np
import pytest
import torch

from mmesbnn.datasets import patches
from mmesbnn.datasets.patches import LARGEST, PATCH_CLASSES, load_grey, patch_task

pytest.importorskip('skimage')


@pytest.fixture(scope='module')
def task():
    return patch_task(6, 4, seed=1)


def test_images_are_bundled_photographs_in_grey():
    assert len(set(PATCH_CLASSES)) == 16
    for name in PATCH_CLASSES:
        image = load_grey(name)
        assert image.ndim == 2 and image.dtype == np.float32
        assert min(image.shape) <= LARGEST and image.std() > 0.02
        assert 0 <= image.min() < image.max() <= 1


def test_patches_have_their_numbers_labels_and_scale(task):
    assert task.train.shape == (96, 1, 32, 32) and task.test.shape == (64, 1, 32, 32)
    assert task.train.dtype == task.test.dtype == torch.float32
    assert task.train_labels.bincount().tolist() == [6] * 16
    assert task.test_labels.bincount().tolist() == [4] * 16
    assert not torch.equal(task.train_labels, task.train_labels.sort().values)
    for x in (task.train, task.test):
        assert x.mean((1, 2, 3)).abs().max() < 1e-5
        assert x.std((1, 2, 3)).max() < 1.001


def test_training_patches_are_of_the_left_part_and_test_patches_of_the_right(monkeypatch):
    """Images are 0 on the left with a ramp on the right; no training patch has the ramp."""
    ramp = np.zeros((40, 100), dtype=np.float32)
    ramp[:, 60:] = np.linspace(0.1, 1, 40)
    monkeypatch.setattr(patches, 'load_grey', lambda name: ramp)
    task = patch_task(50, 50, size=16)
    assert (task.train == 0).all()
    assert (task.test.std((1, 2, 3)) > 0.5).all()


def test_patches_are_pieces_of_their_image(monkeypatch):
    image = load_grey('astronaut')
    monkeypatch.setattr(patches, 'load_grey', lambda name: image)
    task = patch_task(1, 1, seed=3)
    windows = np.lib.stride_tricks.sliding_window_view(image, (32, 32))
    for patch in (task.train[0, 0], task.test[-1, 0]):
        patch = patch.numpy()
        # an affine of some window: look at windows whose corner differences fit best
        correlation = max(
            np.corrcoef(windows[r, c].ravel(), patch.ravel())[0, 1]
            for r, c in _likely(windows, patch)
        )
        assert correlation > 0.9999


def _likely(windows, patch):
    corners = windows[..., [0, 0, 31, 31], [0, 31, 0, 31]]
    wanted = patch[[0, 0, 31, 31], [0, 31, 0, 31]]
    centred = corners - corners.mean(-1, keepdims=True)
    wanted = wanted - wanted.mean()
    norm = np.linalg.norm(centred, axis=-1) * np.linalg.norm(wanted) + 1e-6
    order = np.argsort(-(centred @ wanted) / norm, axis=None)[:2000]
    return zip(*np.unravel_index(order, windows.shape[:2]))


def test_the_seed_decides(task):
    again, other = patch_task(6, 4, seed=1), patch_task(6, 4, seed=2)
    assert torch.equal(again.train, task.train)
    assert torch.equal(again.train_labels, task.train_labels)
    assert not torch.equal(other.test, task.test)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(train_per_class=0), 'train_per_class=0 must be an integer >= 1'),
        (dict(test_per_class=-1), 'test_per_class=-1 must be an integer >= 1'),
        (dict(size=0), 'size=0 must be an integer >= 1'),
        (dict(size=200), 'size=200 must be at most 154, the smallest part'),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        patch_task(**options)
