"""Classifiers. They need mmpretrain. It is imported when a classifier is built."""

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
def student_config(model_cfg: dict[str, Any]) -> dict[str, Any]:
    """Return the config of the ``ImageClassifier`` that a ``DistillClassifier`` trains.

    The model of this config needs no teachers. Checkpoints of the ``DistillClassifier``
    load into it strictly. Tools that analyse, export or run a model use this config.

    Args:
        model_cfg: Config of a model.

    Returns:
        A copy without teachers, of the type of ``model_cfg``. The config of any other
        model is copied without a change.
    """
    cfg = copy.deepcopy(model_cfg)
    kind = cfg.get('type')
    name = kind if isinstance(kind, str) else getattr(kind, '__name__', '')
    if name.rpartition('.')[2] not in (_NAME, build_distill_classifier.__name__):
        return cfg
    for key in _TRAINING_ONLY:
        cfg.pop(key, None)
    # the scope is given, so that mmengine's own scope finds the class, too
    cfg['type'] = 'mmpretrain.ImageClassifier'
    return cfg


__all__ = ['build_distill_classifier', 'student_config']
