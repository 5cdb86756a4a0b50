"""The opacity of an image does not depend on how its file says it."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mmesbnn.images.files import read_image_file
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


def png(bits, kind, row, clear):
    """Return a PNG file of two pixels and a transparent colour."""
    header = struct.pack('>2I5B', 2, 1, bits, kind, 0, 0, 0)
    parts = (
        (b'IHDR', header),
        (b'tRNS', clear),
        (b'IDAT', zlib.compress(b'\0' + row)),
        (b'IEND', b''),
    )
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))
        for name, data in parts
    )


@pytest.mark.parametrize(
    ('bits', 'kind', 'row', 'clear'),
    [
        (1, 0, b'\x40', b'\0\1'),
        (2, 0, b'\x20', b'\0\2'),
        (4, 0, b'\x5a', b'\0\x0a'),
        (8, 0, b'\x05\x0a', b'\0\x0a'),
        (16, 2, b'\x34\x12' * 3 + b'\x12\x34' * 3, b'\x12\x34' * 3),
    ],
)
def test_a_transparent_colour_of_other_than_8_bits(tmp_path, bits, kind, row, clear):
    (tmp_path / 'x.png').write_bytes(png(bits, kind, row, clear))
    found = opacity(read_image_file(tmp_path / 'x.png'))
    assert np.asarray(found).tolist() == [[255, 0]]
