"""Reader of ``torch.save`` files: zip archives since torch 1.6, pickle streams before.

An archive holds ``NAME/data.pkl``, a pickle that names storages by persistent ids, and each
storage uncompressed as ``NAME/data/KEY``. This module does not use torch's reader, because
torch trusts lengths in the pickle and does not compare checksums.
"""

from __future__ import annotations

import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

import torch

from .limits import Budget, CheckpointError, Source
from .names import Storage, StorageClass, find
from .unpickler import Unpickler

#: Device of a storage, as in ``torch.load``.
MapLocation = Any

#: Bytes in memory per byte of the directory in the file.
_ENTRY_COST = 16
_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


def trusted_names() -> dict[str, Any]:
    """Return the objects of ``torch.serialization.add_safe_globals``, by name.

    torch adds classes for distributed and nested tensors, which are not read here. numpy's
    functions trust a file, so functions of this package replace them.
    """
    list_all = getattr(torch.serialization, 'get_safe_globals', list)
    names = {}
    for value in list_all():
        value, name = value if isinstance(value, tuple) else (value, None)
        name = name or f'{value.__module__}.{value.__qualname__}'
        if name.partition('.')[0] not in ('torch', 'numpy'):
            names[name] = value
    return names


def _unpickle(source: Source, persistent: Callable[[Any], Any], budget: Budget) -> Any:
    trusted = trusted_names()
    machine = Unpickler(
        source, lambda path: find(path, trusted), persistent, budget, list(trusted.values())
    )
    return machine.load()


def _no_storage(_: Any) -> Any:
    raise CheckpointError('names a storage where none can be')


def _parts(pid: Any) -> tuple[torch.dtype, str, str, int]:
    """Return dtype, key, location and number of entries in a persistent id."""
    if type(pid) is tuple and len(pid) == 6 and pid[5] is None:
        pid = pid[:5]  # of a legacy file, without a view
    if type(pid) is not tuple or len(pid) != 5 or pid[0] not in ('storage', b'storage'):
        raise CheckpointError('names a storage of an unknown form')
    _, kind, key, location, count = pid
    is_plain = isinstance(kind, StorageClass) and type(key) is str
    if not is_plain or type(location) is not str or type(count) is not int:
        raise CheckpointError('names a storage of an unknown form')
    if count < 0:
        raise CheckpointError(f'names a storage of {count} entries')
    return kind.dtype, key, location, count


class _Place:
    """Placement of storages on devices, by ``map_location``."""

    def __init__(self, map_location: MapLocation) -> None:
        self.map_location = map_location

    def __call__(self, data: torch.UntypedStorage, location: str) -> Any:
        where = self.map_location
        if callable(where):
            moved = where(data, location)
            return data if moved is None else getattr(moved, '_untyped_storage', moved)
        if isinstance(where, dict):
            where = where.get(location, location)
        device = torch.device(location if where is None else where)
        if device.type == 'cpu':
            return data
        if device.type == 'meta':
            raise CheckpointError('holds a tensor without data')
        flat = torch.empty(0, dtype=torch.uint8, device=data.device).set_(data)
        return flat.to(device).untyped_storage()


def _read_into(file: BinaryIO, size: int) -> torch.Tensor:
    """Read the next ``size`` bytes."""
    data = torch.empty(size, dtype=torch.uint8, device='cpu')  # not torch's default device
    if size and file.readinto(data.numpy()) != size:  # type: ignore[attr-defined]
        raise CheckpointError('ends too early')
    return data


class _Metered:
    """File of which ``zipfile`` reads a directory; its bytes are counted as they are read.

    An archive can give the directory's size twice, and versions of Python differ in which
    one they use.
    """

    def __init__(self, file: BinaryIO, size: int, budget: Budget) -> None:
        self.file, self.size, self.budget = file, size, budget
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        """Read at most ``size`` bytes."""
        data = self.file.read(min(size, self.size))
        self.budget.take(_ENTRY_COST * len(data))
        return data


def members_of(file: BinaryIO, size: int, budget: Budget) -> list[zipfile.ZipInfo]:
    """Return the members that the directory of a zip archive lists.

    Args:
        file: The open file.
        size: Its size.
        budget: Counts the memory of the directory.

    Raises:
        CheckpointError: If the directory is damaged or too large.
    """
    try:
        return zipfile.ZipFile(_Metered(file, size, budget)).infolist()
    except zipfile.BadZipFile as error:
        raise CheckpointError(f'is truncated, or a damaged archive: {error}') from error


