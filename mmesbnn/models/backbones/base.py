"""Base of the binary backbones: common arguments, outputs, freezing, recomputation."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...binary import Expansion, redraw_signs
from ...binary.arguments import NORM_CFG, RULES
from ...binary.expansion import like_layout
from ...binary.inputs import check_maps
from ...binary.recompute import recompute_segment
from ...checks import (
    check,
    checked,
    either,
    filled_text,
    flag,
    instance,
    integer,
    mapping,
    none,
    one_of,
    positive_int,
    sequence,
    shown,
)
from .stages import Backend, Stage

#: Rules of the arguments that backbones share, by name.
BACKBONE_RULES = dict(
    RULES,
    arch=dataclasses.replace(either(filled_text, positive_int, mapping()), says='a name or a dict'),
    depth=positive_int,
    frozen_stages=integer(-1),
    init_cfg=either(mapping(), instance(list, 'a list'), none),
    norm_eval=flag,
    out_copies=one_of('first', 'all'),
    out_indices=either(integer(), sequence(integer(), shortest=1)),
    se_ratio=positive_int,
    with_cp=flag,
)

#: :func:`mmesbnn.checks.checked` with these rules; a call can replace single rules.
checked_backbone = functools.partial(checked, **BACKBONE_RULES)


def is_width(value: Any) -> bool:
    """Return whether ``value`` can be a number of channels or blocks."""
    return positive_int.accepts(value)


def are_widths(values: Any) -> bool:
    """Return whether ``values`` is a list of numbers of channels or blocks."""
    return sequence(positive_int).accepts(values)


def named_arch(arch: Any, archs: dict[str, dict[str, Any]]) -> Any:
    """Return a copy of ``archs[arch]``, or ``arch`` unchanged if it is not a name.

    Raises:
        ValueError: If no arch has this name.
    """
    if not isinstance(arch, (str, int)):
        return arch
    if str(arch) not in archs:
        raise ValueError(f'{shown("arch", arch)} must be one of {list(archs)} or a dict')
    return copy.deepcopy(archs[str(arch)])


def check_arch_keys(arch: dict[str, Any]) -> None:
    """Raise a ``ValueError`` if ``arch`` has other keys than ``channels`` and ``depths``."""
    unknown = set(arch) - {'channels', 'depths'}
    if unknown:
        raise ValueError(f'arch has the unknown keys {sorted(unknown)}')


def norm_options(norm_cfg: dict[str, Any] | None) -> tuple[dict[str, Any], bool]:
    """Return the arguments of TiledBatchNorm2d, and whether its affine is trained.

    Args:
        norm_cfg: ``type`` (``'BN'`` or ``'SyncBN'``) and optionally ``eps``,
            ``momentum``, ``requires_grad``. None is ``dict(type='BN')``.

    Raises:
        ValueError: If the type is unknown, or if there are other keys.
    """
    norm_cfg = norm_cfg or dict(type='BN')
    check('norm_cfg', norm_cfg, NORM_CFG)
    options = dict(norm_cfg)
    kind = options.pop('type')
    trained = options.pop('requires_grad', True)
    return {**options, 'sync': kind == 'SyncBN'}, trained


def _stage_indices(out_indices: int | Sequence[int], count: int) -> tuple[int, ...]:
    """Return the indices in order, negative ones counted from the end of ``count`` stages."""
    indices = list(out_indices) if isinstance(out_indices, Sequence) else [out_indices]
    if not indices or any(not -count <= i < count for i in indices):
        raise ValueError(f'out_indices={out_indices}: this arch has {count} stages')
    return tuple(sorted({i % count for i in indices}))


def _is_trained(module: nn.Module) -> bool:
    return torch.is_grad_enabled() and any(p.requires_grad for p in module.parameters())


@dataclass(frozen=True, kw_only=True)
class BackboneOptions:
    """Arguments that all backbones share.

    Args:
        tau: ES factor. Default 1, the baseline.
        groups: ES groups. Default 1.
        copy_init: As :class:`TiledBatchNorm2d`'s, for all norms that make copies:
            ``'alike'``, ``'signs'`` or ``'balanced'``. Default ``'alike'``.
        out_copies: With ``'first'`` an output is the first ``C`` channels; with ``'all'``
            it is all ``C tau g`` channels. Default ``'first'``.
        out_indices: Stages whose output is returned. Default ``(-1,)``, the last.
        frozen_stages: Number of frozen stages, together with the stem. Their norms are in
            eval mode. 0 freezes the stem only; -1 freezes nothing. Default -1.
        norm_cfg: ``dict(type='BN')`` or ``dict(type='SyncBN')``, with optional ``eps``,
            ``momentum``, ``requires_grad``. ``SyncBN`` shares statistics among
            processes, also on CPUs. Default ``dict(type='BN')``.
        norm_eval: Whether norms stay in eval mode in training. Default False.
        with_cp: Whether to store only the outputs of large convolutions and linear
            layers for the backward pass, on a GPU and on the native kernels only inputs of a
            few blocks, and recompute the rest. Default False.
        init_cfg: mmengine initialisation config. Default None: torch's initialisation.

    Raises:
        ValueError: If an argument is not one of the allowed values.
    """

    tau: int = 1
    groups: int = 1
    copy_init: str = 'alike'
    out_copies: str = 'first'
    out_indices: int | Sequence[int] = (-1,)
    frozen_stages: int = -1
    norm_cfg: dict[str, Any] | None = None
    norm_eval: bool = False
    with_cp: bool = False
    init_cfg: dict[str, Any] | list[Any] | None = None

    @classmethod
    def of(cls, backbone: nn.Module, **options: Any) -> BackboneOptions:
        """Return the options; a ``TypeError`` about an unknown one names the backbone."""
        known = {field.name for field in dataclasses.fields(cls)}
        for name in options:
            if name not in known:
                own = inspect.signature(type(backbone)).parameters.values()
                known |= {x.name for x in own if x.kind is not x.VAR_KEYWORD}
                raise TypeError(
                    f'{type(backbone).__name__}: unknown argument {name!r}; known are '
                    f'{", ".join(sorted(known))}'
                )
        return cls(**options)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check(field.name, getattr(self, field.name), BACKBONE_RULES[field.name])

    @property
    def expansion(self) -> Expansion:
        """ES parameters of the features between the blocks."""
        return Expansion(self.tau, self.groups)

    @property
    def norm(self) -> dict[str, Any]:
        """Keyword arguments of :class:`TiledBatchNorm2d`."""
        return dict(norm_options(self.norm_cfg)[0], copy_init=self.copy_init)

    @property
    def trains_norms(self) -> bool:
        """True if the affines of the norms are trained."""
        return norm_options(self.norm_cfg)[1]


class Final(NamedTuple):
    """Module that processes the output of the last stage.

    Attributes:
        name: Attribute of the backbone. Its value is None if there is no such module, or
            if the last stage is not returned.
        make: Function that builds the module for a number of channels. None means that
            there is no module.
    """

    name: str
    make: Callable[[int], nn.Module] | None


class ESBackbone(BaseModule):
    """OpenMMLab backbone with a stem and stages of expanded features.

    Subclasses build the stem and the blocks and pass them to this constructor. Stages
    are called as modules, so their forward hooks run.

    Stages after the last one of ``out_indices`` are not computed. They keep their
    parameters, so that checkpoints of the whole network load. These parameters are not
    trained (``requires_grad=False``), because distributed training would wait for their
    gradients.

    Args:
        stem: Module that computes the first expanded map of the images.
        stages: Blocks of every stage.
        widths: Width of every stage's output, before expansion.
        options: Arguments that all backbones share.
        final: Module that processes the output of the last stage. Default None: there is
            no such module.

    Raises:
        ValueError: If ``out_indices`` or ``frozen_stages`` names a stage that does not
            exist.

    Shape:
        ``(N, in_channels, H, W)`` to a tuple of ``(N, C, H', W')``.
    """

    def __init__(
        self,
        *,
        stem: nn.Module,
        stages: Iterable[Iterable[nn.Module]],
        widths: Sequence[int],
        options: BackboneOptions,
        final: Final | None = None,
    ) -> None:
        super().__init__(options.init_cfg)
        self.expansion = options.expansion
        self.out_copies = options.out_copies
        self.norm_eval = options.norm_eval
        self.stage_channels = list(widths)
        self.out_indices = _stage_indices(options.out_indices, count=len(widths))
        if options.frozen_stages > len(widths):
            raise ValueError(f'frozen_stages={options.frozen_stages} must be -1 to {len(widths)}')
        self.frozen_stages = options.frozen_stages
        self._with_cp = options.with_cp
        self.stem = stem
        self.in_channels: int = stem.get_submodule('conv').in_channels  # type: ignore[assignment]
        self.stages = nn.ModuleList(Stage(*blocks, with_cp=options.with_cp) for blocks in stages)
        self._final_name = ''
        if final is not None:
            self._add_final(final)
        self._freeze(norms=not options.trains_norms)

    def init_weights(self) -> None:
        """Initialise as ``init_cfg`` says; copies start as ``copy_init`` says all the same."""
        super().init_weights()
        redraw_signs(self)

    def _add_final(self, final: Final) -> None:
        module = None
        if final.make is not None and len(self.stages) - 1 in self.out_indices:
            self._final_name, module = final.name, final.make(self.out_channels[-1])
        self.register_module(final.name, module)

    @property
    def with_cp(self) -> bool:
        """True if blocks are recomputed in the backward pass. It can be changed."""
        return self._with_cp

    @with_cp.setter
    def with_cp(self, value: bool) -> None:
        self._with_cp = value
        for stage in self.stages:
            stage.with_cp = value  # type: ignore[assignment]

    def compile_blocks(self, backend: Backend = 'inductor', mode: str | None = None) -> None:
        """Run compiled blocks from now on, see :meth:`Stage.compile_blocks`.

        Args:
            backend: As that of ``torch.compile``. Default ``'inductor'``.
            mode: As that of ``torch.compile``. Default None.

        Raises:
            RuntimeError: If torch has no such backend or mode.
        """
        for stage in self.stages:
            stage.compile_blocks(backend, mode)  # type: ignore[operator]

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
        if self.with_cp and _is_trained(self.stem):
            x = recompute_segment(self.stem, x, [self.stem])
        else:
            x = self.stem(x)
        outputs = []
        for i, stage in enumerate(self._used_stages()):
            x = stage(x)
            if i in self.out_indices:
                outputs.append(self._select(x, i))
        if self._final_name:
            outputs[-1] = getattr(self, self._final_name)(outputs[-1])
        return tuple(outputs)

    def _used_stages(self) -> list[nn.Module]:
        return list(self.stages)[: self.out_indices[-1] + 1]

    def _norms(self) -> list[_BatchNorm]:
        return [m for m in self.modules() if isinstance(m, _BatchNorm)]

    def _frozen_parts(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        return [self.stem, *self.stages[: self.frozen_stages]]

    def _freeze(self, norms: bool) -> None:
        if norms:
            for norm in self._norms():
                norm.requires_grad_(False)
        unused = list(self.stages)[self.out_indices[-1] + 1 :]
        for part in (*self._frozen_parts(), *unused):
            part.requires_grad_(False)

    def train(self, mode: bool = True) -> ESBackbone:
        """Set the mode. Frozen stages stay in eval mode, and so do norms with ``norm_eval``."""
        super().train(mode)
        if mode:
            still = self._norms() if self.norm_eval else []
            for module in (*self._frozen_parts(), *still):
                module.eval()
        return self
