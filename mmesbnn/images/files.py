"""Image files from anywhere, read within bounds.

Needs PIL alone, and that only when an image is read.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from threading import Lock
from typing import TYPE_CHECKING, Any, cast

from ..checks import check_positive
from ..errors import MmesbnnError, sentence
from ..optional import require
from ..plain_files import open_plain

if TYPE_CHECKING:
    from PIL import Image

#: Pixels of the largest image that is read unless more are allowed: 8192 x 8192.
MAX_PIXELS = 2**26
#: What is read, as PIL calls it. Not EPS: PIL would start Ghostscript.
FORMATS = ('AVIF', 'BMP', 'DIB', 'GIF', 'JPEG', 'JPEG2000', 'MPO', 'PNG', 'PPM', 'TIFF', 'WEBP')
#: The tag of an image's orientation, and the values for images that lie on a side.
_ORIENTATION, _SIDEWAYS = 0x0112, (5, 6, 7, 8)
_WIDTH = 0x0100
_LIMIT = Lock()


class ImageError(MmesbnnError):
    """An image that cannot be used; the message says why."""


def check_pixels(height: float, width: float, max_pixels: int, what: str) -> None:
    """Refuse an image that has too many pixels.

    Args:
        height: Its height.
        width: Its width.
        max_pixels: How many it may have.
        what: What it is, the subject of the sentence.

    Raises:
        ImageError: If there are more.
    """
    if height * width > max_pixels:
        raise ImageError(
            f'{what} has {width} x {height} pixels, more than max_pixels={max_pixels}; '
            'a larger max_pixels (--max-pixels) allows it'
        )


@contextlib.contextmanager
def _lifted(module: Any, max_pixels: int) -> Iterator[None]:
    """Without PIL's own limit where ours is higher; it is one for the whole process."""
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
    """The image, of which only the header has been read."""
    module = require('PIL.Image', 'sr', 'reading images')
    name = os.fsdecode(path)
    try:
        file = open_plain(path)
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
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
        # of a damaged file, PIL's readers raise anything
        except Exception as error:
            raise ImageError(
                f'{name} cannot be read as an image: not of a known format '
                f'({", ".join(FORMATS)}), or damaged'
            ) from error
        with image:
            yield image


def image_file_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Height and width of the image once it is upright, from the file's header.

    Raises:
        ImageError: If it is not an image.
    """
    with _opened(path, MAX_PIXELS) as image:
        size = image.height, image.width
        return size[::-1] if _lies(image) else size


def _lies(image: Image.Image) -> bool:
    """Return whether turning an image upright exchanges the height and width of its header."""
    # PIL would decode a PNG to look for a tag behind the pixels
    if image.format == 'PNG' and 'exif' not in image.info:
        return False
    with contextlib.suppress(Exception):  # a damaged tag is none
        tags = image.getexif()
        # new versions of PIL give the size of a TIFF as it is when upright
        done = image.format == 'TIFF' and image.width != tags.get(_WIDTH)
        return tags.get(_ORIENTATION) in _SIDEWAYS and not done
    return False


def read_image_file(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read an image, the first one of a file with several, turned upright.

    Args:
        path: The file.
        max_pixels: How many pixels it may declare. Default ``MAX_PIXELS``.

    Raises:
        ImageError: If it is not an image, damaged or too large, or no regular file.
        ValueError: If ``max_pixels`` is not positive.
    """
    check_positive(max_pixels=max_pixels)
    with _opened(path, max_pixels) as image:
        check_pixels(image.height, image.width, max_pixels, os.fsdecode(path))
        try:
            image.load()
        except MemoryError:
            raise
        except Exception as error:
            raise ImageError(f'{os.fsdecode(path)} is damaged: {sentence(error)}') from error
        return upright(image)


def upright(image: Image.Image) -> Image.Image:
    """An image turned as its orientation tag says."""
    ops = require('PIL.ImageOps', 'sr', 'reading images')
    try:
        return ops.exif_transpose(image)
    except MemoryError:
        raise
    except Exception:  # a damaged tag is none, as for OpenCV
        return image.copy()


def check_mode(image: Image.Image, what: str) -> None:
    """Refuse pixels whose range nobody knows.

    Args:
        image: An image.
        what: What it is, the subject of the sentence.

    Raises:
        ImageError: If its pixels are floats, or integers beyond 16 bits.
    """
    if image.mode == 'F':
        raise ImageError(
            f'{what} has floats for pixels, whose range is not known: save it with 8 or 16 bits'
        )
    if image.mode.startswith('I'):
        # of a single channel: PIL gives two numbers
        low, high = cast('tuple[float, float]', image.getextrema())
        if low < 0 or high > 65535:
            raise ImageError(
                f'{what} has pixels from {low} to {high}: only 8 and 16 bits, 0 to '
                '65535, can be read'
            )
