"""Loaders of checkpoints from the web and from model zoos, for mmengine.

A file is downloaded to the cache of ``torch.hub`` and read like any other file. torch's own
``load_state_dict_from_url`` would run code in it.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
import zipfile
from typing import Any
from urllib.parse import urlparse

import torch
from mmengine.dist import barrier, get_dist_info
from mmengine.runner import checkpoint as zoos

from ..plain_files import open_plain
from .limits import SPARE, Budget, CheckpointError
from .reading import explained, read_checkpoint, read_open
from .torch_files import MapLocation, members_of


def _download(url: str, folder: str | None, progress: bool) -> str:
    """Return the path of the file in the cache; it is downloaded if it is missing."""
    folder = folder or os.path.join(torch.hub.get_dir(), 'checkpoints')
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, os.path.basename(urlparse(url).path))
    if not os.path.exists(path):
        sys.stderr.write(f'Downloading: "{url}" to {path}\n')
        torch.hub.download_url_to_file(url, path, progress=progress)
    return path


def _zipped(path: str) -> bytes | None:
    """Return the content of a zip archive with one file, None for any other ``path``.

    Files of torch before 1.6 were published in this form. Archives of ``torch.save``
    hold several files.
    """
    if not (os.path.isfile(path) and zipfile.is_zipfile(path)):
        return None
    with open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        members = members_of(file, size, Budget(None, size))
        if len(members) != 1 or members[0].is_dir():
            return None
        most = 4 * size + SPARE
        with zipfile.ZipFile(file) as archive, archive.open(members[0]) as member:
            data = member.read(most + 1)
    if len(data) > most:
        raise CheckpointError(f'holds more than {most} bytes')
    return data


def _read_downloaded(path: str, map_location: MapLocation) -> Any:
    with explained(path):  # the kind of the error depends on the compression
        data = _zipped(path)
    if data is None:
        return read_checkpoint(path, map_location=map_location)
    with io.BytesIO(data) as file:
        return read_open(file, len(data), path, map_location=map_location)


def load_from_http(
    filename: str,
    map_location: MapLocation = None,
    model_dir: str | None = None,
    progress: bool | None = None,
) -> Any:
    """Download a checkpoint and load it; see :func:`.read_checkpoint`.

    If there are several processes, the first one downloads, and the others wait.

    Args:
        filename: Address of the file.
        map_location: As in ``torch.load``.
        model_dir: Folder to keep it in. Default None: the cache of ``torch.hub``.
        progress: Whether to draw a bar. Default None: only on a terminal.
    """
    progress = os.isatty(0) if progress is None else progress
    rank, _ = get_dist_info()
    try:
        path = _download(filename, model_dir, progress) if rank == 0 else None
    finally:
        barrier()  # without it, the other processes would wait forever after a failure
    path = path or _download(filename, model_dir, progress)
    return _read_downloaded(path, map_location)


def load_from_pavi(filename: str, map_location: MapLocation = None) -> Any:
    """Load a checkpoint of a pavi cloud; see :func:`.read_checkpoint`.

    Args:
        filename: Its address, ``pavi://...``.
        map_location: As in ``torch.load``.
    """
    try:
        from pavi import modelcloud
    except ImportError as error:
        raise ImportError(f'{filename}: install pavi to load it') from error
    model = modelcloud.get(filename.removeprefix('pavi://'))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, os.path.basename(model.name))
        model.download(path)
        return read_checkpoint(path, map_location=map_location)


def load_from_torchvision(filename: str, map_location: MapLocation = None) -> Any:
    """Load a checkpoint of torchvision; see :func:`.read_checkpoint`.

    Args:
        filename: ``torchvision://NAME`` or ``modelzoo://NAME``.
        map_location: As in ``torch.load``.
    """
    url = zoos.get_torchvision_models()[filename.partition('://')[2]]
    return load_from_http(url, map_location)


def load_from_openmmlab(filename: str, map_location: MapLocation = None) -> Any:
    """Load a checkpoint that OpenMMLab names; see :func:`.read_checkpoint`.

    Args:
        filename: ``open-mmlab://NAME`` or ``openmmlab://NAME``.
        map_location: As in ``torch.load``.
    """
    name = filename.partition('://')[2]
    name = zoos.get_deprecated_model_names().get(name, name)
    url = zoos.get_external_models()[name]
    if url.startswith(('http://', 'https://')):
        return load_from_http(url, map_location)
    path = os.path.join(zoos._get_mmengine_home(), url)
    if not os.path.exists(path):
        raise FileNotFoundError(f'{path} can not be found.')
    return read_checkpoint(path, map_location=map_location)


def load_from_mmcls(filename: str, map_location: MapLocation = None) -> Any:
    """Load the backbone of a classifier of OpenMMLab; see :func:`.read_checkpoint`.

    Args:
        filename: ``mmcls://NAME``.
        map_location: As in ``torch.load``.
    """
    url = zoos.get_mmcls_models()[filename.removeprefix('mmcls://')]
    return zoos._process_mmcls_checkpoint(load_from_http(url, map_location))


#: Loaders of mmengine's schemes.
LOADERS = {
    'http://': load_from_http,
    'https://': load_from_http,
    'pavi://': load_from_pavi,
    'modelzoo://': load_from_torchvision,
    'torchvision://': load_from_torchvision,
    'open-mmlab://': load_from_openmmlab,
    'openmmlab://': load_from_openmmlab,
    'mmcls://': load_from_mmcls,
}
