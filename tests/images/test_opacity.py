"""The opacity of an image does not depend on how its file says it."""

import numpy as np
import pytest
from PIL import Image

from mmesbnn.images.opacity import opacity
from tests.real_data import photograph

GREY = photograph(0)[:5, :4, 0]
CLEAR = np.equal(GREY, GREY[2, 3])


def saved(image, folder, **options):
    path = folder / 'x.png'
    image.save(path, **options)
    with Image.open(path) as again:
        again.load()
    return again


@pytest.mark.parametrize('mode', ['L', 'P', 'RGB', 'I;16'])
def test_a_transparent_colour(mode, tmp_path):
    values = GREY.astype(np.uint16) * 257 if mode == 'I;16' else GREY
    image = Image.fromarray(values) if mode == 'I;16' else Image.fromarray(values).convert(mode)
    clear = image.getpixel((3, 2))
    again = saved(image, tmp_path, transparency=clear)
    found = opacity(again)
    assert np.array_equal(np.asarray(found), np.where(CLEAR, 0, 255))
    assert opacity(saved(image, tmp_path)) is None


@pytest.mark.parametrize('mode', ['LA', 'PA', 'RGBA', 'RGBa'])
def test_an_alpha_channel(mode):
    image = Image.fromarray(np.stack([GREY, GREY, GREY, GREY], 2))
    found = opacity(image.convert(mode))
    assert np.array_equal(np.asarray(found), GREY)


@pytest.mark.parametrize('mode', ['1', 'L', 'P', 'RGB', 'CMYK', 'YCbCr', 'LAB', 'HSV', 'I', 'F'])
def test_modes_without_one(mode):
    assert opacity(Image.new(mode, (3, 2))) is None
