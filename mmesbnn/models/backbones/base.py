"""What every binary convolutional backbone of this package shares."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...binary import Expansion, recompute_elementwise
from ...binary.arguments import NORM_CFG, RULES
from ...binary.expand_shrink import like_layout
from ...binary.inputs import check_maps
from ...checks import (
    check,
    checked,
    either,
    filled_text,
    integer,
    mapping,
    one_of,
    positive_int,
    sequence,
    shown,
)

#: Rules of the arguments that backbones have in common, by their name.
BACKBONE_RULES = dict(
    RULES,
    arch=dataclasses.replace(either(filled_text, positive_int, mapping()), says='a name or a dict'),
    depth=positive_int,
    frozen_stages=integer(-1),
    out_copies=one_of('first', 'all'),
    out_indices=either(integer(), sequence(integer(), shortest=1)),
    se_ratio=positive_int,
)

#: :func:`mmesbnn.checks.checked` with these rules; the call can replace some.
checked_backbone = functools.partial(checked, **BACKBONE_RULES)


def is_width(value: Any) -> bool:
    """Whether ``value`` can be a number of channels or blocks."""
    return positive_int.accepts(value)


def is_index(value: Any) -> bool:
    """Whether ``value`` is one integer."""
    return integer().accepts(value)


def are_widths(values: Any) -> bool:
    """Whether ``values`` is a list of numbers of channels or blocks."""
    return sequence(positive_int).accepts(values)


def named_arch(arch: Any, archs: dict[str, dict]) -> Any:
    """A copy of ``archs[arch]``; ``arch`` itself if it is no name.

    Raises:
        ValueError: If none has this name.
    """
    if not isinstance(arch, (str, int)):
        return arch
    if str(arch) not in archs:
        raise ValueError(f'{shown("arch", arch)} must be one of {list(archs)} or a dict')
    return copy.deepcopy(archs[str(arch)])


def norm_options(norm_cfg: dict) -> tuple[dict, bool]:
    """Arguments of TiledBatchNorm2d, and whether its affine is trained.

    Args:
        norm_cfg: ``type`` (``'BN'`` or ``'SyncBN'``) and maybe ``eps``, ``momentum``,
            ``requires_grad``.

    Raises:
        ValueError: If it has another type or further keys.
    """
    check('norm_cfg', norm_cfg, NORM_CFG)
    options = dict(norm_cfg)
    kind = options.pop('type')
    trained = options.pop('requires_grad', True)
    return {**options, 'sync': kind == 'SyncBN'}, trained


class Stage(nn.Sequential):
    """Blocks one after another.

    Args:
        *blocks: The blocks.
        with_cp: Whether to save only the convolutions' outputs of every block for the
            backward pass and recompute the rest. Default False.
    """

    def __init__(self, *blocks: nn.Module, with_cp: bool = False) -> None:
        super().__init__(*blocks)
        self.with_cp = with_cp

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output of the last block for ``x``."""
        for block in self:
            if self.with_cp and x.requires_grad:
                x = recompute_elementwise(block, x)
            else:
                x = block(x)
        return x


