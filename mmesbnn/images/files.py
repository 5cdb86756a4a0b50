"""Safe reading of image files from unknown sources.

The module needs PIL only, and only when an image is read.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from threading import Lock
from typing import IO, TYPE_CHECKING, Any, cast

from ..checks import check_positive
from ..errors import MmesbnnError, sentence
from ..optional import require
from ..plain_files import open_plain
from . import jpeg2000
from .tiles import tile_pixels

if TYPE_CHECKING:
    from PIL import Image

#: Default for the largest number of pixels of an image: 8192 x 8192.
MAX_PIXELS = 2**26
#: Formats that are read, with PIL's names. EPS is missing, because PIL would run Ghostscript.
FORMATS = ('AVIF', 'BMP', 'DIB', 'GIF', 'JPEG', 'JPEG2000', 'MPO', 'PNG', 'PPM', 'TIFF', 'WEBP')
#: Tag of an image's orientation, and its values for images that are rotated by 90 degrees.
_ORIENTATION, _SIDEWAYS = 0x0112, (5, 6, 7, 8)
_WIDTH = 0x0100
#: Start of a scan of a JPEG file, and the largest number of them. Every scan of a progressive file
#: is a pass over the whole image; encoders write about ten.
_SCAN, _MOST_SCANS = b'\xff\xda', 500
#: Start of a comment in a PPM file of text, and the largest number of them. PIL moves the text
#: behind each of them.
_COMMENT, _MOST_COMMENTS = b'#', 500
#: Largest number of pixels of a BMP file with run lengths. PIL fills its rows in a loop of Python.
_MOST_RUN_PIXELS = 2**22
#: Factor by which PIL spreads grey levels of 2 and 4 bits over 8, by the kind of its raw pixels.
_SPREAD = {'L;2': 85, 'L;4': 17}
_LIMIT = Lock()


class ImageError(MmesbnnError):
    """Error about an image that cannot be used; the message says why."""


def check_pixels(height: float, width: float, max_pixels: int, what: str) -> None:
    """Raise an error if an image has too many pixels.

    Args:
        height: Height of the image.
        width: Width of the image.
        max_pixels: Largest number of pixels.
        what: Name of the image, the subject of the message.

    Raises:
        ImageError: If it has more pixels.
    """
    if height * width > max_pixels:
        raise ImageError(
            f'{what} has {width} x {height} pixels, more than max_pixels={max_pixels}; '
            'a larger max_pixels (--max-pixels) allows it'
        )


@contextlib.contextmanager
def _lifted(module: Any, max_pixels: int) -> Iterator[None]:
    """Raise PIL's own limit, which is global in the process, if ours is higher."""
    if module.MAX_IMAGE_PIXELS is None or max_pixels <= module.MAX_IMAGE_PIXELS:
        yield
        return
    with _LIMIT:
        before, module.MAX_IMAGE_PIXELS = module.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            module.MAX_IMAGE_PIXELS = before


def _known(module: Any) -> list[str]:
    module.init()
    return [name for name in FORMATS if name in module.OPEN]


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str], max_pixels: int) -> Iterator[Image.Image]:
    """Open an image; only its header is read."""
    module = require('PIL.Image', 'sr', 'reading images')
    name = os.fsdecode(path)
    try:
        file = open_plain(path)
    except OSError as error:
        reason = getattr(error, 'strerror', None) or sentence(error)
        raise ImageError(f'{name}: {reason}') from error
    with file:
        try:
            with _lifted(module, max_pixels):
                image = module.open(file, formats=_known(module))
        except module.DecompressionBombError:
            raise ImageError(
                f'{name} has more pixels than max_pixels={max_pixels}; a larger '
                'max_pixels (--max-pixels) allows it'
            ) from None
        # PIL's readers raise many kinds of errors for damaged files
        except Exception as error:
            raise ImageError(
                f'{name} cannot be read as an image: not of a known format '
                f'({", ".join(FORMATS)}), or damaged'
            ) from error
        with image:
            yield image


