"""Writing trained networks as packed files, see ``file.py``."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from ...binary.arguments import MODULE
from ...binary.layers import BinaryLayer, binary_layers
from ...binary.replaced import replaced_in
from ...checkpoints import CheckpointError, state_dict_of
from ...checkpoints.bits import BITS, SCALE, parts_of
from ...checkpoints.bounded import bounded_build, size_of
from ...checks import Rule, checked, mapping, optional, positive_int
from ...old_forms import current_config
from ...optional import require
from ...plain_values import ConfigError, check_plain
from ...project import (
    InputError,
    build_model,
    deployed_config,
    load_config,
    load_state,
    read_checkpoint,
    scope_of,
)
from ...version import __version__
from ...whole_files import check_file, whole_file
from . import checked_config, stored_config
from .file import (
    FORMAT,
    PackError,
    order_metadata,
    read_packed,
    stored_weight,
    tiled_statistics,
    unused_keys,
)
from .layout import CHECKSUM, checksum, flatten

#: Number of binary weights above which packing shows a progress bar.
_LARGE = 5e7
#: Smallest normal and largest half-precision number.
_HALF_MIN, _HALF_MAX = 2.0**-14, 65504.0


@dataclass
class PackReport:
    """Sizes of the parts of a packed file.

    Attributes:
        parts: Bytes by part; their sum is the size of the file.
        full_size: Bytes of the network's state dict.
        kept_full: With ``half``, tensors that kept full precision, because half precision
            cannot hold their values.
        rounding: Largest relative rounding error of a stored value of normal size.
    """

    parts: dict[str, int] = field(default_factory=dict)
    full_size: int = 0
    kept_full: list[str] = field(default_factory=list)
    rounding: float = 0.0

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return sum(self.parts.values())

    def table(self) -> str:
        """Return the report as text."""
        rows = [*self.parts.items(), ('whole file', self.size)]
        lines = [f'{name:<28}{size / 1e6:>9.3f} MB' for name, size in rows]
        lines.append(
            f'{self.full_size / self.size:.1f} times smaller than the '
            f'{self.full_size / 1e6:.1f} MB of the state dict'
        )
        if self.rounding:
            lines.append(f'rounded to half precision, by {self.rounding:.2g} of a value at most')
        else:
            lines.append('nothing is rounded')
        if self.kept_full:
            lines.append(f'kept at full precision: {", ".join(self.kept_full)}')
        return '\n'.join(lines)


def _one_copy(value: Tensor, copies: int) -> Tensor:
    """Return the first copy of ``value`` if all copies are equal, else all of them."""
    rows = value.view(copies, -1)
    return rows[0] if torch.equal(rows, rows[:1].expand_as(rows)) else value


def _fits_half(key: str, value: Tensor) -> bool:
    """Return True if half precision can hold ``value``.

    Variances and scales must also not be subnormal, because they are factors.
    """
    size = value.abs()
    if size.numel() and size.max() > _HALF_MAX:
        return False
    is_factor = key.endswith(('running_var', SCALE))
    return not (is_factor and ((size > 0) & (size < _HALF_MIN)).any())


def _rounding(value: Tensor, rounded: Tensor) -> float:
    normal = value.abs() >= _HALF_MIN
    if not normal.any():
        return 0.0
    exact, near = value[normal].double(), rounded[normal].double()
    return ((near - exact).abs() / exact.abs()).max().item()


class _Tensors:
    """Collector of the tensors of a file.

    Args:
        half: Whether to round floating-point values to half precision.
    """

    def __init__(self, half: bool) -> None:
        self.half = half
        self.content: dict[str, Tensor] = {}
        self.report = PackReport()

    def add(self, part: str, key: str, value: Tensor) -> None:
        """Store ``value`` under ``key``, counted as ``part``."""
        value = value.detach().cpu()
        if value.is_floating_point():
            if not torch.isfinite(value).all():
                raise PackError(f'cannot pack {key}: it holds NaN or infinity')
            if self.half:
                value = self._halved(key, value)
        self.content[key] = value
        size = value.numel() * value.element_size()
        self.report.parts[part] = self.report.parts.get(part, 0) + size

    def _halved(self, key: str, value: Tensor) -> Tensor:
        if not _fits_half(key, value):
            self.report.kept_full.append(key)
            return value
        rounded = value.half()
        error = _rounding(value, rounded)
        self.report.rounding = max(self.report.rounding, error)
        return rounded


def _progress(layers: Mapping[str, BinaryLayer], what: str) -> Iterable[tuple[str, BinaryLayer]]:
    """Return the items of ``layers``, with a progress bar if they are large."""
    large = sum(layer.weight.numel() for layer in layers.values()) > _LARGE
    console = Console(stderr=True)
    return track(list(layers.items()), what, console=console, disable=not large)


def _add_weight(tensors: _Tensors, name: str, layer: BinaryLayer) -> None:
    key = f'{name}.' if name else ''
    kinds = {BITS: 'bits of binary weights', SCALE: 'scales of binary weights'}
    for suffix, part in parts_of(layer.effective_weight()).items():
        tensors.add(kinds[suffix], f'{key}{suffix}', part)


def _collect(model: nn.Module, half: bool) -> _Tensors:
    """Collect all tensors of ``model`` that a packed file holds."""
    layers = binary_layers(model, every_name=True)
    if not layers:
        raise PackError(f'{type(model).__name__} has no binary layer')
    tensors, bad = _Tensors(half), []
    for name, layer in _progress(layers, 'packing'):
        reason = layer.why_not_binary()
        if reason:
            bad.append(f'{name or type(layer).__name__}: {reason}')
        elif not bad:
            _add_weight(tensors, name, layer)
    if bad:
        more = f' (and {len(bad) - 1} more layers)' if len(bad) > 1 else ''
        raise PackError(f'cannot pack {bad[0]}{more}')
    unused, tiled = unused_keys(model, layers), dict(tiled_statistics(model))
    parameters = dict(model.named_parameters(remove_duplicate=False))
    state = model.state_dict()
    for key, value in state.items():
        if not isinstance(value, Tensor):
            raise PackError(f'cannot pack {key}: it is a {type(value).__name__}')
        if unused(key):
            continue
        part = 'other parameters' if key in parameters else 'statistics and buffers'
        copies = tiled.get(key, 1)
        tensors.add(part, key, _one_copy(value, copies) if copies > 1 else value)
    values = state.values()
    tensors.report.full_size = sum(v.numel() * v.element_size() for v in values)
    return tensors


def _dtype(model: nn.Module) -> torch.dtype:
    """Return the dtype of the binary weights."""
    return next(iter(binary_layers(model, every_name=True).values())).weight.dtype


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
        'dtype': str(_dtype(model)).removeprefix('torch.'),
    }
    if config is not None:
        config = Config(dict(config))
        kept = {**config.to_dict(), 'model': Config(deployed_config(config)).to_dict()}
        content['config'] = stored_config.to_json(stored_config.kept_part(kept))
        if stored_config.to_json(_known_meta(config)) == stored_config.to_json(meta):
            meta = {}
    if meta:
        content['dataset_meta'] = stored_config.to_json(meta)
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


def _known_meta(config: Config) -> Mapping[str, Any]:
    """Return the meta data that :func:`load_packed` gets from the config itself."""
    try:
        return checked_config.class_names(config)
    except ConfigError:
        return {}


def _verify(path: Path, model: nn.Module, half: bool) -> None:
    """Compare the written file with the model, weight by weight."""
    stored, _ = read_packed(path)
    for name, layer in _progress(binary_layers(model, every_name=True), 'checking'):
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
            None: the model's own meta data, if it has any.
        half: Whether to store everything except the bits in half precision. It rounds
            parameters, scales and statistics by at most 2^-11 of their value, or by at
            most 2^-25 if they are below 2^-14. Tensors with values beyond 65504, and
            variances and scales below 2^-14, keep full precision. Default False: nothing
            is rounded.

    Returns:
        Report of the sizes of the file's parts.

    Raises:
        PackError: If a layer is not binary (yet) or not finite; the message names it.
        OSError: If the file cannot be written.
    """
    path = Path(path)
    check_file(path)
    safetensors = require('safetensors.torch', 'deploy', 'Packing')
    tensors = _collect(model, half)
    try:
        metadata = _metadata(model, config, dataset_meta)
    except ConfigError as error:
        raise PackError(str(error)) from error
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


