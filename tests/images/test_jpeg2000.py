"""The work of JPEG 2000 files is limited, since headers alone ask for any number of blocks."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from mmesbnn.images.files import ImageError, read_image_file
from mmesbnn.images.jpeg2000 import MOST, work
from tests.real_data import photograph


def segment(marker, content):
    return marker + struct.pack('>H', len(content) + 2) + content


def coding(exponent, precinct, layers=1):
    """Return the segment of the coding, with code blocks and precincts of given exponents."""
    content = struct.pack('>BBHBBBBBB', 1, 0, layers, 0, 0, exponent - 2, exponent - 2, 0, 1)
    return segment(b'\xff\x52', content + bytes([precinct * 17]))


def stream(side, exponent=6, precinct=15, layers=1, tile=None, parts=3, late=b''):
    """Return a file without data; ``late`` are segments in the header of the tile."""
    tile = tile or side
    sizes = struct.pack('>HIIIIIIIIH', 0, side, side, 0, 0, tile, tile, 0, 0, parts)
    head = segment(b'\xff\x51', sizes + b'\x07\x01\x01' * parts)
    head += coding(exponent, precinct, layers) + segment(b'\xff\x5c', b'\x40\x40')
    body = late + b'\xff\x93'
    start = segment(b'\xff\x90', struct.pack('>HIBB', 0, 12 + len(body), 0, 1))
    return b'\xff\x4f' + head + start + body + b'\xff\xd9'


def box(kind, content):
    return struct.pack('>I', len(content) + 8) + kind + content


def boxed(side, **options):
    """Return a file with boxes. Pillow sees three components, whatever the stream has."""
    sizes = box(b'ihdr', struct.pack('>IIHBBBB', side, side, 3, 7, 7, 0, 0))
    colours = box(b'colr', struct.pack('>BBBI', 1, 0, 0, 16))
    code = stream(side, **options)
    return (
        box(b'jP  ', b'\r\n\x87\n')
        + box(b'ftyp', b'jp2 \0\0\0\0jp2 ')
        + box(b'jp2h', sizes + colours)
        + box(b'free', b'')
        + struct.pack('>I4sQ', 1, b'jp2c', len(code) + 16)
        + code
    )


@pytest.mark.parametrize('write', [stream, boxed])
@pytest.mark.parametrize(
    ('name', 'options'),
    [
        ('blocks', {'side': 8192, 'exponent': 2}),
        ('blocks', {'side': 2048, 'precinct': 0}),
        ('blocks', {'side': 2048, 'late': coding(6, 0)}),
        ('blocks', {'side': 2048, 'late': segment(b'\xff\x53', b'\0\1\0\4\4\0\1\0')}),
        ('packets', {'side': 1024, 'precinct': 6, 'layers': 65535}),
    ],
)
def test_large_work_is_refused(write, name, options, tmp_path):
    path = tmp_path / 'x.jp2'
    path.write_bytes(write(**options))
    limit = getattr(MOST, name)
    with pytest.raises(ImageError, match=rf'a JPEG 2000 file with more than {limit} {name}'):
        read_image_file(path)


def test_many_components_are_refused(tmp_path):
    path = tmp_path / 'x.jp2'
    path.write_bytes(boxed(100, tile=1, parts=500))
    with pytest.raises(ImageError, match=f'with more than {MOST.parts} parts'):
        read_image_file(path)


@pytest.mark.parametrize('damage', [b'\xff\x59\0\2', b'\0\0', b'\xff\x64'])
def test_damaged_headers_are_refused(damage, tmp_path):
    path = tmp_path / 'x.jp2'
    path.write_bytes(stream(64, late=damage))
    with pytest.raises(ImageError, match='a JPEG 2000 file with damaged headers'):
        read_image_file(path)


@pytest.mark.parametrize(
    'options',
    [
        {},
        {'no_jp2': True},
        {'tile_size': (64, 64), 'plt': True},
        {'precinct_size': (64, 64), 'codeblock_size': (16, 16)},
        {'codeblock_size': (4, 4)},
        {'quality_layers': [40, 20, 10], 'irreversible': True, 'progression': 'RPCL'},
    ],
)
@pytest.mark.parametrize('mode', ['L', 'LA', 'RGB', 'RGBA'])
def test_regular_files_are_read(options, mode, tmp_path):
    whole = Image.fromarray(photograph(0)[:150, :200]).convert(mode)
    path = tmp_path / 'x.jp2'
    whole.save(path, 'JPEG2000', **options)
    found = read_image_file(path)
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(found), np.asarray(image))


def test_regular_files_have_a_part_of_the_work():
    file = io.BytesIO(stream(8192))
    file.seek(3)
    assert all(10 * count < limit for count, limit in zip(work(file), MOST))
    assert file.tell() == 3