def image_file_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Read height and width of the upright image from the file's header.

    Raises:
        ImageError: If it is not an image.
    """
    with _opened(path, MAX_PIXELS) as image:
        size = image.height, image.width
        return size[::-1] if _lies(image) else size


def _lies(image: Image.Image) -> bool:
    """Return True if the upright image exchanges height and width of the header."""
    # PIL would decode a PNG to search for a tag after the pixels
    if image.format == 'PNG' and 'exif' not in image.info:
        return False
    with contextlib.suppress(Exception):  # a damaged tag is none
        tags = image.getexif()
        # new versions of PIL return the upright size of a TIFF
        done = image.format == 'TIFF' and image.width != tags.get(_WIDTH)
        return tags.get(_ORIENTATION) in _SIDEWAYS and not done
    return False


def _count(file: IO[bytes], mark: bytes) -> int:
    """Count ``mark``, of one or two bytes, in a file whose position does not change."""
    at, count, last = file.tell(), 0, b''
    file.seek(0)
    while part := file.read(2**20):
        count += (last + part).count(mark)
        last = part[len(part) - len(mark) + 1 :]
    file.seek(at)
    return count


def _check_work(image: Image.Image, file: IO[bytes]) -> None:
    """Raise an error if an image that is not decoded would take more time or memory than it shows.

    Raises:
        ImageError: If it would.
    """
    tiles = getattr(image, 'tile', None)
    pixels, decoder = image.width * image.height, tiles[0][0] if tiles else ''
    most = max(MAX_PIXELS, pixels)
    if image.format in ('JPEG', 'MPO') and _count(file, _SCAN) > _MOST_SCANS:
        raise ImageError(f'a JPEG file with more than {_MOST_SCANS} scans')
    if image.format == 'TIFF' and tile_pixels(file) > most:
        raise ImageError(f'a TIFF file with tiles of more than {most} pixels')
    if decoder == 'ppm_plain' and _count(file, _COMMENT) > _MOST_COMMENTS:
        raise ImageError(f'a PPM file with more than {_MOST_COMMENTS} comments')
    if decoder == 'jpeg2k':
        for name, count, limit in zip(jpeg2000.Work._fields, jpeg2000.work(file), jpeg2000.MOST):
            if count > limit:
                raise ImageError(f'a JPEG 2000 file with more than {limit} {name}')
    if decoder == 'bmp_rle' and pixels > _MOST_RUN_PIXELS:
        raise ImageError(f'a BMP file with run lengths and more than {_MOST_RUN_PIXELS} pixels')


def _match_transparency(image: Image.Image) -> None:
    """Give the transparent colour of a PNG that is not decoded the 8 bits of its pixels.

    PIL changes the pixels only, so the colour would be that of no pixel, or of wrong ones.
    """
    clear, tiles = image.info.get('transparency'), getattr(image, 'tile', None)
    raw = tiles[0][3] if tiles and image.format == 'PNG' else None
    if raw in _SPREAD and isinstance(clear, int) and clear <= 255 // _SPREAD[raw]:
        image.info['transparency'] = clear * _SPREAD[raw]
    elif raw == 'RGB;16B' and isinstance(clear, tuple):
        image.info['transparency'] = tuple(level >> 8 for level in clear)


def read_image_file(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read an image and turn it upright; if a file has several images, read the first one.

    Args:
        path: File to read.
        max_pixels: Largest number of pixels that it may declare. Default ``MAX_PIXELS``.

    Raises:
        ImageError: If it is not an image, is damaged, is too large, or is not a regular
            file.
        ValueError: If ``max_pixels`` is not positive.
    """
    check_positive(max_pixels=max_pixels)
    with _opened(path, max_pixels) as image:
        check_pixels(image.height, image.width, max_pixels, os.fsdecode(path))
        decode(image, os.fsdecode(path))
        return upright(image)


def decode(image: Image.Image, what: str) -> None:
    """Decode the pixels of an image, which PIL puts off until their first use.

    Args:
        image: Image to decode; nothing is done if it is decoded.
        what: Name of the image, the subject of the message.

    Raises:
        ImageError: If it is damaged or closed.
    """
    try:
        file = getattr(image, 'fp', None)  # None if it is decoded
        if file:
            _check_work(image, file)
            _match_transparency(image)
        image.load()
    except MemoryError:
        raise
    except Exception as error:
        raise ImageError(f'{what} is damaged: {sentence(error)}') from error


def upright(image: Image.Image) -> Image.Image:
    """Turn an image as its orientation tag says."""
    ops = require('PIL.ImageOps', 'sr', 'reading images')
    try:
        return ops.exif_transpose(image)
    except MemoryError:
        raise
    except Exception:  # a damaged tag is ignored, as in OpenCV
        return image.copy()


def check_mode(image: Image.Image, what: str) -> None:
    """Raise an error if the range of the pixels is not known.

    Args:
        image: Image to check.
        what: Name of the image, the subject of the message.

    Raises:
        ImageError: If its pixels are floats, or integers beyond 16 bits.
    """
    if image.mode == 'F':
        raise ImageError(
            f'{what} has floats for pixels, whose range is not known: save it with 8 or 16 bits'
        )
    # 'I;16', 'I;16B', ... have 16 bits, and PIL finds the extremes of the first of them only
    if image.mode == 'I':
        # the image has a single channel, so PIL returns two numbers
        low, high = cast('tuple[float, float]', image.getextrema())
        if low < 0 or high > 65535:
            raise ImageError(
                f'{what} has pixels from {low} to {high}: only 8 and 16 bits, 0 to '
                '65535, can be read'
            )
