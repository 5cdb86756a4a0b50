"""Anchor generators. They need mmdet. It is imported when one is built."""

from mmengine.registry import TASK_UTILS

from ...optional import register_detection

register_detection(TASK_UTILS, 'RoundedAnchorGenerator', f'{__name__}.rounded_anchors')
register_detection(TASK_UTILS, 'ClippedSSDAnchorGenerator', f'{__name__}.clipped_ssd_anchors')
