"""Image files are limited in size and turned upright; errors name unusable files."""

import os
import socket
import struct
import time
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from mmesbnn.deploy.runtime.images import read_image
from mmesbnn.deploy.runtime.steps import Pad, ResizeEdge, apply_steps
from mmesbnn.images.files import MAX_PIXELS, ImageError, image_file_size, read_image_file
from mmesbnn.images.tensors import image_size, read_rgb
from mmesbnn.plain_files import open_plain
from tests.real_data import photograph

READERS = [read_image_file, read_image, read_rgb]


def png(width, height, content=b''):
    """Return a PNG that declares a size independent of its content."""

    def chunk(name, data):
        sums = struct.pack('>I', zlib.crc32(name + data))
        return struct.pack('>I', len(data)) + name + data + sums

    header = struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0)
    body = zlib.compress(content or bytes(1000))
    return b'\x89PNG\r\n\x1a\n' + (
        chunk(b'IHDR', header) + chunk(b'IDAT', body) + chunk(b'IEND', b'')
    )


@pytest.mark.parametrize('read', READERS)
@pytest.mark.parametrize('size', [(13000, 13000), (30000, 30000), (2**31 - 1, 1)])
def test_declared_sizes_are_bounded(read, size, tmp_path):
    path = tmp_path / 'large.png'
    path.write_bytes(png(*size))
    with pytest.raises(ImageError, match=r'large.png .*max_pixels=67108864'):
        read(path)


@pytest.mark.parametrize('read', READERS)
def test_the_limit_can_be_set(read, tmp_path):
    path = tmp_path / 'x.png'
    Image.fromarray(photograph(0)[:10, :12]).save(path)
    read(path, 120)
    with pytest.raises(ImageError, match='12 x 10 pixels, more than max_pixels=119'):
        read(path, 119)
    with pytest.raises(ValueError, match='max_pixels=0'):
        read_image_file(path, 0)


def test_the_limit_may_be_beyond_pillows(tmp_path, monkeypatch):
    path = tmp_path / 'x.png'
    Image.fromarray(photograph(0)[:10, :12]).save(path)
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 50)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert read_image_file(path, 120).size == (12, 10)
    assert Image.MAX_IMAGE_PIXELS == 50
    with pytest.raises(ImageError, match='more pixels than max_pixels=40'):
        read_image_file(path, 40)


def test_narrow_images_do_not_grow_without_bound():
    steps = [ResizeEdge(edge='short', scale=256, interpolation='bilinear', backend='cv2')]
    line = np.zeros((1, 30_000, 3), np.uint8)
    with pytest.raises(ImageError, match='30000 x 1 after resize_edge has 7680000'):
        apply_steps(line, steps)
    with pytest.raises(ImageError, match='after pad has 30000 x 30000 pixels'):
        apply_steps(line, [Pad(square=True, value=0)])
    assert apply_steps(line[:, :300], steps).shape == (256, 76800, 3)


@pytest.mark.parametrize('read', [*READERS, image_file_size, open_plain])
@pytest.mark.parametrize('kind', ['named pipe', 'device', 'folder', 'socket', 'link'])
def test_what_is_no_file_is_refused_at_once(read, kind, tmp_path):
    path = tmp_path / 'x.png'
    if kind == 'named pipe':
        os.mkfifo(path)
    elif kind == 'folder':
        path.mkdir()
    elif kind == 'socket':
        socket.socket(socket.AF_UNIX).bind(str(path))
    else:
        path.symlink_to('/dev/zero')
    began = time.monotonic()
    with pytest.raises((ImageError, OSError)) as caught:
        read(path)
    assert time.monotonic() - began < 30  # older versions wait forever
    if kind != 'socket':  # open() itself refuses it
        name = {'link': 'device'}.get(kind, kind)
        assert f'a {name}, not a file' in str(caught.value)


