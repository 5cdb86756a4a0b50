"""Randomly damaged images of all kinds give a result or a one-sentence error."""

import io
import os
import signal
import struct
import warnings
import zlib

import numpy as np
from PIL import Image

from mmesbnn.deploy.runtime.images import read_image
from mmesbnn.deploy.runtime.steps import apply_steps, read_steps
from mmesbnn.diffusion.image_input import to_tensor
from mmesbnn.errors import LONGEST_MESSAGE
from mmesbnn.images.files import ImageError, image_file_size
from mmesbnn.images.tensors import read_rgb
from tests.campaigns.test_manifests import SECONDS, bounded  # noqa: F401
from tests.real_data import photograph

MODES = ['1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA', 'CMYK', 'YCbCr', 'I', 'I;16', 'F']
FORMATS = ['PNG', 'JPEG', 'GIF', 'TIFF', 'WEBP', 'BMP', 'PPM', 'JPEG2000', 'TGA', 'EPS']
#: Pixels that an image of the campaign may have.
LIMIT = 2**22
STEPS = [
    dict(type='resize_edge', edge='short', scale=64, interpolation='bicubic', backend='cv2'),
    dict(type='resize_within', size=[64, 64], interpolation='bilinear', backend='cv2'),
    dict(type='resize', size=[32, 48], interpolation='lanczos', backend='pillow'),
    dict(type='centre_crop', size=[30, 30]),
    dict(type='pad', size=[40, 50], value=114),
    dict(type='pad', square=True, divisor=32, value=[1.0, 2.0, 3.0]),
]


def picture(rng):
    """Return a crop of a photograph in any mode, as a PIL image."""
    height, width = (rng.choice([1, 2, 7, 40, 90, 300]) for _ in range(2))
    image = Image.fromarray(photograph(rng.randrange(4))[:height, :width])
    mode = rng.choice(MODES)
    if mode == 'I;16':
        return Image.fromarray(np.asarray(image)[..., 0].astype(np.uint16) * 257)
    if mode in ('LA', 'PA', 'F', 'I'):
        image = image.convert('L' if mode != 'PA' else 'P')
    return image.convert(mode)


def encoded(image, rng):
    """Encode the image in a format with its mode, sometimes with several frames."""
    options = {'exif': exif(rng)} if rng.random() < 0.3 else {}
    if rng.random() < 0.2:
        options.update(save_all=True, append_images=[image, image])
    for kind in rng.sample(FORMATS, len(FORMATS)):
        for more in (options, {}):
            file = io.BytesIO()
            try:
                image.save(file, kind, **more)
                return file.getvalue()
            except (OSError, ValueError, LookupError, TypeError, SyntaxError):
                continue
    raise AssertionError(f'no format for mode {image.mode}')


def exif(rng):
    tags = Image.Exif()
    tags[0x0112] = rng.randrange(10)
    content = bytearray(tags.tobytes())
    if rng.random() < 0.5:
        content[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(content)


def bomb(rng):
    """Return a small PNG that declares a large image."""
    width, height = (rng.choice([1, 2**13, 2**14, 2**20, 2**31 - 1]) for _ in range(2))
    header = struct.pack('>IIBBBBB', width, height, rng.choice([1, 8, 16]), 0, 0, 0, 0)
    chunks = [(b'IHDR', header), (b'IDAT', zlib.compress(bytes(10**6))), (b'IEND', b'')]
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))
        for name, data in chunks
    )


def damaged(content, rng):
    """Return the bytes after a cut, flipped bits, a repetition or an insertion."""
    content, kind = bytearray(content), rng.randrange(5)
    where = rng.randrange(len(content))
    if kind == 0:
        return content[:where]
    if kind == 1:
        for _ in range(rng.choice([1, 1, 3, 30])):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif kind == 2:
        content[where:where] = rng.randbytes(rng.choice([1, 4, 100]))
    elif kind == 3:  # sizes are near the start
        place = rng.randrange(min(len(content), 40))
        content[place : place + 4] = rng.choice([b'\xff' * 4, b'\0' * 4, b'\x7f\xff'])
    return content


def check_file(path, rng):
    """Read a file in every way."""
    for read in (read_image, read_rgb):
        try:
            found = np.asarray(read(path, LIMIT))
        except ImageError as error:
            check_sentence(error, path)
            continue
        assert found.dtype == np.uint8 and found.size <= 3 * LIMIT
        assert 3 in (found.shape[0], found.shape[2])
        if read is read_image:
            check_steps(found, rng)
    try:
        assert min(image_file_size(path)) > 0
    except ImageError as error:
        check_sentence(error, path)


def check_sentence(error, path):
    text = str(error)
    assert 0 < len(text) <= LONGEST_MESSAGE + len(str(path)) and '\n' not in text, text


def check_steps(image, rng):
    steps = rng.sample(read_steps(STEPS), rng.randrange(1, 4))
    try:
        assert apply_steps(image, steps, LIMIT).size <= 3 * LIMIT
    except ImageError as error:
        assert 'max_pixels' in str(error)


def strange_array(rng):
    shape = rng.choice(
        [(4, 5, 3), (4, 5), (4, 5, 1), (4, 5, 4), (0, 5, 3), (5,), (), (2, 4, 5, 3), (4, 0, 3)]
    )
    kinds = [
        bool,
        np.int64,
        np.float16,
        np.float64,
        complex,
        object,
        'U3',
        'M8[s]',
        '>u2',
        '>f4',
        np.uint32,
        np.uint8,
        np.uint16,
    ]
    array = np.ones(shape, rng.choice(kinds))
    if array.dtype.kind == 'f':
        array[...] = rng.choice([np.nan, np.inf, -1, 0.5])
    return array[::-1] if array.ndim and rng.random() < 0.3 else array


def check_array(array):
    for read, errors in ((read_image, ImageError), (to_tensor, ValueError)):
        try:
            found = read(array)
            assert found is not None and 0 not in found.shape
        except errors as error:
            assert len(str(error)) > 20


def test_images(campaign, tmp_path, bounded):  # noqa: F811
    path = tmp_path / 'x.png'
    for rng in campaign.draws(least=150):
        kind = rng.choice(['whole', 'damaged', 'damaged', 'bomb', 'array', 'no file'])
        with campaign.attempt(kind), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            signal.alarm(SECONDS)
            try:
                if kind == 'array':
                    check_array(strange_array(rng))
                elif kind == 'no file':
                    make_no_file(path, rng)
                    check_file(path, rng)
                else:
                    content = bomb(rng) if kind == 'bomb' else encoded(picture(rng), rng)
                    content = damaged(content, rng) if kind == 'damaged' else content
                    path.write_bytes(content)
                    check_file(path, rng)
            finally:
                signal.alarm(0)
        if os.path.lexists(path):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def make_no_file(path, rng):
    kind = rng.randrange(5)
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.mkdir()
    else:
        path.symlink_to(['/dev/zero', path, path.with_name('gone')][kind - 2])
