"""Tiles of TIFF files are limited, since a decoder makes room for a whole one."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mmesbnn.deploy.runtime.images import read_image
from mmesbnn.images.files import ImageError, read_image_file
from mmesbnn.images.tiles import tile_pixels

#: Types of entries: numbers of 4 and 8 bytes, and 8 bytes with a sign.
LONG, LONG_8, SIGNED_LONG_8 = 4, 16, 17


def tiff(side, order='<', big=False, kind=LONG):
    """Return a grey TIFF of 16 x 16 pixels with the value 7, and tiles of a given side.

    Args:
        side: Height and width of a tile.
        order: Order of the bytes, for ``struct``.
        big: Whether positions have 64 bits.
        kind: Type of the entries of the side.
    """
    data = zlib.compress(bytes([7]) * 256)
    elsewhere = 16 + len(data)
    start = elsewhere + 8
    if big:
        head = struct.pack(f'{order}HHHQ', 43, 8, 0, start)
    else:
        head = struct.pack(f'{order}HI', 42, start)
    entries = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 324: 16, 325: len(data)}
    body = struct.pack(order + ('Q' if big else 'H'), len(entries) + 2)
    for tag, value in sorted({**entries, 322: side, 323: side}.items()):
        own = kind if tag in (322, 323) else LONG_8 if big else LONG
        value = elsewhere if own == SIGNED_LONG_8 and not big else value
        body += struct.pack(order + ('HHQQ' if big else 'HHII'), tag, own, 1, value)
    name = b'II' if order == '<' else b'MM'
    return (name + head).ljust(16, b'\0') + data + struct.pack(f'{order}Q', side) + body + bytes(8)


FORMS = [{}, {'order': '>'}, {'big': True, 'kind': LONG_8}, {'kind': SIGNED_LONG_8}]
#: Pillow does not read it.
UNREAD = {'order': '>', 'big': True, 'kind': LONG_8}


@pytest.mark.parametrize('form', [*FORMS, UNREAD])
def test_the_size_of_tiles_is_read(form):
    with io.BytesIO(tiff(side=32768, **form)) as file:
        file.seek(5)
        assert tile_pixels(file) == 2**30
        assert file.tell() == 5


@pytest.mark.parametrize('form', FORMS)
def test_large_tiles_are_refused(form, tmp_path):
    path = tmp_path / 'a.tif'
    path.write_bytes(tiff(side=16, **form))
    assert np.array_equal(np.asarray(read_image_file(path)), np.full((16, 16), 7))
    path.write_bytes(tiff(side=16384, **form))
    with pytest.raises(ImageError, match='a TIFF file with tiles of more than 67108864 pixels'):
        read_image_file(path)
    with Image.open(path) as image, pytest.raises(ImageError, match='more than 67108864 pixels'):
        read_image(image)


def test_files_without_tiles_are_read(tmp_path):
    path = tmp_path / 'a.tif'
    for compression in (None, 'tiff_lzw'):
        Image.new('L', (5, 4), 9).save(path, compression=compression)
        assert np.array_equal(np.asarray(read_image_file(path)), np.full((4, 5), 9))


@pytest.mark.parametrize('length', [0, 1, 9, 20, 60])
def test_what_is_cut_has_no_tiles(length):
    assert tile_pixels(io.BytesIO(tiff(side=32768)[:length])) == 0
