"""Classifiers. They need mmpretrain. It is imported when a classifier is built."""

from __future__ import annotations

import copy
from typing import Any

from mmengine.registry import MODELS
from torch import nn

from ...checks import checked, mapping
from ...optional import require

_NAME = 'DistillClassifier'
_OF_CLASSIFIER = ('teachers', 'distill_loss', 'label_weight', 'teacher_autocast')
_OF_DETECTOR = ('teacher_ckpt', 'eval_teacher')
#: Models that learn from teachers: the type of the student, and the arguments for training only.
_STUDENTS = {
    _NAME: ('mmpretrain.ImageClassifier', _OF_CLASSIFIER),
    'build_distill_classifier': ('mmpretrain.ImageClassifier', _OF_CLASSIFIER),
    'KnowledgeDistillationSingleStageDetector': (
        'mmdet.SingleStageDetector',
        (*_OF_DETECTOR, 'teacher_config'),
    ),
    'LAD': (
        'mmdet.SingleStageDetector',
        (*_OF_DETECTOR, 'teacher_backbone', 'teacher_neck', 'teacher_bbox_head'),
    ),
}


@MODELS.register_module(name=_NAME)
def build_distill_classifier(**kwargs: Any) -> nn.Module:
    """Build a :class:`~mmesbnn.models.classifiers.distill.DistillClassifier`.

    Raises:
        ImportError: If mmpretrain is not installed.
    """
    require('mmpretrain', 'cls', _NAME)
    from .distill import DistillClassifier

    return DistillClassifier(**kwargs)


@checked(model_cfg=mapping())
def student_config(model_cfg: dict[str, Any]) -> dict[str, Any]:
    """Return the config of the network that a model with teachers trains.

    Such models are the ``DistillClassifier``, and mmdet's
    ``KnowledgeDistillationSingleStageDetector`` and ``LAD``. The model of this config needs
    no teachers. Checkpoints of the training load into it strictly. Tools that analyse,
    export or run a model use this config.

    Args:
        model_cfg: Config of a model.

    Returns:
        A copy without teachers, of the type of ``model_cfg``. The config of any other
        model is copied without a change.
    """
    cfg = copy.deepcopy(model_cfg)
    kind = cfg.get('type')
    name = kind if isinstance(kind, str) else getattr(kind, '__name__', '')
    name = name.rpartition('.')[2]
    if name not in _STUDENTS:
        return cfg
    # the scope is given, so that mmengine's own scope finds the class, too
    cfg['type'], training_only = _STUDENTS[name]
    for key in training_only:
        cfg.pop(key, None)
    return cfg


__all__ = ['build_distill_classifier', 'student_config']
