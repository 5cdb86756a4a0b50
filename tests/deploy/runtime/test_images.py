"""Preprocessing without OpenCV equals OpenMMLab's pipelines with OpenCV."""

import numpy as np
import pytest
from PIL import Image

from mmesbnn.deploy.runtime.images import ImageError, read_image, resize
from mmesbnn.deploy.runtime.schema import Unfit
from mmesbnn.deploy.runtime.steps import read_steps
from tests.real_data import photograph

cv2 = pytest.importorskip('cv2')

SIZES = [(16, 16), (100, 75), (300, 300), (511, 600), (256, 256), (7, 1)]


def pictures():
    noise = np.random.default_rng(0).integers(0, 256, (97, 131, 3), dtype=np.uint8)
    return [photograph(0), noise, noise[:8, :8], noise[:1, :1]]


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('name', ['nearest', 'bilinear', 'bicubic'])
def test_resizes_as_opencv_does(size, name):
    flag = {'nearest': cv2.INTER_NEAREST, 'bilinear': cv2.INTER_LINEAR, 'bicubic': cv2.INTER_CUBIC}[
        name
    ]
    for image in pictures():
        expected = cv2.resize(image, size[::-1], interpolation=flag)
        found = resize(image, size, name, 'cv2')
        assert found.dtype == np.uint8
        difference = np.abs(found.astype(int) - expected)
        if name == 'bicubic':
            # grey levels, and share of the values that differ
            assert difference.max() <= 1
            assert (difference > 0).mean() < 1e-3
        else:
            assert difference.max() == 0


@pytest.mark.parametrize(('old', 'new'), [(62, 36), (6, 34), (66, 121)])
def test_takes_the_nearest_pixel_of_opencv(old, new):
    image = np.arange(old, dtype=np.uint8)[:, None, None].repeat(3, 2)
    expected = cv2.resize(image, (1, new), interpolation=cv2.INTER_NEAREST)
    np.testing.assert_array_equal(resize(image, (new, 1), 'nearest', 'cv2'), expected)


def test_reads_files_as_opencv_does(tmp_path):
    colour = photograph(1)[:60, :80]
    kinds = {
        'rgb.png': Image.fromarray(colour),
        'grey.png': Image.fromarray(colour[..., 0]),
        'alpha.png': Image.fromarray(np.dstack([colour, colour[..., :1]])),
        'deep.png': Image.fromarray(colour[..., 0].astype(np.uint16) * 257),
        'palette.png': Image.fromarray(colour).quantize(16),
        'picture.jpg': Image.fromarray(colour),
    }
    for name, image in kinds.items():
        image.save(tmp_path / name)
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by 90 degrees
    kinds['picture.jpg'].save(tmp_path / 'turned.jpg', exif=turned)
    for path in tmp_path.iterdir():
        expected = cv2.imread(str(path))[..., ::-1]
        found = read_image(path)
        assert found.shape == expected.shape, path.name
        limit = 2 if path.suffix == '.jpg' else 0  # decoders of JPEG may round differently
        assert np.abs(found.astype(int) - expected).max() <= limit, path.name


def test_takes_arrays_and_pillow_images():
    image = photograph(2)[:9, :7]
    for source in (image, Image.fromarray(image)):
        np.testing.assert_array_equal(read_image(source), image)
    assert read_image(image[..., 0]).shape == (9, 7, 3)


@pytest.mark.parametrize(
    ('source', 'words'),
    [
        ('nowhere.png', 'nowhere.png: No such file'),
        (np.zeros((4, 4, 3)), 'an image of float64'),
        (np.zeros((4, 4, 2), np.uint8), r'shape \(4, 4, 2\)'),
        (np.zeros((0, 4, 3), np.uint8), r'shape \(0, 4, 3\)'),
    ],
)
def test_what_is_no_image(source, words):
    with pytest.raises(ImageError, match=words):
        read_image(source)


def test_damaged_files(tmp_path):
    path = tmp_path / 'x.png'
    Image.fromarray(photograph(0)).save(path)
    for content, words in (
        (b'', 'cannot be read as an image'),
        (b'no image', 'cannot be read as an image'),
        (path.read_bytes()[:5000], 'is damaged'),
    ):
        path.write_bytes(content)
        with pytest.raises(ImageError, match=f'x.png {words}'):
            read_image(path)


def test_unknown_steps():
    with pytest.raises(Unfit, match=r"steps\[0\]\.type='twirl'"):
        read_steps([dict(type='twirl')])
