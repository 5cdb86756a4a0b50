"""Trained networks as small files: one bit per binary weight.

A packed file is a safetensors file. Of a binary layer ``NAME`` it holds

- ``NAME.weight.bits``, uint8: bit ``i % 8`` (least significant first) of byte
  ``i // 8`` tells whether weight ``i`` of the flattened ``(C_o, C_i / groups, ...)`` is
  positive;
- ``NAME.weight.scale``, ``(C_o,)``, the weights' magnitude per output channel; missing
  if it is 1 everywhere.

Everything else goes by its name in the state dict, except for what a trained network
does not use: temperatures, counters of batches, and all but one of the equal running
statistics of tiled copies. Hundreds of names would take up more than the statistics do,
so all tensors of a dtype lie one after the other in one tensor, named by the dtype, and
``layout`` in the metadata lists name, dtype and shape of each (JSON, zlib, base64).
``sha256`` there is a checksum of the tensors and of all other metadata. The metadata
also has ``format``, ``version`` (of mmesbnn), ``dtype`` (of the weights), and
as JSON ``config`` and ``dataset_meta``.

:func:`mmesbnn.binary.binary_layers` says which layers are binary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...binary.tiled_norm import TiledBatchNorm2d
from ...checkpoints import CheckpointError, check_finite, read_tensors
from ...errors import MmesbnnError, shorten
from .layout import check_checksum, unflatten

FORMAT = 'mmesbnn-packed-1'
#: What a binary weight is stored as.
PARTS = BITS, SCALE = 'weight.bits', 'weight.scale'
DTYPES = {
    str(dtype).removeprefix('torch.'): dtype
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16)
}
_STATISTICS = ('running_mean', 'running_var')


class PackError(MmesbnnError):
    """A network that cannot be packed or a file that cannot be unpacked; says why."""


def unused_keys(model: nn.Module, layers: Iterable[str]) -> Callable[[str], bool]:
    """Tells of a key of the state dict whether a trained network needs it not."""
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
    """Keys of running statistics of tiled norms, and how many copies they hold."""
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, TiledBatchNorm2d) and module.copies > 1:
            for statistic in _STATISTICS:
                yield f'{name}.{statistic}'.removeprefix('.'), module.copies


def pack_bits(weight: Tensor) -> Tensor:
    """One bit per entry, whether it is positive: uint8, least significant bit first."""
    positive = (weight.detach() > 0).cpu().numpy()
    return torch.from_numpy(np.packbits(positive, bitorder='little'))


def unpack_bits(bits: Tensor, shape: torch.Size) -> Tensor:
    """The signs, +1 or -1 in float32, of what :func:`pack_bits` packed.

    Raises:
        ValueError: If there are not as many bits as ``shape`` has entries.
    """
    count = shape.numel()
    if bits.numel() != -(-count // 8):
        raise ValueError(f'{bits.numel()} bytes of bits for {count} weights')
    flat = np.unpackbits(bits.cpu().numpy(), count=count, bitorder='little')
    return torch.from_numpy(flat).to(torch.float32).mul_(2).sub_(1).view(shape)


def _per_channel(scale: Tensor, weight: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (weight.dim() - 1))


def read_packed(
    path: Path, max_bytes: int | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and metadata of a packed file.

    Args:
        path: The file.
        max_bytes: How much memory its header may take up. Default None: 256 MB more
            than four times the file's size.

    Raises:
        PackError: If it is damaged or no packed file.
        OSError: If there is no such file or it may not be read.
    """
    if not path.exists():
        raise FileNotFoundError(f'{path}: no such file')
    try:
        flat, metadata = read_tensors(path, max_bytes=max_bytes)
    except CheckpointError as error:
        raise PackError(str(error)) from error
    kind = metadata.get('format', '')
    if kind != FORMAT:
        later = kind.startswith(FORMAT[:-1])
        reason = 'of a later format' if later else 'not a packed network'
        raise PackError(f'{path}: {reason} (format={shorten(repr(kind), 60)})')
    if metadata.get('dtype') not in DTYPES:
        shown = shorten(repr(metadata.get('dtype')), 60)
        raise PackError(f'{path}: dtype {shown} of its weights')
    try:
        check_checksum(flat, metadata, str(path))
        content = unflatten(flat, metadata.get('layout', ''), max_bytes)
        check_finite(content)
    except CheckpointError as error:
        raise PackError(f'{path}: {error}') from error
    return content, metadata


def stored_weight(stored: Mapping[str, Tensor], name: str, like: Tensor) -> Tensor:
    """The effective weight of layer ``name``, of shape and dtype of ``like``."""
    key = f'{name}.' if name else ''
    bits, scale = stored[f'{key}{BITS}'], stored.get(f'{key}{SCALE}')
    if bits.dtype != torch.uint8:
        raise ValueError(f'bits of {bits.dtype}, not of torch.uint8')
    signs = unpack_bits(bits, like.shape).to(like.dtype)
    if scale is not None and scale.shape != like.shape[:1]:
        raise ValueError(f'scales of shape {tuple(scale.shape)} for {len(like)}')
    if scale is not None and not scale.is_floating_point():
        raise ValueError(f'scales of {scale.dtype}')
    return signs if scale is None else signs * _per_channel(scale.to(like.dtype), like)
