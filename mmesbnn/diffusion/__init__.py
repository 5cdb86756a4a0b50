"""Super-resolution with binary diffusion models. diffusers is imported at first use."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from mmengine.registry import MODELS
from torch import nn

from ..checks import checked, mapping, optional
from ..optional import require
from .folders import check_unet, load_unet
from .registration import register, require_quantizers

#: Names that need diffusers, and their modules.
_LAZY = {
    'BinaryConfig': 'quantization_config',
    'BinaryQuantizer': 'quantizer',
    'BIDiffSRResidualUNet': 'residual',
    'BIDiffSRUNet': 'bi_diffsr',
    'SRDiffusionPipeline': 'pipeline',
    'binarize_unet': 'binarized',
    'load_binarized': 'binarized',
    'make_scheduler': 'schedule',
}
#: Those that need the quantizers of later releases of diffusers.
_QUANTIZERS = ('BinaryConfig', 'BinaryQuantizer')


def __getattr__(name: str) -> Any:
    """Import a name that needs diffusers at its first use."""
    if name not in _LAZY:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    require('diffusers', 'sr', name)
    if name in _QUANTIZERS:
        require_quantizers(name)
    return getattr(import_module(f'.{_LAZY[name]}', __name__), name)


@MODELS.register_module(name='BIDiffSRUNet')
def build_bi_diffsr_unet(**kwargs: Any) -> nn.Module:
    """Build a :class:`~mmesbnn.diffusion.bi_diffsr.BIDiffSRUNet`.

    Raises:
        ImportError: If diffusers is not installed.
    """
    return __getattr__('BIDiffSRUNet')(**kwargs)


@MODELS.register_module(name='BinarizedUNet2DModel')
@checked(binarize=optional(mapping()))
def build_binarized_unet(
    binarize: dict[str, Any] | None = None, pretrained: str | None = None, **kwargs: Any
) -> nn.Module:
    """Build a ``UNet2DModel`` of diffusers, made binary by ``binarize_unet``.

    Args:
        binarize: Arguments of :func:`~mmesbnn.diffusion.binarized.binarize_unet`.
            Default None: no arguments.
        pretrained: Folder of a float ``UNet2DModel`` to start from. Default None.
        **kwargs: Arguments of ``UNet2DModel``, without ``pretrained``.

    Raises:
        ImportError: If diffusers is not installed.
        ValueError: As ``binarize_unet``; if there are arguments other than ``pretrained``.
    """
    kind = require('diffusers', 'sr', 'BinarizedUNet2DModel').UNet2DModel
    if pretrained is None:
        unet = kind(**kwargs)
    elif kwargs:
        raise ValueError(f'pretrained={pretrained!r} has its own config: remove {sorted(kwargs)}')
    else:
        check_unet(pretrained, ['UNet2DModel'])
        unet = load_unet(kind, pretrained)
    __getattr__('binarize_unet')(unet, **(binarize or {}))
    return unet


register()

__all__ = ['build_bi_diffsr_unet', 'build_binarized_unet', *_LAZY]
