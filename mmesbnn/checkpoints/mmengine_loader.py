"""Registration of this package's reader of checkpoints at mmengine.

Since torch 2.6 ``torch.load`` refuses mmengine's own checkpoints, which hold a log history of
numpy arrays. Before, it ran any code in a file. If torch trusted numpy's functions, every
``torch.load`` of the process would be weaker, because these functions trust a file. A change
of mmengine's registry of loaders affects mmengine only.
"""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Callable
from typing import Any

from mmengine.fileio import get_file_backend
from mmengine.runner import CheckpointLoader

from .hub_loaders import LOADERS
from .reading import read_checkpoint, read_open
from .torch_files import MapLocation

#: Environment variable with which torch reads files that can run code.
_TRUST_ALL = 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'

#: mmengine's own loaders by their schemes.
_mmengine = dict(CheckpointLoader._schemes)
_STORES = (r'(\S+\:)?s3://', r'(\S+\:)?petrel://')


def _trusts_all() -> bool:
    return os.environ.get(_TRUST_ALL, '').lower() in ('1', 'y', 'yes', 'true')


def _without_config(content: Any) -> Any:
    """Remove the config of a checkpoint of mmcv, which mmengine runs as code when it resumes."""
    meta = content.get('meta') if isinstance(content, dict) else None
    if isinstance(meta, dict):
        meta.pop('config', None)
    return content


def load_from_local(filename: str, map_location: MapLocation = None) -> Any:
    """Load a checkpoint file without ``meta['config']``; see :func:`.read_checkpoint`.

    With ``TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1`` in the environment mmengine's own loader is
    used, which can run code in the file.

    Args:
        filename: Path of the file.
        map_location: As in ``torch.load``.
    """
    if _trusts_all():
        return _mmengine[''](filename, map_location)
    path = os.path.expanduser(filename)
    if not os.path.exists(path):
        raise FileNotFoundError(f'{path} can not be found.')
    return _without_config(read_checkpoint(path, map_location=map_location))


def load_from_ceph(filename: str, map_location: MapLocation = None, backend: str = 'petrel') -> Any:
    """Load a checkpoint of a store such as S3; see :func:`.read_checkpoint`.

    Args:
        filename: Address of the file.
        map_location: As in ``torch.load``.
        backend: Name of mmengine's file backend.
    """
    store = get_file_backend(filename, backend_args={'backend': backend})
    data = store.get(filename)
    with io.BytesIO(data) as file:
        return read_open(file, len(data), filename, map_location=map_location)


def _unless_trusted(own: Callable[..., Any], usual: Callable[..., Any]) -> Callable[..., Any]:
    """Return a loader that calls ``usual`` while the environment trusts all files.

    It removes ``meta['config']`` of other files.
    """

    @functools.wraps(own)  # mmengine logs its name
    def load(filename: str, map_location: MapLocation = None) -> Any:
        if _trusts_all():
            return usual(filename, map_location)
        return _without_config(own(filename, map_location))

    return load


def register_loaders() -> None:
    """Register these loaders at mmengine. Importing mmesbnn calls it."""
    CheckpointLoader.register_scheme('', load_from_local, force=True)
    loaders = {**LOADERS, **dict.fromkeys(_STORES, load_from_ceph)}
    for scheme, own in loaders.items():
        loader = _unless_trusted(own, _mmengine[scheme])
        CheckpointLoader.register_scheme(scheme, loader, force=True)
