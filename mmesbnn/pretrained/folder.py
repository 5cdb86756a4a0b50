"""Saving of a trained network as a folder, and loading of it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from torch import nn

from ..binary.arguments import MODULE
from ..checks import Rule, checked, mapping, optional, positive_int
from ..deploy import PackReport, pack
from ..deploy.packed.file import read_packed
from ..deploy.packed.unpacking import unpack
from ..whole_files import whole_folder
from .files import CONFIG, WEIGHTS, check_target, description, read_folder

#: Rule of a network's config.
NETWORK = Rule(
    "a config with a model, or a dict with the model's type",
    lambda x: isinstance(x, (Config, Mapping)) and ('model' in x or 'type' in x),
)


def _with_model(config: Any) -> Any:
    """Return a config with ``model``, from one of these or from the model's own."""
    return config if config is None or 'model' in config else {'model': config}


@checked(model=MODULE, config=optional(NETWORK), dataset_meta=optional(mapping()))
def save_pretrained(
    model: nn.Module,
    folder: str | os.PathLike[str],
    *,
    config: Any = None,
    dataset_meta: Mapping[str, Any] | None = None,
    half: bool = False,
) -> PackReport:
    """Write a trained network as a folder that :func:`from_pretrained` reads.

    The folder holds ``model.safetensors`` (one bit per binary weight, see
    :func:`mmesbnn.deploy.pack`) and ``config.json``. It appears as a whole or not at all. A
    folder of a network that is there is replaced.

    Args:
        model: Classifier, backbone or any other network with layers of this package, with
            binary weights.
        folder: Folder to write.
        config: Config of the network, so that :func:`from_pretrained` can build it: an
            mmengine config with ``model``, or the dict of the network itself, such as
            ``dict(type='BNext', arch='tiny')``. Default None: the config that the network
            holds (from :func:`create_model`, :func:`from_pretrained` or mmpretrain's
            ``get_model``). Without any config a warning says that loading will need the
            network.
        dataset_meta: Meta data of the data set, such as ``{'classes': [...]}``. Default
            None: those that the network or the config has.
        half: Whether to round everything except the bits to half precision, see
            :func:`mmesbnn.deploy.pack`. Default False.

    Returns:
        Report of the sizes of the parts of ``model.safetensors``.

    Raises:
        PackError: If a layer is not binary (yet) or not finite; the message names it.
        PretrainedError: If the folder holds files that do not belong to a network.
        OSError: If it cannot be written.
    """
    check_target(folder)
    with whole_folder(Path(folder), replace=True) as partial:
        report = pack(
            model,
            partial / WEIGHTS,
            config=_with_model(config),
            dataset_meta=dataset_meta,
            half=half,
        )
        metadata = read_packed(partial / WEIGHTS)[1]
        (partial / CONFIG).write_text(description(metadata, model), encoding='utf-8')
    if 'config' not in metadata:
        warnings.warn(
            f'{folder}: holds no config of the {type(model).__name__}, so from_pretrained will '
            'need model=; give config= to save_pretrained',
            stacklevel=3,
        )
    return report


@checked(model=optional(MODULE), max_bytes=optional(positive_int))
def from_pretrained(
    source: str | os.PathLike[str],
    *,
    model: nn.Module | None = None,
    trust_stored_config: bool = False,
    max_bytes: int | None = None,
) -> nn.Module:
    """Load a network from a folder of :func:`save_pretrained`.

    The network gives the outputs of the saved network, bit for bit unless it was saved with
    ``half``. Its binary weights are fixed; all other parameters can be trained. To train the
    binary weights, too, use the checkpoint.

    The folder may come from an unknown source. Nothing in it is run. Only ``config.json`` and
    ``model.safetensors`` are read, as data, and the config can build only the components that
    :func:`mmesbnn.deploy.load_packed` builds.

    Args:
        source: Folder of the network.
        model: Network to load into, for folders without a config. Default None: the network
            is built from ``config.json``.
        trust_stored_config: Whether that config may build any class that it names, which can
            run code. Default False.
        max_bytes: As in :func:`mmesbnn.deploy.load_packed`.

    Returns:
        Network in eval mode.

    Raises:
        PretrainedError: If ``config.json`` is damaged or of another package, or if a file is
            a link out of the folder.
        PackError: If the weights are damaged or belong to another network, or if the config
            names a component that is not allowed.
        OSError: If the folder or one of its files does not exist.
        ImportError: If a required package is missing.
    """
    folder = Path(source)
    if not folder.is_dir():
        raise FileNotFoundError(f'{folder}: no such folder')
    stored, metadata = read_folder(folder, max_bytes)
    return unpack(
        stored,
        metadata,
        folder,
        model,
        trust_stored_config=trust_stored_config,
        max_bytes=max_bytes,
    )