class _Archive:
    """Zip archive of ``torch.save``; its members are checked before they are read."""

    def __init__(self, file: BinaryIO, size: int, budget: Budget) -> None:
        self.file = file
        members = members_of(file, size, budget)
        self.members = {member.filename: member for member in members}
        if len(self.members) != len(members):
            raise CheckpointError('is an archive with two members of one name')
        if any(name.endswith('/constants.pkl') for name in self.members):
            raise CheckpointError('is a network of TorchScript, which is code: save its state_dict')
        if any(m.compress_type != zipfile.ZIP_STORED for m in members):
            raise CheckpointError('is an archive with compressed members, and torch writes none')
        if any(m.compress_size != m.file_size or m.flag_bits & 1 for m in members):
            raise CheckpointError('is an archive with encrypted or torn members')
        if sum(member.file_size for member in members) > size:
            raise CheckpointError('is an archive of members larger than itself')
        # torch writes zeros if it writes no checksums
        self.has_checksums = any(member.CRC for member in members)
        self.size, self.root = size, self._root()

    def _root(self) -> str:
        """Return the folder of ``data.pkl``."""
        roots = [
            name[: -len('data.pkl')]
            for name in self.members
            if name.endswith('/data.pkl') and name.count('/') == 1
        ]
        if len(roots) != 1:
            raise CheckpointError('is an archive of something else: no data.pkl')
        return roots[0]

    def begin(self, name: str) -> tuple[int, int, int]:
        """Return the begin and the end of the member ``name``, and its checksum."""
        member = self.members.get(f'{self.root}{name}')
        if member is None:
            raise CheckpointError(f'is damaged: its member {name[:100]!r} is missing')
        self.file.seek(member.header_offset)
        head = self.file.read(30)
        if len(head) != 30 or head[:4] != b'PK\x03\x04':
            raise CheckpointError('is damaged: a member has no header')
        lengths = struct.unpack_from('<HH', head, 26)
        start = member.header_offset + 30 + sum(lengths)
        encoding = 'utf-8' if member.flag_bits & 0x800 else 'cp437'
        if self.file.read(lengths[0]) != member.orig_filename.encode(encoding):
            raise CheckpointError('is damaged: a member has two names')
        if start + member.file_size > self.size:
            raise CheckpointError('is truncated')
        return start, start + member.file_size, member.CRC

    def read(self, name: str) -> torch.Tensor:
        """Read the bytes of a member and compare them with its checksum."""
        start, end, checksum = self.begin(name)
        self.file.seek(start)
        data = _read_into(self.file, end - start)
        if self.has_checksums and zlib.crc32(data.numpy().data) != checksum:
            raise CheckpointError(f'is damaged: the checksum of {name!r} is wrong')
        return data


def read_archive(file: BinaryIO, size: int, budget: Budget, map_location: MapLocation) -> Any:
    """Read a zip archive of ``torch.save``.

    Args:
        file: The open file.
        size: Its size.
        budget: Counts the memory of the results.
        map_location: As in ``torch.load``.

    Raises:
        CheckpointError: If it is damaged or contains unsupported content.
    """
    archive = _Archive(file, size, budget)
    place = _Place(map_location)
    storages: dict[Any, Any] = {}
    is_swapped = _byte_order(archive) != sys.byteorder
    archive.read('data.pkl')  # checks the checksum first
    pickle_bytes = archive.begin('data.pkl')[:2]

    def storage(pid: Any) -> Storage:
        dtype, key, location, count = _parts(pid)
        if key not in storages:
            position = file.tell()
            data = archive.read(f'data/{key}').untyped_storage()
            file.seek(position)
            if is_swapped:
                data.byteswap(dtype)
            storages[key] = place(data, location)
        if storages[key].nbytes() != count * dtype.itemsize:
            raise CheckpointError(
                f'names a storage of {count} entries, and the file holds '
                f'{storages[key].nbytes()} bytes'
            )
        return Storage(storages[key], dtype)

    return _unpickle(Source(file, *pickle_bytes), storage, budget)


def _byte_order(archive: _Archive) -> str:
    if f'{archive.root}byteorder' not in archive.members:
        return 'little'
    order = archive.read('byteorder').numpy().tobytes()[:16]
    if order not in (b'little', b'big'):
        raise CheckpointError(f'has an unknown byte order, {order!r}')
    return order.decode()


def read_legacy(file: BinaryIO, size: int, budget: Budget, map_location: MapLocation) -> Any:
    """Read a file of ``torch.save`` from before torch 1.6.

    Args:
        file: The open file.
        size: Its size.
        budget: Counts the memory of the results.
        map_location: As in ``torch.load``.

    Raises:
        CheckpointError: If it is damaged or contains unsupported content.
    """
    source, place, used = Source(file, 0, size), _Place(map_location), 0
    storages: dict[Any, Any] = {}

    def storage(pid: Any) -> Storage:
        nonlocal used
        dtype, key, location, count = _parts(pid)
        if key not in storages:
            used += count * dtype.itemsize
            if used > size:
                raise CheckpointError('names storages larger than the file')
            data = torch.zeros(count * dtype.itemsize, dtype=torch.uint8, device='cpu')
            # its final device, because tensors are made before their data are read
            storages[key] = data, place(data.untyped_storage(), location), dtype
        _, placed, first = storages[key]
        if first != dtype or placed.nbytes() != count * dtype.itemsize:
            raise CheckpointError('names one storage in two ways')
        return Storage(placed, dtype)

    head = [_unpickle(source, _no_storage, budget) for _ in range(3)]
    if head[:2] != [_LEGACY_MAGIC, _LEGACY_PROTOCOL] or type(head[2]) is not dict:
        raise CheckpointError('is not a file of torch.save')
    if head[2].get('little_endian') is not True or sys.byteorder != 'little':
        raise CheckpointError('was written on a machine of another byte order')
    content = _unpickle(source, storage, budget)
    keys = _unpickle(source, _no_storage, budget)
    if type(keys) is not list or any(type(key) is not str for key in keys):
        raise CheckpointError('lists its storages in an unknown form')
    if sorted(keys) != sorted(storages):
        raise CheckpointError('lists other storages than it names')
    for key in keys:
        data, placed, dtype = storages[key]
        count = struct.unpack('<q', source.read(8))[0]
        if count * dtype.itemsize != data.numel():
            raise CheckpointError('holds a storage of another size than it names')
        raw = source.read(data.numel())
        if raw:
            data.copy_(torch.frombuffer(bytearray(raw), dtype=torch.uint8))
            if placed.data_ptr() != data.data_ptr():
                torch.empty(0, dtype=torch.uint8, device=placed.device).set_(placed).copy_(data)
    if source.at != size:
        raise CheckpointError('holds more than it lists')
    return content
