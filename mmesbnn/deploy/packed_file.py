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
``layout`` in the metadata lists name, dtype and shape of each (JSON, zlib, base64). The
metadata also has ``format``, ``version`` (of mmesbnn), ``dtype`` (of the weights), and
as JSON ``config`` and ``dataset_meta``.

What is binary is asked of the layers, not told by names: those with an
``effective_weight``, which is what they multiply with.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..binary.expand_shrink import TiledBatchNorm2d
from ..errors import MmesbnnError
from ..optional import require

FORMAT = 'mmesbnn-packed-1'
#: What a binary weight is stored as.
PARTS = BITS, SCALE = 'weight.bits', 'weight.scale'
DTYPES = {
    str(dtype).removeprefix('torch.'): dtype
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16)
}
_STATISTICS = ('running_mean', 'running_var')
#: Largest layout in bytes, against files made to fill the memory.
_MAX_LAYOUT = 2**26


class PackError(MmesbnnError):
    """A network that cannot be packed or a file that cannot be unpacked; says why."""


def binary_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers of ``model`` that multiply with an effective weight, by name."""
    return {
        name: layer
        for name, layer in model.named_modules(remove_duplicate=False)
        if hasattr(layer, 'effective_weight')
    }


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


def flatten(content: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """One tensor per dtype, and the layout that tells what lies in it."""
    flat: dict[str, list[Tensor]] = {}
    layout = []
    for key, value in content.items():
        kind = str(value.dtype).removeprefix('torch.')
        flat.setdefault(kind, []).append(value.flatten())
        layout.append([key, kind, list(value.shape)])
    text = json.dumps(layout, separators=(',', ':')).encode()
    tensors = {kind: torch.cat(values) for kind, values in flat.items()}
    return tensors, base64.b64encode(zlib.compress(text, 9)).decode()


def unflatten(flat: Mapping[str, Tensor], layout: str) -> dict[str, Tensor]:
    """What :func:`flatten` was given."""
    text = zlib.decompressobj().decompress(base64.b64decode(layout), _MAX_LAYOUT)
    content, at = {}, dict.fromkeys(flat, 0)
    for key, kind, shape in json.loads(text):
        end = at[kind] + math.prod(shape)
        content[key] = flat[kind][at[kind] : end].view(shape)
        at[kind] = end
    return content


def read_packed(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a packed file."""
    safetensors = require('safetensors', 'deploy', 'Reading a packed file')
    if not path.is_file():
        raise FileNotFoundError(f'{path}: no such file')
    try:
        with safetensors.safe_open(path, 'pt') as file:
            metadata = file.metadata() or {}
            flat = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise PackError(f'{path}: damaged or no safetensors file ({error})') from error
    kind = metadata.get('format', '')
    if kind == FORMAT and metadata.get('dtype') not in DTYPES:
        raise PackError(f'{path}: dtype {metadata.get("dtype")!r} of its weights')
    if kind != FORMAT:
        later = kind.startswith(FORMAT[:-1])
        reason = f'of a later format, {kind}' if later else 'not a packed network'
        raise PackError(f'{path}: {reason}')
    try:
        return unflatten(flat, metadata['layout']), metadata
    except (ValueError, KeyError, TypeError, RuntimeError, zlib.error) as error:
        raise PackError(f'{path}: damaged, its layout does not fit ({error})') from None


def stored_weight(stored: Mapping[str, Tensor], name: str, like: Tensor) -> Tensor:
    """The effective weight of layer ``name``, of shape and dtype of ``like``."""
    key = f'{name}.' if name else ''
    signs = unpack_bits(stored[f'{key}{BITS}'], like.shape).to(like.dtype)
    scale = stored.get(f'{key}{SCALE}')
    return signs if scale is None else signs * _per_channel(scale.to(like.dtype), like)
