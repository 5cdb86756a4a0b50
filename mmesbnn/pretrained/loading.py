"""Loading of a trained network from a folder or a hub."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import nn

from ..binary.arguments import MODULE
from ..checks import Rule, checked, either, filled_text, flag, none, optional, positive_int
from ..checks import path as path_rule
from ..deploy.packed.unpacking import unpack
from .files import read_folder
from .hub import download, is_hub_name

#: Rule of the address of a hub.
ADDRESS = Rule(
    'an address with http:// or https://',
    lambda value: isinstance(value, str) and value.startswith(('http://', 'https://')),
)
#: Rules of the arguments for a hub, which huggingface_hub interprets.
HUB = dict(
    revision=optional(filled_text),
    cache_dir=optional(path_rule),
    token=either(filled_text, flag, none),
    endpoint=optional(ADDRESS),
)


def local_folder(source: str | os.PathLike[str], **hub: Any) -> Path:
    """Return the folder of a network; if its name is that of a hub, it is downloaded.

    Args:
        source: Folder, or name on a hub. A folder has priority.
        **hub: Arguments of :func:`~mmesbnn.pretrained.hub.download`.

    Raises:
        PretrainedError: If the hub does not have it.
        OSError: If there is no such folder.
    """
    if Path(source).is_dir():
        return Path(source)
    if is_hub_name(source) and not Path(source).exists():
        return download(str(source), **hub)
    kind = 'a file, not a folder' if Path(source).exists() else 'no such folder'
    raise FileNotFoundError(f'{source}: {kind}')


@checked(source=path_rule, model=optional(MODULE), max_bytes=optional(positive_int), **HUB)
def from_pretrained(
    source: str | os.PathLike[str],
    *,
    model: nn.Module | None = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
    endpoint: str | None = None,
    trust_stored_config: bool = False,
    max_bytes: int | None = None,
) -> nn.Module:
    """Load a network from a folder of :func:`save_pretrained`, or from a Hugging Face hub.

    The network gives the outputs of the saved network, bit for bit unless it was saved with
    ``half``. Its binary weights are fixed; all other parameters can be trained. To train the
    binary weights, too, use the checkpoint.

    The network may come from an unknown source. Nothing of it is run. Only ``config.json``
    and ``model.safetensors`` are downloaded and read, as data, and the config can build only
    the components that :func:`mmesbnn.deploy.load_packed` builds.

    Args:
        source: Folder of the network, or its name on a hub, ``'OWNER/NAME'``. A folder of
            this name has priority.
        model: Network to load into, for folders without a config. Default None: the network
            is built from ``config.json``.
        revision: Branch, tag or commit on the hub. Default None: ``main``.
        cache_dir: Folder of downloaded files. Default None: that of huggingface_hub
            (``HF_HUB_CACHE``).
        local_files_only: Whether to read the cache only, without the network. Default False.
        token: Token of the hub, or True for the stored one, or False for none. Default None:
            the stored one, if there is one.
        endpoint: Address of the hub. Default None: ``HF_ENDPOINT``, or huggingface.co.
        trust_stored_config: Whether the config may build any class that it names, which can
            run code. Default False.
        max_bytes: As in :func:`mmesbnn.deploy.load_packed`.

    Returns:
        Network in eval mode.

    Raises:
        PretrainedError: If the hub or the cache does not have the network, if
            ``config.json`` is damaged or of another package, or if a file is a link out of
            the folder.
        PackError: If the weights are damaged or belong to another network, or if the config
            names a component that is not allowed.
        OSError: If the folder or one of its files does not exist.
        ImportError: If a required package is missing.
    """
    folder = local_folder(
        source,
        revision=revision,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        token=token,
        endpoint=endpoint,
    )
    return unpack(
        *read_folder(folder, max_bytes),
        folder,
        model,
        trust_stored_config=trust_stored_config,
        max_bytes=max_bytes,
    )
