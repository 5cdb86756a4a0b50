"""BNext and ES-BNext."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...binary import (
    Expansion,
    TiledBatchNorm2d,
    normalize_tiled,
    recompute_elementwise,
)
from ..layers.recoupled_conv import RecoupledConv, float_conv

ARCHS: dict[str, dict] = {
    'tiny': dict(channels=[32, 64, *[128] * 2, *[256] * 2, *[512] * 6, *[1024] * 2]),
    'small': dict(channels=[48, 96, *[192] * 2, *[384] * 2, *[768] * 6, *[1536] * 2]),
    'middle': dict(
        channels=[48, 96, *[192] * 4, *[384] * 4, *[768] * 8, *[1536] * 4]
    ),
    'large': dict(
        channels=[64, 128, *[256] * 4, *[512] * 4, *[1024] * 16, *[2048] * 4]
    ),
    '18': dict(channels=[64, 64, 128, 256, 512], depths=[2, 2, 2, 2]),
}

#: Temperature under which BNext-18's weights are their signs (T/S/M/L: 1e-7).
BINARY_BELOW_18 = 1e-5


def _is_width(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def resolve_arch(arch: str | dict) -> dict:
    """Check ``arch`` and return it as a dict with ``channels`` (and ``depths``).

    Raises:
        ValueError: If it is neither a known name nor a valid dict.
    """
    if isinstance(arch, (str, int)):
        if str(arch) not in ARCHS:
            raise ValueError(f'arch={arch!r} must be one of {list(ARCHS)} or a dict')
        return copy.deepcopy(ARCHS[str(arch)])
    if not isinstance(arch, dict) or 'channels' not in arch:
        raise ValueError(f'arch={arch!r} must be a name or a dict with `channels`')
    unknown = set(arch) - {'channels', 'depths'}
    if unknown:
        raise ValueError(f'arch has the unknown keys {sorted(unknown)}')
    channels, depths = list(arch['channels']), arch.get('depths')
    if len(channels) < 2 or not all(map(_is_width, channels)):
        raise ValueError(f'arch: channels={channels} must be two or more widths')
    if depths is None:
        for width, following in zip(channels, channels[1:]):
            if following not in (width, 2 * width):
                raise ValueError(
                    f'arch: channels={channels}: a block keeps or doubles its width, '
                    f'{width} -> {following} does neither'
                )
        return dict(channels=channels)
    depths = list(depths)
    if len(depths) != len(channels) - 1 or not all(map(_is_width, depths)):
        raise ValueError(
            f'arch: depths={depths} must be one positive number per stage of '
            f'channels={channels}'
        )
    return dict(channels=channels, depths=depths)


def block_settings(channels: Sequence[int]) -> list[list[dict]]:
    """The blocks of a BNext with these ``channels``, stage by stage.

    A block halves the resolution, and starts a stage, where the width changes; the
    first one never does. Even-numbered blocks multiply with their residual.
    """
    stages: list[list[dict]] = [[]]
    for i, (width, out) in enumerate(zip(channels, channels[1:]), start=1):
        stride = 2 if i > 1 and out not in (width, channels[1]) else 1
        if i == 2 or (stride == 2 and i > 2):
            stages.append([])
        stages[-1].append(
            dict(
                channels=width, stride=stride, elementwise=i > 1 and i % 2 == 0,
                double=out != width,
            )
        )  # fmt: skip
    return stages


class BNextBlock(nn.Module):
    """A 3x3 module followed by one 1x1 module, or two side by side to double the width.

    Args:
        channels: Input channels before expansion.
        stride: 1 or 2.
        elementwise: Whether the 3x3 module multiplies with its residual.
        double: Whether to double the width.
        **unit: Further arguments of :class:`RecoupledConv`.
    """

    def __init__(
        self, channels: int, stride: int, elementwise: bool, double: bool, **unit: Any
    ) -> None:
        super().__init__()
        self.spatial = RecoupledConv(
            channels, 3, stride, elementwise=elementwise, **unit
        )
        self.pointwise = nn.ModuleList(
            RecoupledConv(channels, 1, **unit) for _ in range(2 if double else 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block's output for ``x``, ``(N, C tau g, H, W)``."""
        x = self.spatial(x)
        outputs = [unit(x) for unit in self.pointwise]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1)


