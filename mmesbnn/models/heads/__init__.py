"""Heads. They need mmpretrain, which is imported when one is built."""

from __future__ import annotations

from typing import Any

from mmengine.registry import MODELS
from torch import nn

from ...optional import require


@MODELS.register_module(name='MinMaxLinearClsHead')
def build_minmax_linear_cls_head(**kwargs: Any) -> nn.Module:
    """Build a :class:`~mmesbnn.models.heads.minmax_linear.MinMaxLinearClsHead`.

    Raises:
        ImportError: If mmpretrain is not installed.
    """
    require('mmpretrain', 'cls', 'MinMaxLinearClsHead')
    from .minmax_linear import MinMaxLinearClsHead

    return MinMaxLinearClsHead(**kwargs)


__all__ = ['build_minmax_linear_cls_head']
