"""Files of a folder with a trained network, and their safe reading.

A folder may come from an unknown source. Only the files that are named here are read, as
data. They must be regular files, and no link may lead out of the folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from ..deploy.packed.file import read_packed
from ..plain_files import open_plain
from ..plain_values import ConfigError, parse_json, read_json
from ..version import __version__
from ..whole_files import check_folder, read_whole
from .errors import PretrainedError

#: Packed weights, their description, and the model card.
WEIGHTS, CONFIG, CARD = 'model.safetensors', 'config.json', 'README.md'
#: Value of ``library_name`` in ``config.json``; a hub shows it.
LIBRARY = 'mmesbnn'
#: Metadata of the packed file that ``config.json`` holds.
_PARTS = ('config', 'dataset_meta')
#: Names in the cache of huggingface_hub: a snapshot links to files in ``blobs``.
_SNAPSHOTS, _BLOBS = 'snapshots', 'blobs'


def check_target(folder: str | os.PathLike[str], *sources: str | os.PathLike[str] | None) -> None:
    """Raise an error if ``folder`` cannot become the folder of a network.

    Args:
        folder: Folder to write.
        *sources: Files that are read; None is skipped.

    Raises:
        PretrainedError: If it holds files that do not belong to one.
        OSError: If it cannot be written, or holds a file that is read.
    """
    target = check_folder(folder, *sources, replace=True)
    if not target.is_dir():
        return
    other = sorted(p.name for p in target.iterdir() if p.name not in (WEIGHTS, CONFIG, CARD))
    if other:
        raise PretrainedError(
            f'{folder}: holds files that do not belong to a network ({other[0]}); name a new folder'
        )


def architecture(metadata: Mapping[str, str], model: nn.Module) -> str:
    """Return the name of the class that is built; a training can use another, with teachers.

    Args:
        metadata: Metadata of the packed file.
        model: Network in it.
    """
    if 'config' not in metadata:
        return type(model).__name__
    return json.loads(metadata['config'])['model']['type'].rpartition('.')[2]


def description(metadata: Mapping[str, str], model: nn.Module) -> str:
    """Return the text of ``config.json``.

    Args:
        metadata: Metadata of the packed file.
        model: Network in it.
    """
    content = {
        'library_name': LIBRARY,
        'mmesbnn_version': __version__,
        'architecture': architecture(metadata, model),
    }
    content.update((key, json.loads(metadata[key])) for key in _PARTS if key in metadata)
    return json.dumps(content, indent=2) + '\n'


def _inside(folder: Path, name: str) -> Path:
    """Return the path of a file in ``folder``, which must be a regular file in there."""
    path = folder / name
    if not path.exists():
        raise FileNotFoundError(f'{path}: no such file; save_pretrained writes it')
    root, real = Path(os.path.realpath(folder)), Path(os.path.realpath(path))
    allowed = [root]
    if root.parent.name == _SNAPSHOTS:
        allowed.append(root.parents[1] / _BLOBS)
    if not any(place in real.parents for place in allowed):
        raise PretrainedError(f'{path}: a link out of the folder is not followed; copy the file')
    open_plain(path).close()  # a pipe would block
    return path


def _described(path: Path) -> dict[str, str]:
    """Return the parts of ``config.json`` in the form of the metadata of a packed file."""
    content = read_json(path)
    if content.get('library_name') != LIBRARY:
        raise PretrainedError(
            f"{path}: library_name must be '{LIBRARY}', so this is the network of another package"
        )
    parts = {}
    for key in _PARTS:
        if key in content:
            parts[key] = json.dumps(content[key])
            parse_json(parts[key], f'{key} in {path}')
    return parts


def read_folder(
    folder: Path, max_bytes: int | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and metadata of a network's folder.

    The config is that of ``config.json``, not the copy in the packed file.

    Args:
        folder: Folder to read.
        max_bytes: As in :func:`~mmesbnn.deploy.load_packed`.

    Raises:
        PretrainedError: If ``config.json`` is damaged or of another package, or if a file
            is a link out of the folder.
        PackError: If the weights are damaged.
        OSError: If a file is missing.
    """

    def read() -> tuple[dict[str, Tensor], dict[str, str]]:
        try:
            described = _described(_inside(folder, CONFIG))
        except ConfigError as error:
            raise PretrainedError(str(error)) from error
        stored, metadata = read_packed(_inside(folder, WEIGHTS), max_bytes)
        metadata = {key: value for key, value in metadata.items() if key not in _PARTS}
        return stored, {**metadata, **described}

    return read_whole(folder, read)
