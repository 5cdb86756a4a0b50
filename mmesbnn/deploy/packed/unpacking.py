"""Loading of a network from a packed file."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS
from torch import Tensor, nn

from ...binary.arguments import MODULE
from ...binary.entries import own_entries_only
from ...binary.expansion import tile
from ...binary.layers import binary_layers
from ...binary.replaced import Replaced, replace_again
from ...binary.weights import FixedWeight
from ...checkpoints import lacks_memory, misfits, why_not_filled, with_versions
from ...checkpoints.bits import BITS, PARTS, SCALE
from ...checkpoints.bounded import bounded_build, size_of
from ...checks import check, checked, each, mapping, optional, positive_int, sequence
from ...errors import sentence
from ...plain_values import ConfigError
from ...project import dataset_meta, deployed_config, scope_of
from . import checked_config, stored_config
from .file import (
    DTYPES,
    DTYPES_ENTRY,
    PackError,
    read_packed,
    stored_weight,
    tiled_statistics,
    unused_keys,
    why_not_settable,
)

#: End of the key of a layer's scales, after the key of its weight.
_SCALE = SCALE.removeprefix('weight')
_PARTS = each(mapping(['parts']), parts=sequence(mapping()))


def _fix(model: nn.Module, stored: dict[str, Tensor], path: Path) -> None:
    """Give binary layers their effective weights, which are not trained."""
    for name, layer in binary_layers(model, every_name=True).items():
        reason = why_not_settable(layer)
        if reason:
            raise PackError(f'cannot load into {name}: {reason}')
        try:
            weight = stored_weight(stored, name, layer.weight)
        except KeyError:
            raise PackError(f'{path} has no bits for the layer {name}') from None
        except (ValueError, RuntimeError) as error:
            if lacks_memory(error):
                raise MemoryError(f'{path}: not enough memory to load it') from error
            raise PackError(f'{path}: {name} does not fit the network: {error}') from None
        layer.weight_binarizer = FixedWeight()
        layer.weight = nn.Parameter(weight.to(layer.weight.device), requires_grad=False)


def _set_dtypes(model: nn.Module, stored: Mapping[str, Tensor]) -> None:
    """Give parameters and buffers the dtypes of the stored tensors."""
    parameters = model.named_parameters(remove_duplicate=False)
    for key, value in itertools.chain(parameters, model.named_buffers(remove_duplicate=False)):
        found = stored.get(key, stored.get(f'{key}{_SCALE}'))
        if found is not None and found.is_floating_point() and value.is_floating_point():
            value.data = value.data.to(found.dtype)


def _fill(model: nn.Module, stored: dict[str, Tensor], path: Path) -> None:
    """Load all entries except binary weights."""
    layers = binary_layers(model, every_name=True)
    unused = unused_keys(model, layers)
    weights = {f'{name}.{key}'.removeprefix('.') for name in layers for key in PARTS}
    state = {key: value for key, value in stored.items() if key not in weights}
    own = model.state_dict()
    for key, copies in tiled_statistics(model):
        if key in state and state[key].numel() * copies == own[key].numel():
            state[key] = tile(state[key], copies, 0)
    used = {k: v for k, v in own.items() if k in state or not unused(k)}
    found = misfits(state, used)
    if found:
        raise PackError(f'{path} is not of this network: of its entries {", ".join(found)}')
    model.load_state_dict(with_versions(state, own), strict=False)


@checked(model=optional(MODULE), max_bytes=optional(positive_int))
def load_packed(
    path: str | os.PathLike[str],
    model: nn.Module | None = None,
    *,
    trust_stored_config: bool = False,
    max_bytes: int | None = None,
) -> nn.Module:
    """Load a packed file.

    The network gives the outputs of the packed network, bit for bit unless the file was
    written with ``half``. Its binary layers hold effective weights (``FixedWeight``), which
    are not trained. To train further, use the checkpoint.

    The file may come from an unknown source. Its config is read as data. It can build only
    the components that ``mmesbnn/deploy/packed/stored_components.py`` lists: those of this
    package and plain ones of OpenMMLab. For other components, for example your own, pass
    the model or trust the file.

    Args:
        path: File of :func:`pack`.
        model: Network to load into, for files without a config. Layers that
            :func:`mmesbnn.binarize` replaced in the packed network are replaced in it, if
            they are not binary yet. Default None: the network is built from the config in
            the file.
        trust_stored_config: Whether that config may build any class that it names, which
            can run code. First import the modules that register your classes
            (``custom_imports``). Default False.
        max_bytes: Largest memory of the file's header in bytes. Default None: four times
            the file's size plus 256 MB. The network that the file describes may take as
            much, or four times its weights plus 256 MB.

    Returns:
        Network in eval mode. If the file has a config, the network has ``_config`` and
        ``_dataset_meta``, which mmpretrain's inferencers need. Unless the file is trusted,
        ``_config`` does not hold the place of the test data.

    Raises:
        PackError: If the file is damaged, is not a packed file or belongs to another
            network, or if the network cannot be built.
        OSError: If the file does not exist.
        ImportError: If a required package is missing.
    """
    path = Path(path)
    stored, metadata = read_packed(path, max_bytes)
    return unpack(
        stored, metadata, path, model, trust_stored_config=trust_stored_config, max_bytes=max_bytes
    )


def unpack(
    stored: dict[str, Tensor],
    metadata: Mapping[str, str],
    path: Path,
    model: nn.Module | None = None,
    *,
    trust_stored_config: bool = False,
    max_bytes: int | None = None,
) -> nn.Module:
    """Build the network of a packed file that was read; see :func:`load_packed`.

    Args:
        stored: Tensors of the file.
        metadata: Metadata of the file, with the config to build.
        path: Name of the file in errors.
        model: As in :func:`load_packed`.
        trust_stored_config: As in :func:`load_packed`.
        max_bytes: As in :func:`load_packed`.
    """
    by_size = bounded_build(_unpacked_size(stored), max_bytes)
    by_size = contextlib.nullcontext() if trust_stored_config else by_size
    with by_size:
        if model is None:
            model = _build(metadata, path, trust_stored_config)
        with contextlib.nullcontext() if trust_stored_config else own_entries_only():
            _binarize(model, metadata, path)
    if not binary_layers(model, every_name=True):
        raise PackError(
            f'{path}: its network, {type(model).__name__}, has no binary layer: if '
            'mmesbnn.binarize made it binary, pass one that it made binary as model='
        )
    return fill(model, stored, metadata, path)


def fill(
    model: nn.Module, stored: dict[str, Tensor], metadata: Mapping[str, str], path: Path
) -> nn.Module:
    """Load the tensors of a packed file into a network with the same layers.

    Args:
        model: Network to load into.
        stored: Tensors of the file.
        metadata: Metadata of the file.
        path: Name of the file in errors.

    Returns:
        ``model`` in eval mode.

    Raises:
        PackError: If tensors and network do not fit, or the network cannot take values.
    """
    reason = why_not_filled(model)
    if reason:
        raise PackError(f'{path} cannot be loaded into {type(model).__name__}: {reason}')
    nn.Module.to(model, DTYPES[metadata['dtype']])  # that of diffusers refuses quantized models
    if DTYPES_ENTRY in metadata:
        _set_dtypes(model, stored)
    _fix(model, stored, path)
    _fill(model, stored, path)
    model.eval()  # it returns None in many backbones of OpenMMLab
    return model


def _stored(
    metadata: Mapping[str, str], path: Path, trust: bool
) -> tuple[dict[str, Any], Mapping[str, Any] | None]:
    """Return the config in a file, checked unless trusted, and the data set's meta data."""
    if 'config' not in metadata:
        raise PackError(f'{path} holds no config: pass the model to load into')
    try:
        config = stored_config.from_json(metadata['config'])
        text = metadata.get('dataset_meta')
        meta = None if text is None else stored_config.from_json(text)
        config = config if trust else checked_config.checked(config)
    except ConfigError as error:
        raise PackError(f'{path}: {error}') from error
    if not isinstance(config.get('model'), Mapping):
        raise PackError(f'{path}: the stored config has no model')
    return config, meta