@pytest.mark.parametrize('read', [read_image, read_rgb])
def test_pixels_of_unknown_range_are_refused(read, tmp_path):
    grey = photograph(0)[:9, :9, 0]
    for name, pixels, words in [
        ('float.tif', grey.astype(np.float32) / 255, 'has floats for pixels'),
        ('deep.tif', grey.astype(np.int32) * 10**6, 'only 8 and 16 bits'),
        ('signed.tif', grey.astype(np.int32) - 200, 'has pixels from -'),
    ]:
        Image.fromarray(pixels).save(tmp_path / name)
        with pytest.raises(ImageError, match=f'{name} .*{words}'):
            read(tmp_path / name)


def test_formats_that_start_programs_are_not_read(tmp_path):
    path = tmp_path / 'x.png'  # PIL looks at the content, not the name
    Image.fromarray(photograph(0)[:9, :9]).save(path, format='EPS')
    with pytest.raises(ImageError, match='not of a known format'):
        read_image_file(path)


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('kind', ['jpg', 'tif', 'webp', 'png'])
def test_orientation_as_opencv_has_it(orientation, kind, tmp_path):
    cv2 = pytest.importorskip('cv2')
    path = tmp_path / f'x.{kind}'
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(photograph(1)[:40, :56]).save(path, exif=exif)
    found = read_image(path)
    size = (40, 56) if orientation < 5 else (56, 40)
    assert found.shape[:2] == size == image_size(path) == read_rgb(path).shape[1:]
    if kind == 'jpg':
        expected = cv2.imread(str(path))[..., ::-1]
        assert np.abs(found.astype(int) - expected).max() <= 3


def test_damaged_orientation_is_none(tmp_path):
    path = tmp_path / 'x.jpg'
    Image.fromarray(photograph(1)[:40, :56]).save(path, exif=b'Exif\x00\x00MM\xff\xff')
    assert read_image(path).shape == (40, 56, 3)
    assert image_size(path) == (40, 56)


def test_the_first_image_of_several(tmp_path):
    frames = [Image.fromarray(photograph(i)[:20, :30]) for i in range(3)]
    for name in ('x.gif', 'x.png', 'x.webp', 'x.tif'):
        options = {} if name.endswith('tif') else {'lossless': True}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
        found = read_image(tmp_path / name)
        assert found.shape == (20, 30, 3)
        limit = 60 if name == 'x.gif' else 0  # of 256 colours
        difference = np.abs(found.astype(int) - np.asarray(frames[0]))
        assert difference.max() <= limit, name


@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'PA', 'RGBA', 'CMYK', 'YCbCr'])
def test_all_modes_become_rgb(mode):
    image = Image.fromarray(photograph(0)[:9, :9]).convert(mode)
    assert read_image(image).shape == (9, 9, 3)


def test_modes_that_do_not():
    image = Image.fromarray(photograph(0)[:9, :9]).convert('LA').convert('La')
    with pytest.raises(ImageError, match="mode 'La', which cannot be made RGB"):
        read_image(image)


@pytest.mark.parametrize('dtype', [bool, complex, object, np.float32, np.uint16, 'U1'])
def test_arrays_of_other_types(dtype):
    with pytest.raises(ImageError, match='must be uint8'):
        read_image(np.zeros((4, 4, 3), dtype))


@pytest.mark.parametrize('source', [None, 5, {'a': 1}])
def test_what_is_no_image(source):
    with pytest.raises(ImageError, match='must be a file, a PIL image or an array'):
        read_image(source)


def test_names_that_cannot_be():
    for name in ('a\0b.png', 'a' * 5000, b'nowhere.png'):
        with pytest.raises(ImageError):
            read_image(name)


def test_grey_of_16_bits_is_rounded():
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    rounded = np.floor(values / 257 + 0.5)
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        Image.fromarray(values).save(f'{folder}/x.png')
        np.testing.assert_array_equal(read_rgb(f'{folder}/x.png')[0], rounded)


