"""Images side by side in one PNG."""

import sys

import numpy as np
import pytest
from PIL import Image

from mmesbnn.plots.comparison import draw_comparison


def solid(colour, size=8):
    return np.full((size, size, 3), colour, np.uint8)


def test_every_image_is_in_its_place(tmp_path):
    colours = [[(200, 0, 0), (0, 200, 0)], [(0, 0, 200), (90, 90, 0)]]
    rows = [[(str(c), solid(c, 4 * (i + 1))) for c in row] for i, row in enumerate(colours)]
    path = tmp_path / 'picture.png'
    path.write_bytes(b'old')
    draw_comparison(rows, path, 'a title')
    assert [file.name for file in tmp_path.iterdir()] == ['picture.png']
    picture = np.asarray(Image.open(path).convert('RGB')).astype(int)
    height, width = picture.shape[0] // 2, picture.shape[1] // 2
    for i, row in enumerate(colours):
        for j, colour in enumerate(row):
            part = picture[i * height :, j * width :][:height, :width]
            assert (part == np.array(colour)).all(-1).mean() > 0.5, colour


@pytest.mark.parametrize('rows', [[], [[]], [[('a', solid(0))], []]])
def test_nothing_to_draw(tmp_path, rows):
    with pytest.raises(ValueError, match='at least one image in every row'):
        draw_comparison(rows, tmp_path / 'picture.png')


def test_missing_matplotlib_is_explained(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    with pytest.raises(ImportError, match=r"matplotlib.*'mmesbnn\[demo\]'"):
        draw_comparison([[('a', solid(0))]], tmp_path / 'picture.png')