class ESBackbone(BaseModule):
    """A stem and stages of expanded features, as an OpenMMLab backbone.

    Subclasses build ``stem`` and ``stages``, lists of blocks, then call
    :meth:`_finish`. Every stage is called, so forward hooks on it fire.

    Stages after the last one of ``out_indices`` are not computed. Their parameters
    stay, so that checkpoints of the whole network fit, and are not trained
    (``requires_grad=False``): distributed training would wait for their gradients.

    Args:
        tau: ES factor. Default 1, the baseline.
        groups: ES groups. Default 1.
        out_copies: ``'first'``: an output is the first ``C`` channels; ``'all'``: all
            ``C tau g``. Default ``'first'``.
        frozen_stages: Stem and this many stages are frozen; 0 freezes the stem, -1
            nothing. Default -1.
        norm_cfg: ``dict(type='BN')`` or ``dict(type='SyncBN')``, with ``eps``,
            ``momentum``, ``requires_grad``. Default ``dict(type='BN')``.
        norm_eval: Whether norms stay in eval mode while training. Default False.
        with_cp: Whether to save only the convolutions' outputs for the backward pass
            and recompute the rest. Default False.
        init_cfg: mmengine initialisation config. Default None.

    Raises:
        ValueError: If an argument is not one of the allowed values.

    Shape:
        ``(N, in_channels, H, W)`` to a tuple of ``(N, C, H', W')``.
    """

    stem: nn.Module
    stages: nn.ModuleList

    @checked_backbone()
    def __init__(
        self,
        tau: int = 1,
        groups: int = 1,
        out_copies: str = 'first',
        frozen_stages: int = -1,
        norm_cfg: dict | None = None,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.expansion = Expansion(tau, groups)
        self.out_copies = out_copies
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self._with_cp = with_cp
        self.norm_args, self._norm_trained = norm_options(norm_cfg or dict(type='BN'))
        self.act: nn.Module | None = None

    def _finish(
        self, stage_channels: Sequence[int], out_indices: Sequence[int], final_act: bool = False
    ) -> None:
        """Check what depends on the stages, and freeze.

        Args:
            stage_channels: Width of every stage's output, before expansion.
            out_indices: Stages whose output is returned.
            final_act: Whether the last stage's output passes a PReLU.
        """
        self.stages = nn.ModuleList(Stage(*blocks, with_cp=self.with_cp) for blocks in self.stages)
        count = len(self.stages)
        self.in_channels = self.stem.conv.in_channels
        self.stage_channels = list(stage_channels)
        wanted = [out_indices] if is_index(out_indices) else list(out_indices)
        if not wanted or any(not -count <= i < count for i in wanted):
            raise ValueError(f'out_indices={out_indices}: this arch has {count} stages')
        self.out_indices = tuple(sorted({i % count for i in wanted}))
        if not -1 <= self.frozen_stages <= count:
            raise ValueError(f'frozen_stages={self.frozen_stages} must be -1 to {count}')
        if final_act and count - 1 in self.out_indices:
            self.act = nn.PReLU(self.out_channels[-1])
        self._freeze()

    @property
    def with_cp(self) -> bool:
        """Whether blocks are recomputed in the backward pass; may be changed."""
        return self._with_cp

    @with_cp.setter
    def with_cp(self, value: bool) -> None:
        self._with_cp = value
        for stage in self.stages:
            stage.with_cp = value

    @property
    def out_channels(self) -> list[int]:
        """Channels of the returned maps."""
        factor = self.expansion.factor if self.out_copies == 'all' else 1
        return [self.stage_channels[i] * factor for i in self.out_indices]

    def _select(self, x: Tensor, stage: int) -> Tensor:
        if self.out_copies == 'all' or self.expansion.factor == 1:
            return x
        return like_layout(x[:, : self.stage_channels[stage]], x)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the maps of ``out_indices`` for the images ``x``."""
        check_maps(self, x, self.in_channels)
        x = self.stem(x)
        outputs = []
        for i, stage in enumerate(self._used_stages()):
            x = stage(x)
            if i in self.out_indices:
                out = self._select(x, i)
                last = self.act is not None and i == len(self.stages) - 1
                outputs.append(self.act(out) if last else out)
        return tuple(outputs)

    def _used_stages(self) -> list[nn.Module]:
        return list(self.stages)[: self.out_indices[-1] + 1]

    def _norms(self) -> list[_BatchNorm]:
        return [m for m in self.modules() if isinstance(m, _BatchNorm)]

    def _frozen_parts(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        return [self.stem, *self.stages[: self.frozen_stages]]

    def _freeze(self) -> None:
        if not self._norm_trained:
            for norm in self._norms():
                norm.requires_grad_(False)
        unused = list(self.stages)[self.out_indices[-1] + 1 :]
        for part in (*self._frozen_parts(), *unused):
            part.requires_grad_(False)

    def train(self, mode: bool = True) -> ESBackbone:
        """Set the mode; frozen stages, and norms with ``norm_eval``, stay in eval."""
        super().train(mode)
        if mode:
            still = self._norms() if self.norm_eval else []
            for module in (*self._frozen_parts(), *still):
                module.eval()
        return self
