"""Checks of VOC annotations from unknown sources."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from xml.etree import ElementTree as ET
from xml.parsers import expat

from ..errors import MmesbnnError, shorten
from ..plain_files import open_plain

#: Largest size of an annotation in bytes.
MOST_BYTES = 2**24
#: Largest number of elements of an annotation. Each takes about 300 bytes when it is read.
MOST_ELEMENTS = 2**17
#: Largest number of characters of a number. Python reads one of a megabyte for seconds.
_LONGEST = 100
#: Largest coordinate and side; larger numbers are not exact in float32.
MOST_PIXELS = 2**24

_CORNERS = ('xmin', 'ymin', 'xmax', 'ymax')


class AnnotationError(MmesbnnError):
    """Error about an annotation that cannot be used; the message says why."""


def check_annotation(path: str | os.PathLike[str]) -> None:
    """Read a VOC annotation and raise an error if it cannot be used for training.

    Raises:
        AnnotationError: If it is not a VOC annotation; the message names the tag, its
            value and the rule.
        FileNotFoundError: If the file does not exist.
    """
    name = os.fspath(path)
    try:
        with open_plain(path) as file:
            text = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise AnnotationError(f'{name}: no VOC annotation ({error.strerror})') from None
    if len(text) > MOST_BYTES:
        raise AnnotationError(f'{name}: no VOC annotation, it has over {MOST_BYTES} B')
    problem = _problem(text)
    if problem:
        raise AnnotationError(f'{name}: no VOC annotation ({problem})')


def _problem(text: bytes) -> str | None:
    try:
        _check_parts(text)
        root = ET.fromstring(text)
    except (ET.ParseError, expat.ExpatError, ValueError, LookupError) as error:
        return str(error)
    return next(_problems(root), None)


def _check_parts(text: bytes) -> None:
    """Raise a ``ValueError`` at the declaration of an entity or attribute, in any encoding.

    Entities can grow without limit when they are read, and each element gets all attributes that
    are declared for it; VOC has neither. Too many elements are an error, too.
    """
    if text.count(b'=') > MOST_ELEMENTS:  # before expat, which takes seconds for a million
        raise ValueError(f'it has more than {MOST_ELEMENTS} attributes')
    count = 0

    def refuse(*declaration: object) -> None:
        raise ValueError('it declares entities or attributes')

    def count_one(*element: object) -> None:
        nonlocal count
        count += 1
        if count > MOST_ELEMENTS:
            raise ValueError(f'it has more than {MOST_ELEMENTS} elements')

    parser = expat.ParserCreate()
    parser.EntityDeclHandler = refuse
    parser.AttlistDeclHandler = refuse
    parser.StartElementHandler = count_one
    parser.Parse(text, True)


def _problems(root: ET.Element) -> Iterator[str]:
    # an XML file of another format would be an image without objects
    if root.tag != 'annotation' and root.find('object') is None:
        yield f'its root is <{shorten(root.tag, 40)}>, not <annotation>, and it has no <object>'
    size = root.find('size')
    if size is not None:
        for tag in ('width', 'height'):
            yield from _of_side(size, tag)
    for number, thing in enumerate(root.findall('object'), start=1):
        for problem in _of_object(thing):
            yield f'object {number}: {problem}'


def _of_side(size: ET.Element, tag: str) -> Iterator[str]:
    text = size.findtext(tag)
    if text is None:
        yield f'its <size> has no <{tag}>'
    elif (value := _integer(text)) is None or not 1 <= value <= MOST_PIXELS:
        yield (
            f'its <{tag}> is {shorten(repr(text), 40)} and must be a number of pixels, at least 1'
        )


def _of_object(thing: ET.Element) -> Iterator[str]:
    if not (thing.findtext('name') or '').strip():
        yield 'it has no <name>'
    difficult = thing.find('difficult')
    if difficult is not None and _integer(difficult.text) is None:
        yield f'its <difficult> is {_shown(difficult.text)} and must be 0 or 1'
    box = thing.find('bndbox')
    if box is None:
        yield 'it has no <bndbox>'
        return
    for tag in _CORNERS:
        corner = box.find(tag)
        if corner is None:
            yield f'its <bndbox> has no <{tag}>'
        elif (value := _number(corner.text)) is None or abs(value) > MOST_PIXELS:
            yield f'its <{tag}> is {_shown(corner.text)} and must be a number of pixels'


def _shown(text: str | None) -> str:
    return 'empty' if not (text or '').strip() else shorten(repr(text), 40)


def _digits(text: str | None) -> str:
    """Return the text of a number, and nothing, which is none, in the place of a long one."""
    # not the start of a longer text: mmdet reads all of it
    return text if text and len(text) <= _LONGEST else ''


def _integer(text: str | None) -> int | None:
    try:
        return int(_digits(text))
    except ValueError:
        return None


def _number(text: str | None) -> float | None:
    try:
        value = float(_digits(text))
    except ValueError:
        return None
    return value if math.isfinite(value) else None