def _unpacked_size(stored: Mapping[str, Tensor]) -> int:
    """Return the bytes of a network's weights: a byte of bits becomes eight floats."""
    bits = size_of(v for k, v in stored.items() if k.endswith(BITS))
    return 32 * bits + size_of(stored.values())


def _binarize(model: nn.Module, metadata: Mapping[str, str], path: Path) -> None:
    """Replace the layers that were replaced in the packed network."""
    try:
        stored = stored_config.from_json(metadata.get('binarized', '{"parts":[]}'))
        check('binarized', stored, _PARTS)
        for part in stored['parts']:
            replace_again(model, Replaced.from_dict(part))
    except ValueError as error:
        raise PackError(f'{path}: its binary layers: {sentence(error)}') from error


def _build(metadata: Mapping[str, str], path: Path, trust: bool) -> nn.Module:
    """Build the network that a file's config describes."""
    config, meta = _stored(metadata, path, trust)
    by_name = contextlib.nullcontext() if trust else checked_config.names_only()
    with scope_of(config), by_name:
        try:
            model = MODELS.build(deployed_config(Config(config)))
        except Exception as error:
            reason = sentence(error)
            raise PackError(f'{path}: cannot build the network: {reason}') from error
    model._config = Config(config)  # building removes entries from the config it gets
    model._dataset_meta = meta if meta is not None else dataset_meta(config)
    return model
