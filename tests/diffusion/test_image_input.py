"""Images of every kind are read correctly or refused in one sentence."""

import numpy as np
import pytest
import torch
from PIL import Image

from mmesbnn.diffusion.image_input import to_tensor

RGB = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
EXPECTED = torch.from_numpy(RGB).permute(2, 0, 1)[None] / 255


def image(mode='RGB'):
    return Image.fromarray(RGB).convert(mode)


@pytest.mark.parametrize(
    'given',
    [
        image(),
        RGB,
        RGB.astype(np.float32) / 255,
        RGB[None],
        torch.from_numpy(RGB).permute(2, 0, 1),
        EXPECTED,
        EXPECTED[0],
        [image()],
        image('RGBA'),  # opaque
        RGB.astype(np.uint16) * 257,
        RGB[:, ::-1][:, ::-1],  # negative strides
    ],
    ids=range(11),
)
def test_one_image_in_many_forms(given):
    got = to_tensor(given)
    assert got.is_floating_point()
    torch.testing.assert_close(got, EXPECTED)


@pytest.mark.parametrize('mode', ['L', '1', 'LA', 'I'])
def test_grey_becomes_three_equal_channels(mode):
    grey = image('L') if mode == 'I' else image(mode)
    got = to_tensor(grey)
    expected = torch.from_numpy(np.array(grey.convert('L'))) / 255
    assert torch.equal(got, expected.expand(1, 3, 4, 5))
    assert torch.equal(got, to_tensor(np.array(grey.convert('L'))))
    assert torch.equal(got, to_tensor(expected))


def test_sixteen_bit_png_keeps_its_bits(tmp_path):
    deep = np.random.default_rng(1).integers(0, 65536, (4, 5)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / 'deep.png')
    with Image.open(tmp_path / 'deep.png') as opened:
        assert opened.mode.startswith('I')
        got = to_tensor(opened)
    expected = torch.from_numpy(deep.astype(np.float32) / 65535)
    assert torch.equal(got, expected.expand(1, 3, 4, 5))


@pytest.mark.parametrize('mode', ['P', 'CMYK', 'YCbCr', 'HSV', 'LAB'])
def test_other_modes_are_converted(mode):
    converted = image(mode)
    assert torch.equal(to_tensor(converted), to_tensor(converted.convert('RGB')))


def test_lists_and_batches_are_joined():
    assert torch.equal(to_tensor([image(), RGB]), EXPECTED.repeat(2, 1, 1, 1))
    assert torch.equal(to_tensor(EXPECTED.repeat(2, 1, 1, 1)), EXPECTED.repeat(2, 1, 1, 1))
    assert to_tensor(np.zeros((3, 1, 1, 1))).shape == (3, 3, 1, 1)


def clear_grey():
    grey = Image.fromarray(np.arange(6, dtype=np.uint16).reshape(2, 3))
    grey.info['transparency'] = 5
    return grey


def transparent():
    clear = image('RGBA')
    clear.putpixel((0, 0), (0, 0, 0, 7))
    return clear


@pytest.mark.parametrize(
    'given, message',
    [
        (transparent(), "image has mode 'RGBA' and transparent pixels"),
        (clear_grey(), "image has mode 'I;16' and transparent pixels"),
        (RGB.astype(np.float64), r'image has values from \d+ to \d+: floats must'),
        (np.full((2, 2), np.nan), 'image has values from nan to nan'),
        (RGB.astype(np.int64), 'image has dtype torch.int64: give uint8, uint16'),
        (RGB.astype(object), 'image has dtype object: give uint8, uint16'),
        (RGB.astype(complex), 'image has dtype complex128: give uint8, uint16'),
        (RGB > 9, 'image has dtype bool: give uint8, uint16'),
        (np.zeros((4, 5, 4), np.uint8), r'image has 4 channels: grey \(1\) and RGB'),
        (torch.zeros(2, 4, 5), 'image has 2 channels'),
        (np.zeros((0, 5, 3), np.uint8), r'image has shape \(3, 0, 5\): it has no pixels'),
        (np.zeros(5, np.uint8), r'image has shape \(5,\): arrays are \(H, W\)'),
        (torch.zeros(1, 1, 3, 4, 5), r'image has shape .*: tensors are \(H, W\)'),
        ('a.png', 'image is a str: give a PIL image'),
        ([], r'^image=\[\]: '),
        ([RGB, RGB[:2]], 'images of the list have the sizes 5x2, 5x4: '),
        (image('F'), "image has mode 'F', whose range is not known"),
        (
            Image.fromarray(np.full((2, 2), 70000, np.int32)),
            "image has mode 'I' and values from 70000 to 70000: ",
        ),
    ],
    ids=range(18),
)
def test_what_cannot_be_read_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        to_tensor(given)