@pytest.mark.parametrize('mode', ['I;16', 'I;16B'])
@pytest.mark.parametrize('read', [read_image, read_rgb])
def test_16_bits_in_either_order_of_bytes(read, mode, tmp_path):
    path = tmp_path / 'x.tif'
    values = photograph(0)[:9, :7, 0].astype('>u2' if mode == 'I;16B' else '<u2') * 257
    Image.frombytes(mode, (7, 9), values.tobytes()).save(path)
    with Image.open(path) as image:
        assert image.mode == mode
    found = np.asarray(read(path)) if read is read_image else read(path).permute(1, 2, 0).numpy()
    assert np.array_equal(found, np.repeat(photograph(0)[:9, :7, :1], 3, axis=2))


def test_the_limit_is_eight_thousand_squared():
    assert MAX_PIXELS == 8192**2


@pytest.mark.parametrize('kind', ['png', 'jp2', 'bmp', 'gif'])
def test_a_damaged_image_that_is_open(kind, tmp_path):
    path = tmp_path / f'x.{kind}'
    Image.fromarray(photograph(0)[:64, :64]).save(path)
    path.write_bytes(path.read_bytes()[:-50])
    with Image.open(path) as image, pytest.raises(ImageError, match='an image is damaged: '):
        read_image(image)


def test_a_closed_image(tmp_path):
    path = tmp_path / 'x.png'
    Image.new('L', (3, 2)).save(path)
    image = Image.open(path)
    image.close()
    with pytest.raises(ImageError, match='an image is damaged: Operation on closed image'):
        read_image(image)


def test_a_jpeg_of_very_many_scans_is_refused(tmp_path):
    path = tmp_path / 'a.jpg'
    Image.new('L', (64, 48), 128).save(path, progressive=True)
    whole = path.read_bytes()
    last = whole[whole.rindex(b'\xff\xda') : -2]
    path.write_bytes(whole[:-2] + 300 * last + whole[-2:])
    assert np.array_equal(np.asarray(read_image_file(path)), np.full((48, 64), 128))
    path.write_bytes(whole[:-2] + 600 * last + whole[-2:])
    with pytest.raises(ImageError, match='more than 500 scans'):
        read_image_file(path)
    with Image.open(path) as image, pytest.raises(ImageError, match='more than 500 scans'):
        read_image(image)


def run_lengths(width, height):
    """Return a BMP whose rows end after one pixel."""
    body = height * b'\1\5\0\0' + b'\0\1'
    colours = bytes(1024)
    header = struct.pack('<IiiHHIIiiII', 40, width, height, 1, 8, 1, len(body), 0, 0, 256, 0)
    start = 14 + len(header) + len(colours)
    return b'BM' + struct.pack('<IHHI', start + len(body), 0, 0, start) + header + colours + body


def test_a_bmp_of_run_lengths_is_limited(tmp_path):
    path = tmp_path / 'a.bmp'
    path.write_bytes(run_lengths(30, 20))
    assert read_image_file(path).size == (30, 20)
    path.write_bytes(run_lengths(8191, 8191))
    began = time.monotonic()
    with pytest.raises(ImageError, match='run lengths and more than 4194304 pixels'):
        read_image_file(path)
    assert time.monotonic() - began < 10  # filling the rows takes a minute
    grey = Image.new('L', (2100, 2100))  # without run lengths
    grey.save(path)
    assert read_image_file(path).size == grey.size


def test_a_ppm_of_very_many_comments_is_refused(tmp_path):
    path = tmp_path / 'a.pgm'
    path.write_bytes(b'P2\n2 1\n255\n' + 400 * b'#\n' + b'1 2')
    assert np.array_equal(np.asarray(read_image_file(path)), [[1, 2]])
    path.write_bytes(b'P2\n2 1\n255\n' + 2**16 * b'#\n' + b'1 2')
    with pytest.raises(ImageError, match='more than 500 comments'):
        read_image_file(path)
    path.write_bytes(b'P5\n2000 1\n255\n' + 2000 * b'#')  # pixels, not comments
    assert np.all(np.asarray(read_image_file(path)) == ord('#'))
