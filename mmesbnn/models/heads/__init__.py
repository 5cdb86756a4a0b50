"""Heads. They need mmpretrain or mmdet. These are imported when a head is built."""

from __future__ import annotations

from typing import Any

from mmengine.registry import MODELS
from torch import nn

from ...optional import register_detection, require


@MODELS.register_module(name='MinMaxLinearClsHead')
def build_minmax_linear_cls_head(**kwargs: Any) -> nn.Module:
    """Build a :class:`~mmesbnn.models.heads.minmax_linear.MinMaxLinearClsHead`.

    Raises:
        ImportError: If mmpretrain is not installed.
    """
    require('mmpretrain', 'cls', 'MinMaxLinearClsHead')
    from .minmax_linear import MinMaxLinearClsHead

    return MinMaxLinearClsHead(**kwargs)


register_detection(MODELS, 'BiDetRPNHead', f'{__name__}.bidet_rpn')
register_detection(MODELS, 'BiDetBBoxHead', f'{__name__}.bidet_roi')
register_detection(MODELS, 'BiDetRoIHead', f'{__name__}.bidet_roi')
register_detection(MODELS, 'BiDetSSDHead', f'{__name__}.bidet_ssd')

__all__ = ['build_minmax_linear_cls_head']
