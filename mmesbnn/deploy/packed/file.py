"""Format of packed files: trained networks with one bit per binary weight.

A packed file is a safetensors file. For a binary layer ``NAME`` it holds

- ``NAME.weight.bits``, uint8: bit ``i % 8`` (least significant first) of byte ``i // 8``
  is 1 if weight ``i`` of the flattened ``(C_o, C_i / groups, ...)`` is positive;
- ``NAME.weight.scale``, ``(C_o,)``, the magnitude of the weights per output channel. It
  is missing if all magnitudes are 1.

All other tensors have their name of the state dict. Tensors that a trained network does
not use are left out: temperatures, counters of batches, and all but one of the equal
running statistics of tiled copies. Hundreds of names would take more bytes than the
statistics. All tensors of a dtype are therefore joined to one tensor, whose name is the
dtype. ``layout`` in the metadata lists name, dtype and shape of each (JSON, zlib, base64).
``sha256`` in the metadata is a checksum of the tensors and of all other metadata. The
metadata also have ``format``, ``version`` (of mmesbnn), ``dtype`` (of the weights),
``dtypes`` (JSON, the names and dtypes of tensors that had another one in the network), and
as JSON ``config``, ``dataset_meta`` and ``binarized``. The last one is ``{'parts': [...]}``
with the module, the names and the options of the layers that ``binarize`` replaced.

The binary layers are those of :func:`mmesbnn.binary.binary_layers`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...binary.computed import MAKE_PARAMETER
from ...binary.layers import BinaryLayer
from ...binary.tiled_norm import TiledBatchNorm2d
from ...checkpoints import CheckpointError, check_finite, read_tensors
from ...checkpoints.bits import BITS, PACKED, SCALE, unpack_bits
from ...errors import MmesbnnError, shorten
from ...plain_values import ConfigError, parse_json
from .layout import check_checksum, unflatten

FORMAT = f'{PACKED}1'
DTYPES = {
    str(dtype).removeprefix('torch.'): dtype
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16)
}
#: Name of the dtypes of single tensors in the metadata.
DTYPES_ENTRY = 'dtypes'
_STATISTICS = ('running_mean', 'running_var')


class PackError(MmesbnnError):
    """Error about a network that cannot be packed, or a file that cannot be unpacked."""


def why_not_settable(layer: BinaryLayer) -> str | None:
    """Return a sentence that says why the weight of ``layer`` cannot be set, else None."""
    if layer._parameters.get('weight') is not None:
        return None
    return (
        'its weight is computed from other tensors, by a parametrization, a weight norm or '
        f'pruning: {MAKE_PARAMETER}'
    )


def unused_keys(model: nn.Module, layers: Iterable[str]) -> Callable[[str], bool]:
    """Return a predicate: True for keys of the state dict that inference does not need."""
    names = {f'{layer}.weight'.removeprefix('.') for layer in layers}
    prefixes = tuple(f'{layer}.weight_binarizer.'.removeprefix('.') for layer in layers)
    counters = {
        f'{name}.num_batches_tracked'.removeprefix('.')
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, _BatchNorm)
    }

    def unused(key: str) -> bool:
        return key in names or key in counters or key.startswith(prefixes)

    return unused


def tiled_statistics(model: nn.Module) -> Iterator[tuple[str, int]]:
    """Yield the keys of running statistics of tiled norms, and their numbers of copies."""
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, TiledBatchNorm2d) and module.copies > 1:
            for statistic in _STATISTICS:
                yield f'{name}.{statistic}'.removeprefix('.'), module.copies


def _per_channel(scale: Tensor, weight: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (weight.dim() - 1))


def read_packed(
    path: Path, max_bytes: int | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and metadata of a packed file.

    Args:
        path: Packed file.
        max_bytes: Largest memory of its header in bytes. Default None: four times the
            file's size plus 256 MB.

    Raises:
        PackError: If the file is damaged or is not a packed file.
        OSError: If the file does not exist or cannot be read.
    """
    if not path.exists():
        raise FileNotFoundError(f'{path}: no such file')
    try:
        flat, metadata = read_tensors(path, max_bytes=max_bytes)
    except CheckpointError as error:
        raise PackError(str(error)) from error
    kind = metadata.get('format', '')
    if kind != FORMAT:
        later = kind.startswith(PACKED)
        reason = 'of a later format' if later else 'not a packed network'
        raise PackError(f'{path}: {reason} (format={shorten(repr(kind), 60)})')
    if metadata.get('dtype') not in DTYPES:
        shown = shorten(repr(metadata.get('dtype')), 60)
        raise PackError(f'{path}: dtype {shown} of its weights')
    try:
        check_checksum(flat, metadata, str(path))
        content = unflatten(flat, metadata.get('layout', ''), max_bytes)
        content = _in_own_dtypes(content, metadata)
        check_finite(content)
    except (CheckpointError, ConfigError) as error:
        raise PackError(f'{path}: {error}') from error
    return content, metadata


def _in_own_dtypes(content: dict[str, Tensor], metadata: Mapping[str, str]) -> dict[str, Tensor]:
    """Return floating-point tensors in the dtypes of a network with several of them."""
    if DTYPES_ENTRY not in metadata:
        return content
    others = parse_json(metadata[DTYPES_ENTRY], 'its entry dtypes')
    if not all(isinstance(kind, str) and kind in DTYPES for kind in others.values()):
        raise CheckpointError('its entry dtypes holds an unknown dtype')
    return {
        key: value.to(DTYPES[others.get(key, metadata['dtype'])])
        if value.is_floating_point()
        else value
        for key, value in content.items()
    }


def order_metadata(path: Path) -> None:
    """Sort the metadata of a safetensors file, so that equal networks are equal files.

    The library writes them in an order that differs from one time to the next.

    Args:
        path: The file, which is changed in its place.
    """
    with path.open('r+b') as file:
        length = int.from_bytes(file.read(8), 'little')
        header = json.loads(file.read(length))
        header['__metadata__'] = dict(sorted(header['__metadata__'].items()))
        ordered = json.dumps(header, separators=(',', ':'), ensure_ascii=False).encode()
        assert len(ordered) <= length  # both are JSON in its shortest form
        file.seek(8)
        file.write(ordered.ljust(length))


def stored_weight(stored: Mapping[str, Tensor], name: str, like: Tensor) -> Tensor:
    """Return the effective weight of layer ``name``, with shape and dtype of ``like``."""
    key = f'{name}.' if name else ''
    bits, scale = stored[f'{key}{BITS}'], stored.get(f'{key}{SCALE}')
    signs = unpack_bits(bits, like.shape).to(like.dtype)
    if scale is not None and scale.shape != like.shape[:1]:
        raise ValueError(f'scales of shape {tuple(scale.shape)} for {len(like)}')
    if scale is not None and not scale.is_floating_point():
        raise ValueError(f'scales of {scale.dtype}')
    return signs if scale is None else signs * _per_channel(scale.to(like.dtype), like)