class BNext18Block(nn.Sequential):
    """Two 3x3 modules; the first changes width and resolution.

    Args:
        channels: Input channels before expansion.
        out_channels: Output channels before expansion.
        stride: 1 or 2.
        **unit: Further arguments of :class:`RecoupledConv`.
    """

    def __init__(
        self, channels: int, out_channels: int, stride: int, **unit: Any
    ) -> None:
        super().__init__(
            RecoupledConv(channels, 3, stride, out_channels, elementwise=True, **unit),
            RecoupledConv(out_channels, 3, **unit),
        )


class Stem(nn.Module):
    """Full-precision convolution, tiled to the expanded width, norm, maybe max-pool.

    Args:
        in_channels: Channels of the image.
        out_channels: Channels before expansion.
        kernel_size: Size of the kernel in pixels.
        stride: Stride of the convolution.
        max_pool: Whether a 3x3/2 max-pool follows.
        expansion: ES parameters.
        norm: Keyword arguments of :class:`TiledBatchNorm2d`.
        bits: Bits of the kernel, None for full precision. Default None.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int,
        max_pool: bool, expansion: Expansion, norm: dict, bits: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        options = {} if bits is None else {'bits': bits, 'quantize_input': False}
        self.conv = float_conv(
            in_channels, out_channels, kernel_size, stride=stride,
            padding=kernel_size // 2, bias=False, **options,
        )  # fmt: skip
        self.copies = expansion.factor
        self.norm = TiledBatchNorm2d(expansion.width(out_channels), self.copies, **norm)
        self.pool = nn.MaxPool2d(3, 2, 1) if max_pool else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Compute the expanded features of the images ``x``."""
        return self.pool(normalize_tiled(self.conv(x), self.norm, self.copies))


def _norm_options(norm_cfg: dict) -> tuple[dict, bool]:
    """Arguments of TiledBatchNorm2d, and whether its affine is trained."""
    options = dict(norm_cfg)
    kind = options.pop('type', None)
    if kind not in ('BN', 'SyncBN'):
        raise ValueError(f"norm_cfg={norm_cfg}: the type must be 'BN' or 'SyncBN'")
    trained = options.pop('requires_grad', True)
    return {**options, 'sync': kind == 'SyncBN'}, trained