def read_network(
    checkpoint: str | os.PathLike[str],
    *,
    config: str | os.PathLike[str] | None = None,
    trust_stored_config: bool = False,
    max_bytes: int | None = None,
) -> tuple[nn.Module, Config, dict[str, Any]]:
    """Build the network of a checkpoint, with its weights.

    Arguments are those of :func:`pack_checkpoint`.

    Returns:
        Network in eval mode, its config, and the meta data of the data set.

    Raises:
        InputError: If checkpoint or config cannot be used.
    """
    checkpoint = Path(checkpoint)
    content = read_checkpoint(checkpoint, max_bytes)
    meta = content.get('meta') if isinstance(content, Mapping) else None
    meta = meta if isinstance(meta, Mapping) else {}
    own = config is None and not trust_stored_config
    by_name = checked_config.names_only() if own else contextlib.nullcontext()
    by_size = _by_size(content, max_bytes) if own else contextlib.nullcontext()
    if config is None:
        cfg = _config_of(meta, checkpoint, trust_stored_config)
    else:
        cfg = load_config(Path(config))
    try:
        with scope_of(cfg), by_name, by_size:
            model = build_model(cfg)
    except InputError as error:
        raise InputError(f'{checkpoint if config is None else config}: {error}') from error
    load_state(model, content, checkpoint)
    return model.eval(), cfg, _plain_meta(meta.get('dataset_meta'))


