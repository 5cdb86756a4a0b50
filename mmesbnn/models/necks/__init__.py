"""Necks. They need mmdet. It is imported when a neck is built."""

from mmengine.registry import MODELS

from ...optional import register_detection

register_detection(MODELS, 'BiDetSSDNeck', f'{__name__}.bidet_ssd')
