"""Size of the work that the headers of a JPEG 2000 file ask for.

A decoder makes room for every code block and every precinct before it reads one, and both can
have a single pixel. Each quality layer is a loop over all precincts, also where the data ended.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import IO, NamedTuple

_STREAM, _TILE_PART, _DATA, _END = 0xFF4F, 0xFF90, 0xFF93, 0xFFD9
_SIZES, _CODING, _CODING_OF_ONE = 0xFF51, 0xFF52, 0xFF53
#: Markers of other segments. Decoders search for the next known marker after an unknown one.
_OTHERS = {0xFF00 + low for low in b'\x50\x55\x57\x58\x5c\x5d\x5e\x5f\x60\x61\x63\x64\x74\x75\x77'}
#: Exponent of the side of a precinct without a given size.
_WHOLE = 15


class Work(NamedTuple):
    """Upper bounds of what a decoder keeps and does.

    Attributes:
        parts: Components of all tiles. Each takes about a kilobyte.
        blocks: Code blocks and precincts of a tile. Each takes about 400 bytes.
        packets: Packets of all tiles.
    """

    parts: int
    blocks: int
    packets: int


#: Largest work of a file. A regular one of 2^26 pixels has a tenth.
MOST = Work(parts=2**18, blocks=2**20, packets=2**24)


def work(file: IO[bytes]) -> Work:
    """Return the work that a file asks for.

    Args:
        file: File to read, whose position does not change.

    Raises:
        ValueError: If its headers are damaged.
    """
    at = file.tell()
    try:
        return _measured(list(_segments(file)))
    except (struct.error, IndexError):
        raise ValueError('a JPEG 2000 file with damaged headers') from None
    finally:
        file.seek(at)


def _number(file: IO[bytes], count: int) -> int:
    return int(struct.unpack({2: '>H', 4: '>I', 8: '>Q'}[count], file.read(count))[0])


def _find_stream(file: IO[bytes]) -> None:
    """Go to the first marker of the codestream, which can be in a box."""
    file.seek(0)
    is_stream = _number(file, 2) == _STREAM
    file.seek(0)
    kind = b'jp2c' if is_stream else b''
    while kind != b'jp2c':
        start, size = file.tell(), _number(file, 4)
        kind = file.read(4)
        size = _number(file, 8) if size == 1 else size
        if kind != b'jp2c':
            if start + size < file.tell():
                raise struct.error
            file.seek(start + size)


def _segments(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield the markers and the contents of all segments, without the data of the tiles."""
    _find_stream(file)
    if _number(file, 2) != _STREAM:
        raise struct.error
    end = 0
    while len(code := file.read(2)) == 2 and (marker := int.from_bytes(code, 'big')) != _END:
        if marker == _DATA:
            if end == 0:  # up to the end of the file
                return
            if end < file.tell():
                raise struct.error
            file.seek(end)
            continue
        if marker not in {_SIZES, _CODING, _CODING_OF_ONE, _TILE_PART, *_OTHERS}:
            raise struct.error
        start, size = file.tell() - 2, _number(file, 2)
        content = file.read(max(size - 2, 0))
        if len(content) != size - 2:
            raise struct.error
        if marker == _TILE_PART:
            length = struct.unpack('>HIBB', content)[1]
            end = start + length if length else 0
        yield marker, content


def _measured(segments: list[tuple[int, bytes]]) -> Work:
    sizes = [content for marker, content in segments if marker == _SIZES]
    if len(sizes) != 1:
        raise struct.error
    *ends, left, top, width, height, tile_left, tile_top, count = struct.unpack_from(
        '>IIIIIIIIH', sizes[0], 2
    )
    sides = [end - begin for end, begin in zip(ends, (left, top))]
    if not min(*sides, width, height) > 0:
        raise struct.error
    tiles = -(-(ends[0] - tile_left) // width) * -(-(ends[1] - tile_top) // height)
    tile = min(sides[0], width), min(sides[1], height)
    layers, blocks, precincts = 1, 0, 0
    for marker, content in segments:
        if marker == _CODING:
            layers = max(layers, struct.unpack_from('>H', content, 2)[0])
            form = content[:1] + content[5:]
        elif marker == _CODING_OF_ONE:
            form = content[1 + (count > 256) :]
        else:
            continue
        found = _of_component(form, tile)
        blocks, precincts = max(blocks, found[0]), max(precincts, found[1])
    return Work(count * tiles, count * blocks, count * tiles * layers * precincts)


def _of_component(form: bytes, tile: tuple[int, int]) -> tuple[int, int]:
    """Return the code blocks and precincts, and the precincts alone, of a component of a tile."""
    levels, block = form[1], [side + 2 for side in form[2:4]]
    blocks = precincts = 0
    for level in range(levels + 1):
        whole = _WHOLE | _WHOLE << 4
        both = form[6 + level] if form[0] & 1 else whole
        sides = [-(-length >> (levels - level)) for length in tile]
        exponents = both & 15, both >> 4
        bands = 3 if level else 1
        # those at the two ends of a side can be cut
        here = _product((length >> n) + 2 for length, n in zip(sides, exponents))
        inner = [min(n, max(m - (bands > 1), 0)) for n, m in zip(block, exponents)]
        halves = [-(-length // 2) if bands > 1 else length for length in sides]
        blocks += bands * (here + _product((a >> n) + 2 for a, n in zip(halves, inner)))
        precincts += here
    return blocks, precincts


def _product(both: Iterator[int]) -> int:
    first, second = both
    return first * second