def _by_size(content: Any, max_bytes: int | None) -> contextlib.AbstractContextManager[Any]:
    """Return a context that limits the size of a network by the weights in a checkpoint."""
    try:
        weights = size_of(state_dict_of(content).values())
    except CheckpointError:
        weights = 0  # there are no weights; load_state() raises the error
    return bounded_build(weights, max_bytes)


def _plain_meta(meta: Any) -> dict[str, Any]:
    """Return the meta data of a data set that JSON can hold, mainly the classes."""
    plain = {}
    for key, value in meta.items() if isinstance(meta, Mapping) else ():
        try:
            stored_config.to_json({key: value})
        except ConfigError:
            continue
        plain[key] = value
    return plain


def _config_of(meta: Mapping[str, Any], checkpoint: Any, trust: bool) -> Config:
    """Return the config in a checkpoint; it is checked unless it is trusted."""
    try:
        config = _stored_in(meta)
    except ConfigError as error:
        raise InputError(f'{checkpoint}: {error}; name the config') from error
    if not isinstance(config.get('model'), dict):
        raise InputError(f'{checkpoint} holds no config: name the config')
    try:
        config = config if trust else checked_config.checked(config)
    except ConfigError as error:
        raise InputError(f'{checkpoint}: {error}') from error
    return Config({key: config[key] for key in stored_config.KEPT if key in config})


def _stored_in(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config in the meta data of a checkpoint, {} if there is none."""
    if isinstance(meta.get('cfg'), str):
        return stored_config.parse_text(meta['cfg'])
    if isinstance(meta.get('model'), Mapping):  # of tools/convert_checkpoint.py
        config = {'model': dict(meta['model']), 'default_scope': 'mmpretrain'}
        check_plain(config, 'the stored config')
        return current_config(config)
    return {}
