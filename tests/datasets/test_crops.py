"""Crops of bundled photographs: real, normalised, endless, and of disjoint parts."""

import re

import pytest
import torch

from mmesbnn.datasets import crops
from mmesbnn.datasets.crops import Crops
from tests.defaults import torch_default, with_other_defaults

pytest.importorskip('skimage')
pytest.importorskip('sklearn')


@pytest.fixture(scope='module')
def supply():
    return Crops(size=16, shrink=2, classes=40)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def ramp(name):
    """A photograph whose regions are bright below their third quarter only."""
    image = torch.zeros(3, 128, 640, dtype=torch.uint8)
    image[:, 96:] = torch.arange(32, dtype=torch.uint8)[:, None] * 8
    return image


def test_crops_have_their_shape_and_scale(supply):
    x, labels = supply.draw(200, rng())
    assert x.shape == (200, 3, 16, 16) and x.dtype == torch.float32
    assert set(labels.tolist()) <= set(range(40)) and len(labels.unique()) > 30
    assert x.mean((2, 3)).abs().max() < 1e-4
    deviations = x.std((1, 2, 3))
    assert deviations.max() < 1.001 and deviations.median() > 0.6


def test_training_crops_never_see_the_held_out_rows(monkeypatch):
    monkeypatch.setattr(crops, 'load_photograph', ramp)
    supply = Crops(size=32, shrink=1, classes=40)
    assert (supply.draw(100, rng()).images == 0).all()
    assert (supply.draw(100, rng(), held_out=True).images.std((1, 2, 3)) > 0.5).all()


@pytest.mark.parametrize('size', [2, 3, 4])
def test_classes_are_the_regions_with_most_contrast(monkeypatch, size):
    """A chessboard in the right half of every photograph, and a flat left half."""
    board = torch.zeros(3, 64, 192, dtype=torch.uint8)
    board[:, ::2, 96::2] = board[:, 1::2, 97::2] = 255
    monkeypatch.setattr(crops, 'load_photograph', lambda name: board)
    labels = len(crops.PHOTOGRAPHS)  # one region of each photograph
    supply = Crops(size=size, shrink=1, classes=labels)
    assert (supply._windows.flatten(3).std(-1) > 0.4).all()


def test_a_crop_is_a_piece_of_its_region(supply, monkeypatch):
    """Without turns and mixed colours: an affine of the window, with the right label."""
    monkeypatch.setattr(torch, 'rand', lambda *shape, **_: torch.ones(shape))
    monkeypatch.setattr(torch, 'randn', lambda *shape, **_: torch.zeros(shape))
    x, labels = supply.draw(5, rng(3))
    for image, label in zip(x, labels):
        windows = supply._windows[label].flatten(0, 1)
        windows = windows - windows.mean((2, 3), keepdim=True)
        windows = windows / (windows.std((1, 2, 3), keepdim=True) + 0.02)
        assert (windows - image).abs().amax((1, 2, 3)).min() < 1e-5


def test_all_eight_turns_occur(monkeypatch):
    """An image with one bright corner, whose crop is the whole of it."""
    monkeypatch.setattr(torch, 'randn', lambda *shape, **_: torch.zeros(shape))
    supply = Crops(size=16, shrink=2, classes=1)
    window = torch.zeros(16, 16)
    window[0, 1] = 1
    supply._windows = window.expand(1, 49, 49, 3, 16, 16)
    x, _ = supply.draw(200, rng())
    places = {divmod(int(image[0].flatten().argmax()), 16) for image in x}
    assert places == {(0, 1), (1, 0), (0, 14), (14, 0), (15, 1), (1, 15), (15, 14), (14, 15)}


def test_hardly_a_crop_comes_twice(supply):
    generator = rng()
    x = torch.cat([supply.draw(500, generator).images for _ in range(2)])
    assert len(x.flatten(1).unique(dim=0)) == 1000


def test_the_seed_decides(supply):
    a, b, c = (supply.draw(8, rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)
    assert not torch.equal(a.images, c.images)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(size=0), 'size=0 must be an integer >= 2'),
        (dict(size=1), 'size=1 must be an integer >= 2'),
        (dict(shrink=-1), 'shrink=-1 must be an integer >= 1'),
        (dict(classes=10**6), 'classes=1000000 must be at most'),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Crops(**options)


@with_other_defaults
def test_crops_do_not_depend_on_the_defaults_of_torch(supply, default):
    expected = supply.draw(20, rng())
    with torch_default(default):
        found = supply.draw(20, rng())
    assert torch.equal(found.images, expected.images)
    assert torch.equal(found.labels, expected.labels)