@MODELS.register_module()
class BNext(BaseModule):
    """BNext, and with ``tau > 1`` or ``groups > 1`` ES-BNext.

    Stem, blocks of :class:`RecoupledConv`, and a PReLU on the last output. All features
    between are ``C tau g`` channels wide; binary multiplications and weight bits are
    those of ``tau = groups = 1``.

    Args:
        arch: ``'tiny'``, ``'small'``, ``'middle'``, ``'large'``, ``'18'``, or a dict:
            ``channels``, the stem's width and then every block's; with ``depths`` as
            well (blocks per stage, one width per stage) the layout of BNext-18.
            Default ``'tiny'``.
        tau: ES factor. Default 1, the baseline.
        groups: ES groups. Default 1.
        es_mode: ``'shrunk'``: squeeze-excite and projections follow the ES arithmetic,
            at the cost of ``tau = 1`` (published as ``bnext_rep_ops``); ``'full'``:
            they have the expanded width (``bnext_rep``). Default ``'shrunk'``.
        out_copies: ``'first'``: an output is the first ``C`` channels, as published for
            ``'shrunk'``; ``'all'``: all ``C tau g``. Default: ``'first'`` if
            ``es_mode='shrunk'`` else ``'all'``.
        in_channels: Channels of the image. Default 3.
        stem_stride: Total stride of the stem. 2 (ImageNet) or 1 (32x32 images); 4 (7x7
            convolution and max-pool) or 1 for the layout of BNext-18. Default: the
            ImageNet one.
        se_ratio: Reduction of squeeze-excite. Default 8.
        stem_bits: Bits of the stem's kernel (8 in the quantised variant), None for full
            precision. Default None.
        se_bits: Bits of squeeze-excite, likewise. Default None.
        sign_zero: What sign(0) is: -1, or 0 as in the published code. Default -1.
        latent_clip: Bound of the latent weights' magnitude, applied by
            ``ParameterBoundsHook``. Default 1.5.
        out_indices: Stages whose output is returned. T/S/M/L have five, with strides 2,
            4, 8, 16, 32 on ImageNet; 18 has four. Default: the last.
        frozen_stages: Stem and this many stages are frozen; 0 freezes the stem, -1
            nothing. Default -1.
        norm_cfg: ``dict(type='BN')`` or ``dict(type='SyncBN')``, with ``eps``,
            ``momentum``, ``requires_grad``. ``SyncBN`` shares statistics among
            processes, on CPUs too. Default ``dict(type='BN')``.
        norm_eval: Whether norms stay in eval mode while training. Default False.
        with_cp: Whether to save only the convolutions' outputs for the backward pass
            and recompute the rest. Default False.
        final_act: Whether the last stage's output passes the PReLU that the published
            head begins with. Default True.
        init_cfg: mmengine initialisation config. Default None: binary weights
            N(0, 0.001^2), the rest as torch does.

    Raises:
        ValueError: If an argument is not one of the allowed values or ``tau`` or
            ``groups`` do not divide a width; at construction.

    Shape:
        ``(N, in_channels, H, W)`` to a tuple of ``(N, C, H', W')``.

    Source: Guo et al., "BNext", arXiv 2211.12933; Shi et al., "Expanding-and-Shrinking
    Binary Neural Networks", arXiv 2503.23709.
    """

    def __init__(
        self, arch: str | dict = 'tiny', tau: int = 1, groups: int = 1,
        es_mode: str = 'shrunk', out_copies: str | None = None, in_channels: int = 3,
        stem_stride: int | None = None, se_ratio: int = 8,
        stem_bits: int | None = None, se_bits: int | None = None, sign_zero: int = -1,
        latent_clip: float = 1.5, out_indices: Sequence[int] = (-1,),
        frozen_stages: int = -1, norm_cfg: dict | None = None,
        norm_eval: bool = False, with_cp: bool = False, final_act: bool = True,
        init_cfg: dict | list | None = None,
    ) -> None:  # fmt: skip
        super().__init__(init_cfg)
        if es_mode not in ('shrunk', 'full'):
            raise ValueError(f"es_mode={es_mode!r} must be 'shrunk' or 'full'")
        if out_copies is None:
            out_copies = 'first' if es_mode == 'shrunk' else 'all'
        if out_copies not in ('first', 'all'):
            raise ValueError(f"out_copies={out_copies!r} must be 'first' or 'all'")
        self.arch = resolve_arch(arch)
        self.expansion = Expansion(tau, groups)
        self.out_copies = out_copies
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        norm, self._norm_trained = _norm_options(norm_cfg or dict(type='BN'))

        is_18 = 'depths' in self.arch
        unit = dict(
            expansion=self.expansion, shrink=es_mode == 'shrunk', se_ratio=se_ratio,
            se_bits=se_bits, norm=norm,
            conv=dict(
                sign=dict(type='hard_tanh', clip=1.5, zero=sign_zero),
                weight_binarizer=dict(type='temperature', zero=sign_zero),
                latent_clip=latent_clip,
            ),
        )  # fmt: skip
        self.stem = self._make_stem(in_channels, stem_stride, is_18, norm, stem_bits)
        self.stages = (self._make_18 if is_18 else self._make_stages)(unit)
        self.stage_channels = self._stage_channels()
        self.out_indices = self._resolve_indices(out_indices)
        self._check_frozen(frozen_stages)
        self.frozen_stages = frozen_stages
        last = len(self.stages) - 1
        self.act = None
        if final_act and last in self.out_indices:
            self.act = nn.PReLU(self.out_channels[-1])
        self._freeze()

    def _make_stem(
        self, in_channels: int, stride: int | None, is_18: bool, norm: dict,
        bits: int | None,
    ) -> Stem:  # fmt: skip
        allowed = (4, 1) if is_18 else (2, 1)
        stride = allowed[0] if stride is None else stride
        if stride not in allowed:
            raise ValueError(f'stem_stride={stride} must be one of {allowed}')
        large = is_18 and stride == 4
        return Stem(
            in_channels, self.arch['channels'][0], 7 if large else 3, min(stride, 2),
            large, self.expansion, norm, bits,
        )  # fmt: skip

    def _make_stages(self, unit: dict) -> nn.ModuleList:
        return nn.ModuleList(
            nn.Sequential(*(BNextBlock(**setting, **unit) for setting in stage))
            for stage in block_settings(self.arch['channels'])
        )

    def _make_18(self, unit: dict) -> nn.ModuleList:
        conv = copy.deepcopy(unit['conv'])
        conv['weight_binarizer']['binary_below'] = BINARY_BELOW_18
        unit = dict(unit, mix_residual=True, conv=conv)
        channels, stages = self.arch['channels'], nn.ModuleList()
        for i, depth in enumerate(self.arch['depths']):
            width, out = channels[i : i + 2]
            blocks = [BNext18Block(width, out, 2 if i else 1, **unit)]
            blocks += [BNext18Block(out, out, 1, **unit) for _ in range(1, depth)]
            stages.append(nn.Sequential(*blocks))
        return stages

    def _stage_channels(self) -> list[int]:
        """Width of every stage's output, before expansion."""
        channels = self.arch['channels']
        if 'depths' in self.arch:
            return channels[1:]
        ends = torch.tensor([len(stage) for stage in self.stages]).cumsum(0)
        return [channels[end] for end in ends.tolist()]

    def _resolve_indices(self, indices: Sequence[int]) -> tuple[int, ...]:
        count = len(self.stages)
        wanted = [indices] if isinstance(indices, int) else list(indices)
        if not wanted or any(not -count <= i < count for i in wanted):
            raise ValueError(f'out_indices={indices}: this arch has {count} stages')
        return tuple(sorted(i % count for i in wanted))

    def _check_frozen(self, frozen_stages: int) -> None:
        if not -1 <= frozen_stages <= len(self.stages):
            raise ValueError(
                f'frozen_stages={frozen_stages} must be -1 to {len(self.stages)}'
            )

    @property
    def out_channels(self) -> list[int]:
        """Channels of the returned maps."""
        factor = self.expansion.factor if self.out_copies == 'all' else 1
        return [self.stage_channels[i] * factor for i in self.out_indices]

    def _select(self, x: Tensor, stage: int) -> Tensor:
        if self.out_copies == 'all' or self.expansion.factor == 1:
            return x
        return x[:, : self.stage_channels[stage]]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the maps of ``out_indices`` for the images ``x``."""
        x = self.stem(x)
        outputs = []
        for i, stage in enumerate(self.stages):
            for block in stage:
                if self.with_cp and x.requires_grad:
                    x = recompute_elementwise(block, x)
                else:
                    x = block(x)
            if i in self.out_indices:
                out = self._select(x, i)
                last = self.act is not None and i == len(self.stages) - 1
                outputs.append(self.act(out) if last else out)
        return tuple(outputs)

    def _norms(self) -> list[_BatchNorm]:
        return [m for m in self.modules() if isinstance(m, _BatchNorm)]

    def _freeze(self) -> None:
        if not self._norm_trained:
            for norm in self._norms():
                norm.requires_grad_(False)
        if self.frozen_stages < 0:
            return
        for part in (self.stem, *self.stages[: self.frozen_stages]):
            part.requires_grad_(False)

    def train(self, mode: bool = True) -> BNext:
        """Set the mode; frozen stages, and norms with ``norm_eval``, stay in eval."""
        super().train(mode)
        if mode and self.frozen_stages >= 0:
            for part in (self.stem, *self.stages[: self.frozen_stages]):
                part.eval()
        if mode and self.norm_eval:
            for norm in self._norms():
                norm.eval()
        return self
