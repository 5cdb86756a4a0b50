"""Writing trained networks as packed files, see ``file.py``."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

from ...binary.arguments import MODULE
from ...binary.layers import binary_layers
from ...binary.replaced import replaced_in
from ...checks import Rule, checked, mapping, optional, positive_int
from ...optional import require
from ...plain_values import ConfigError
from ...project import FACTS, deployed_config, image_facts, stored_test_data
from ...project import dataset_meta as meta_of
from ...version import __version__
from ...whole_files import check_file, whole_file
from . import checked_config, stored_config
from .checkpoint_network import plain_meta, read_network
from .collecting import PackReport, collect, dtype_of, with_progress
from .file import DTYPES_ENTRY, FORMAT, PackError, order_metadata, read_packed, stored_weight
from .layout import CHECKSUM, checksum, flatten


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix('torch.')


def _own_config(model: nn.Module) -> Mapping[str, Any] | None:
    """Return the config that a model of mmpretrain or diffusers holds, if it has one."""
    arguments, name = getattr(model, 'config', None), type(model).__name__
    if isinstance(arguments, Mapping) and name in MODELS:
        public = {k: v for k, v in arguments.items() if not k.startswith('_')}
        return {'model': {'type': name, **public}}
    return getattr(model, '_config', None)


def _metadata(model: nn.Module, config: Any, dataset_meta: Any) -> dict[str, str]:
    if config is None:
        config = _own_config(model)
    meta = dataset_meta or getattr(model, '_dataset_meta', None) or {}
    content = {
        'format': FORMAT,
        'version': __version__,
        'dtype': _name(dtype_of(binary_layers(model, every_name=True))),
    }
    if config is not None:
        config = Config(dict(config))
        kept = {**config.to_dict(), 'model': Config(deployed_config(config)).to_dict()}
        kept['test_dataloader'] = stored_test_data(kept)
        kept[FACTS] = image_facts(config)
        content['config'] = stored_config.to_json(stored_config.kept_part(kept))
        meta = meta or plain_meta(meta_of(kept))
        if stored_config.to_json(_known_meta(kept)) == stored_config.to_json(meta, 'dataset_meta'):
            meta = {}
    if meta:
        content['dataset_meta'] = stored_config.to_json(meta, 'dataset_meta')
    binarized = _binarized(model)
    if binarized:
        content['binarized'] = stored_config.to_json({'parts': binarized})
    return content


def _binarized(model: nn.Module) -> list[dict[str, Any]]:
    """List the layers that ``binarize`` replaced; a file cannot hold options that are modules."""
    parts = []
    for replaced in replaced_in(model):
        with contextlib.suppress(ValueError):
            parts.append(replaced.to_dict())
    return parts


def _other_dtypes(dtypes: Mapping[str, torch.dtype], kind: str) -> dict[str, str]:
    """Return the names of the dtypes that are not ``kind``, as an entry of the metadata."""
    others = {key: _name(dtype) for key, dtype in dtypes.items() if _name(dtype) != kind}
    return {DTYPES_ENTRY: json.dumps(others, separators=(',', ':'))} if others else {}


def _known_meta(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the meta data that :func:`load_packed` gets from the config itself."""
    try:
        return checked_config.checked_dataset_meta(config)
    except ConfigError:
        return {}


def _verify(path: Path, model: nn.Module, half: bool) -> None:
    """Compare the written file with the model, weight by weight."""
    stored, _ = read_packed(path)
    for name, layer in with_progress(binary_layers(model, every_name=True), 'checking'):
        weight = layer.effective_weight().detach().cpu()
        read = stored_weight(stored, name, weight)
        if half:
            weight, read = weight.sign(), read.sign()
        if not torch.equal(read, weight):
            raise PackError(f'{path}: {name} was not written as it is')


#: Rule of the config from which the model of a packed file is built.
CONFIG = Rule('a config with a model', lambda x: isinstance(x, (Config, Mapping)) and 'model' in x)


@checked(model=MODULE, config=optional(CONFIG), dataset_meta=optional(mapping()))
def pack(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    config: Any = None,
    dataset_meta: Mapping[str, Any] | None = None,
    half: bool = False,
) -> PackReport:
    """Write a trained network with one bit per binary weight.

    The file also says which layers :func:`mmesbnn.binarize` replaced, and how, unless a
    sign or a weight binarizer was given as a module.

    Args:
        model: Any network with layers of this package: an mmengine model or another
            module.
        path: File to write; an existing file is replaced.
        config: mmengine config of the model, so that :func:`load_packed` can build it.
            Default None: the config that the model itself holds (from mmpretrain's
            ``get_model``, or of a ``BIDiffSRUNet``), or no config.
        dataset_meta: Meta data of the data set, such as ``{'classes': [...]}``. Default
            None: the model's own meta data, or else what ``config`` says.
        half: Whether to store everything except the bits in half precision. It rounds
            parameters, scales and statistics by at most 2^-11 of their value, or by at
            most 2^-25 if they are below 2^-14. Tensors with values beyond 65504, and
            variances and scales below 2^-14, keep full precision. Default False: nothing
            is rounded.

    Returns:
        Report of the sizes of the file's parts.

    Raises:
        PackError: If a layer is not binary (yet) or not finite, or its weight is computed from
            other tensors; the message names it.
        OSError: If the file cannot be written.
    """
    path = Path(path)
    check_file(path)
    safetensors = require('safetensors.torch', 'deploy', 'Packing')
    tensors = collect(model, half)
    try:
        metadata = _metadata(model, config, dataset_meta)
    except ConfigError as error:
        raise PackError(str(error)) from error
    metadata |= _other_dtypes(tensors.dtypes, metadata['dtype'])
    with whole_file(path) as partial:
        flat, metadata['layout'] = flatten(tensors.content)
        metadata[CHECKSUM] = checksum(flat, metadata)
        safetensors.save_file(flat, partial, metadata)
        order_metadata(partial)
        _verify(partial, model, half)
    tensors.report.parts['names, shapes, config'] = path.stat().st_size - tensors.report.size
    return tensors.report


@checked(max_bytes=optional(positive_int))
def pack_checkpoint(
    checkpoint: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    config: str | os.PathLike[str] | None = None,
    half: bool = False,
    trust_stored_config: bool = False,
    max_bytes: int | None = None,
) -> PackReport:
    """Pack a checkpoint file; see :func:`pack`.

    Args:
        checkpoint: Checkpoint of mmengine or of ``tools/convert_checkpoint.py``, or a
            file with a state dict.
        path: File to write.
        config: Config file of its model. Default None: the config in the checkpoint.
        half: As in :func:`pack`.
        trust_stored_config: Whether the config in the checkpoint may build any class
            that it names, which can run code. Default False: only the classes that
            :func:`load_packed` builds.
        max_bytes: Largest memory of the checkpoint's content in bytes. Default None: four
            times the file's size plus 256 MB.

    Raises:
        PackError: As :func:`pack`.
        InputError: If checkpoint or config cannot be used.
        OSError: If the file cannot be written, or is ``checkpoint`` or ``config``.
    """
    path, checkpoint = Path(path), Path(checkpoint)
    check_file(path, checkpoint, config)
    model, cfg, dataset_meta = read_network(
        checkpoint, config=config, trust_stored_config=trust_stored_config, max_bytes=max_bytes
    )
    return pack(model, path, config=cfg, dataset_meta=dataset_meta, half=half)
