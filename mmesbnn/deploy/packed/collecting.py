"""The tensors of a packed file, and the sizes of its parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ...binary.layers import BinaryLayer, binary_layers
from ...checkpoints.bits import BITS, SCALE, parts_of
from ...checkpoints.safetensors_files import DTYPES
from .file import PackError, tiled_statistics, unused_keys, why_not_settable

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


def _foreign_kind(value: Tensor) -> str:
    """Return the kind of a tensor that a packed file cannot hold; '' if it can."""
    if is_lazy(value):
        return 'without a shape yet'
    if value.is_meta:
        return 'without values, on the device meta'
    if value.layout != torch.strided:
        return f'of the layout {value.layout}'
    return '' if value.dtype in DTYPES.values() else f'of {value.dtype}'


class Tensors:
    """Collector of the tensors of a file.

    Args:
        half: Whether to round floating-point values to half precision.
    """

    def __init__(self, half: bool) -> None:
        self.half = half
        self.content: dict[str, Tensor] = {}
        self.dtypes: dict[str, torch.dtype] = {}  # of the network, before rounding
        self.report = PackReport()

    def add(self, part: str, key: str, value: Tensor) -> None:
        """Store ``value`` under ``key``, counted as ``part``."""
        kind = _foreign_kind(value)
        if kind:
            raise PackError(f'cannot pack {key}: it is a tensor {kind}')
        value = value.detach().cpu()
        if value.is_floating_point():
            if not torch.isfinite(value).all():
                raise PackError(f'cannot pack {key}: it holds NaN or infinity')
            self.dtypes[key] = value.dtype
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


def with_progress(
    layers: Mapping[str, BinaryLayer], what: str
) -> Iterable[tuple[str, BinaryLayer]]:
    """Return the items of ``layers``, with a progress bar if they are large."""
    large = sum(layer.weight.numel() for layer in layers.values()) > _LARGE
    console = Console(stderr=True)
    return track(list(layers.items()), what, console=console, disable=not large)


def dtype_of(layers: Mapping[str, BinaryLayer]) -> torch.dtype:
    """Return the dtype of the binary weights, which is that of the first layer."""
    return next(iter(layers.values())).weight.dtype


def _add_weight(tensors: Tensors, name: str, layer: BinaryLayer, dtype: torch.dtype) -> None:
    key = f'{name}.' if name else ''
    kinds = {BITS: 'bits of binary weights', SCALE: 'scales of binary weights'}
    weight = layer.effective_weight()
    parts = parts_of(weight)
    if weight.dtype != dtype:  # bits have no dtype, so scales tell it
        parts.setdefault(SCALE, weight.new_ones(len(weight)))
    for suffix, part in parts.items():
        tensors.add(kinds[suffix], f'{key}{suffix}', part)


def collect(model: nn.Module, half: bool) -> Tensors:
    """Collect all tensors of ``model`` that a packed file holds."""
    layers = binary_layers(model, every_name=True)
    if not layers:
        raise PackError(f'{type(model).__name__} has no binary layer')
    tensors, bad, dtype = Tensors(half), [], dtype_of(layers)
    for name, layer in with_progress(layers, 'packing'):
        reason = why_not_settable(layer) or layer.why_not_binary()
        if reason:
            bad.append(f'{name or type(layer).__name__}: {reason}')
        elif not bad:
            _add_weight(tensors, name, layer, dtype)
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
