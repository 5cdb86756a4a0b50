"""Models that restore images. They need diffusers. It is imported when one is built."""

from __future__ import annotations

from typing import Any

from mmengine.registry import MODELS
from torch import nn

from ...optional import require
from .sr_diffusion import SRDataPreprocessor, SRDiffusion


@MODELS.register_module(name='BIDiffSRResidualUNet')
def build_residual_unet(**kwargs: Any) -> nn.Module:
    """Build a :class:`~mmesbnn.diffusion.residual.BIDiffSRResidualUNet`.

    Raises:
        ImportError: If diffusers is not installed.
    """
    require('diffusers', 'sr', 'BIDiffSRResidualUNet')
    from ...diffusion.residual import BIDiffSRResidualUNet

    return BIDiffSRResidualUNet(**kwargs)


__all__ = ['SRDataPreprocessor', 'SRDiffusion', 'build_residual_unet']
