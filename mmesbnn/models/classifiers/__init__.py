"""Classifiers. They need mmpretrain, which is imported when one is built."""

from __future__ import annotations

import copy
from typing import Any

from mmengine.registry import MODELS
from torch import nn

from ...checks import checked, mapping
from ...optional import require

_NAME = 'DistillClassifier'
_TRAINING_ONLY = ('teachers', 'distill_loss', 'label_weight', 'teacher_autocast')


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
def student_config(model_cfg: dict) -> dict:
    """The plain ``ImageClassifier`` that a ``DistillClassifier`` trains.

    Its checkpoints load strictly into the model built from this config, which needs no
    teachers. For tools that analyse, export or run a model.

    Args:
        model_cfg: Config of a model.

    Returns:
        A copy, of the type of ``model_cfg``, without teachers. Configs of other models
        are returned as a copy.
    """
    cfg = copy.deepcopy(model_cfg)
    kind = cfg.get('type')
    name = kind if isinstance(kind, str) else getattr(kind, '__name__', '')
    if name.rpartition('.')[2] not in (_NAME, build_distill_classifier.__name__):
        return cfg
    for key in _TRAINING_ONLY:
        cfg.pop(key, None)
    # with the scope, so that it is found from mmengine's own scope too
    cfg['type'] = 'mmpretrain.ImageClassifier'
    return cfg


__all__ = ['build_distill_classifier', 'student_config']
