"""Size of the tiles in a TIFF file, which Pillow does not check.

A decoder makes room for a whole tile, and the tile can be much larger than the image. Pillow
ignores types of entries that the decoder reads, so the entries are read here.
"""

from __future__ import annotations

import struct
from typing import IO, Literal

#: Tags of the width and the height of a tile.
_SIDES = (322, 323)
#: Bytes of a value, by the type of its entry. Other types hold no whole number.
_SIZES = {1: 1, 3: 2, 4: 4, 6: 1, 8: 2, 9: 4, 13: 4, 16: 8, 17: 8, 18: 8}
#: Largest number of entries that decoders accept.
_MOST_ENTRIES = 2**16
#: Version in the header of a file with 64-bit positions.
_BIG = 43
_ORDERS: dict[bytes, Literal['little', 'big']] = {b'II': 'little', b'MM': 'big'}


def tile_pixels(file: IO[bytes]) -> int:
    """Return the pixels in a tile of the first image of a TIFF file, 0 if it has no tiles.

    Args:
        file: File to read, whose position does not change.
    """
    at = file.tell()
    try:
        width, height = _sides(file)
    except struct.error:  # truncated
        return 0
    finally:
        file.seek(at)
    return width * height


def _sides(file: IO[bytes]) -> tuple[int, int]:
    """Return the width and the height of a tile."""
    file.seek(0)
    head = file.read(16).ljust(16, b'\0')
    order = _ORDERS.get(head[:2], 'little')
    sign = '<' if order == 'little' else '>'
    is_big = int.from_bytes(head[2:4], order) == _BIG
    start = head[8:16] if is_big else head[4:8]
    count, entry = (struct.Struct(sign + x) for x in (('Q', 'HHQ8s') if is_big else ('H', 'HHI4s')))
    file.seek(int.from_bytes(start, order))
    entries = min(count.unpack(file.read(count.size))[0], _MOST_ENTRIES)
    found: dict[int, int] = {}
    for tag, kind, _, value in entry.iter_unpack(file.read(entries * entry.size)):
        if tag in _SIDES and kind in _SIZES and tag not in found:
            size = _SIZES[kind]
            if size > len(value):
                file.seek(int.from_bytes(value, order))
                value = file.read(size)
            found[tag] = int.from_bytes(value[:size], order)
    return found.get(_SIDES[0], 0), found.get(_SIDES[1], 0)
