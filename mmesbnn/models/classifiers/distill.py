"""Classifier that learns from other classifiers. Imports mmpretrain."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.registry import DefaultScope
from mmengine.runner import load_checkpoint
from mmpretrain.apis import get_model
from mmpretrain.models.classifiers import ImageClassifier
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from ...checks import check, checked, mapping, not_negative, optional, sequence
from ...errors import sentence
from ..building import build_part


def _check_keys(what: str, spec: Any, needed: str, optional: str) -> None:
    if not isinstance(spec, dict) or not {needed} <= set(spec) <= {needed, optional}:
        raise ValueError(
            f'{what} must be a dict with `{needed}` and optionally `{optional}`, not {spec!r}'
        )


def build_teacher(name: str, spec: dict[str, Any]) -> nn.Module:
    """Build a frozen teacher.

    Args:
        name: Name of the teacher in messages.
        spec: ``model`` and optionally ``checkpoint``, a path or URL. ``model`` is the
            config of a model, the name of a model that mmpretrain knows, or a module
            from images to logits. Without a checkpoint, a named model gets the weights
            that mmpretrain knows; a model from a config is initialised by its config.

    Raises:
        ValueError: If ``spec`` is something else, or mmpretrain knows no weights.
        OSError: If the weights cannot be read, for example without a network.
        RuntimeError: If the checkpoint does not fit.
    """
    _check_keys(f'teachers: {name}', spec, 'model', 'checkpoint')
    model, checkpoint = spec['model'], spec.get('checkpoint')
    if isinstance(model, str):
        with _reading(name, f'the weights of {model!r}'):
            teacher = _build_named(name, model, pretrained=not checkpoint)
    elif isinstance(model, dict):
        teacher = _build_configured(name, model, warn=not checkpoint)
    elif isinstance(model, nn.Module):
        teacher = model
    else:
        raise ValueError(f'teachers: {name}: model={model!r} must be a config, a name or a module')
    if checkpoint:
        # strict: with a checkpoint that fits in part only, the teacher would teach noise
        with _reading(name, f'checkpoint={checkpoint!r}'):
            load_checkpoint(teacher, checkpoint, map_location='cpu', strict=True)
    teacher.eval()  # it returns None in some networks of OpenMMLab
    return teacher.requires_grad_(False)


@contextmanager
def _reading(name: str, what: str) -> Iterator[None]:
    """Raise an error that names the teacher if its weights cannot be read."""
    try:
        yield
    except OSError as error:  # a URL that cannot be reached, or a file
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else OSError
        raise kind(
            f'teachers: {name}: {what} cannot be read ({sentence(error)}): set '
            f'teachers: {name}: checkpoint= to a file that exists'
        ) from None


def _build_named(name: str, model: str, pretrained: bool) -> nn.Module:
    teacher = get_model(model, pretrained=pretrained)
    info = getattr(teacher, '_metainfo', None)
    if pretrained and getattr(info, 'weights', None) is None:
        raise ValueError(
            f'teachers: {name}: mmpretrain knows no weights of {model!r}: set checkpoint='
        )
    return teacher


def _names_weights(cfg: Any) -> bool:
    """Return True if a part of ``cfg`` loads weights: ``pretrained=...`` or ``Pretrained``."""
    if isinstance(cfg, (list, tuple)):
        return any(map(_names_weights, cfg))
    if not isinstance(cfg, dict):
        return False
    given = any('pretrained' in str(key).lower() and value for key, value in cfg.items())
    named = 'pretrained' in str(cfg.get('type')).lower()
    return given or named or any(map(_names_weights, cfg.values()))


def _build_configured(name: str, cfg: dict[str, Any], warn: bool) -> nn.Module:
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        teacher = MODELS.build(copy.deepcopy(cfg))
        if hasattr(teacher, 'init_weights'):
            teacher.init_weights()
    if warn and not _names_weights(cfg):
        print_log(
            f'teachers: {name} has no checkpoint, so it teaches with random weights',
            logger='current',
            level=logging.WARNING,
        )
    return teacher


def _logits(name: str, output: Any) -> Tensor:
    """Return the output of a part if it is one tensor of logits."""
    if not isinstance(output, Tensor) or output.ndim != 2:
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f'{name} returns {found}: distillation needs one tensor of logits (N, K)')
    return output


class TeacherHolder:
    """List of modules that ``nn.Module`` does not see.

    Teachers are therefore not part of any state dict, optimizer, DDP bucket or moving
    average. A deep copy of the student borrows the teachers of the original. Only the
    original moves them between devices.

    Args:
        modules: Teachers.
        borrowed: Whether the teachers belong to another holder. Default False.
    """

    def __init__(self, modules: list[nn.Module], borrowed: bool = False) -> None:
        self.modules = modules
        self.borrowed = borrowed

    def __deepcopy__(self, memo: dict[str, Any]) -> TeacherHolder:
        return TeacherHolder(self.modules, borrowed=True)

    def __len__(self) -> int:
        return len(self.modules)

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(self.modules)


class DistillClassifier(ImageClassifier):
    """mmpretrain's ``ImageClassifier``, trained on the outputs of frozen teachers.

    Two teachers are active at any time: the main teacher and one of the assistants.
    ``TeacherScheduleHook`` changes the assistant during training. Teachers read the
    preprocessed images of the student and run in eval mode without gradients. They move
    with the model (``.to()``, ``.double()``) but are not part of its parameters or state
    dict. A checkpoint is therefore that of the plain ``ImageClassifier``, whose config
    :func:`~mmesbnn.models.classifiers.student_config` returns. Inference is that of
    ``ImageClassifier``. Teachers are built when training begins. ::

        model = dict(
            type='DistillClassifier', backbone=..., neck=..., head=...,
            teachers=dict(
                main=dict(model='efficientnet-b2_3rdparty-ra-noisystudent_in1k'),
                assistants=[dict(model=dict(type='ImageClassifier', ...),
                                 checkpoint='b0.pth')]))

    Losses: ``loss_kd``, and with ``label_weight`` also ``loss_cls``.

    Args:
        backbone: Config of the student's backbone.
        neck: Config of its neck. Default None.
        head: Config of its head, which must return logits. Default None raises an error.
        teachers: ``main`` and ``assistants`` (a list, default empty). Each teacher is a
            ``spec`` of :func:`build_teacher`. With None there are no teachers, which is
            for inference only. Default None.
        distill_loss: Config of a loss whose arguments are the student's logits and a
            list of teachers' logits. Default ``dict(type='HardnessWeightedKDLoss')``.
        label_weight: Weight of the head's own loss, which uses the labels. Default 0, as
            published: labels are not used.
        teacher_autocast: Whether teachers run in half precision on GPUs, as published.
            On CPUs they always run in full precision. Default True.
        **kwargs: As ``ImageClassifier``.

    Raises:
        ValueError: If an argument is not as described; when training begins, if a
            teacher does not have the student's number of classes, or if the head or a teacher
            returns something other than one tensor of logits.

    Source: Guo et al., "BNext" (2022), and its training code.
    """

    @checked(
        backbone=mapping(['type']),
        distill_loss=optional(mapping(['type'])),
        label_weight=not_negative,
    )
    def __init__(
        self,
        backbone: dict[str, Any],
        neck: dict[str, Any] | None = None,
        head: dict[str, Any] | None = None,
        teachers: dict[str, Any] | None = None,
        distill_loss: dict[str, Any] | None = None,
        label_weight: float = 0.0,
        teacher_autocast: bool = True,
        **kwargs: Any,
    ) -> None:
        if head is None:
            raise ValueError('head=None: distillation needs the logits of a head')
        parts = dict(backbone=backbone, neck=neck, head=head)
        built = {k: cfg if cfg is None else build_part(k, cfg, MODELS) for k, cfg in parts.items()}
        super().__init__(**built, **kwargs)
        loss = distill_loss or dict(type='HardnessWeightedKDLoss')
        self.distill_loss = build_part('distill_loss', loss, MODELS)
        self.label_weight = label_weight
        self.teacher_autocast = teacher_autocast
        self._assistant = 0
        self._specs = self._teacher_specs(teachers)
        # the assistants in order, then the main teacher
        self.teachers = TeacherHolder([])

    @staticmethod
    def _teacher_specs(teachers: dict[str, Any] | None) -> dict[str, dict[str, Any]]:
        if teachers is None:
            return {}
        _check_keys('teachers', teachers, 'main', 'assistants')
        assistants = teachers.get('assistants', ())
        check('teachers: assistants', assistants, sequence(mapping()))
        specs = {f'assistant {i}': spec for i, spec in enumerate(assistants)}
        specs['main'] = teachers['main']
        for name, spec in specs.items():
            _check_keys(f'teachers: {name}', spec, 'model', 'checkpoint')
        return specs

    def load_teachers(self) -> None:
        """Build the teachers and load their weights, if this has not been done yet.

        ``TeacherScheduleHook`` calls it before training; otherwise the first loss does.
        Inference needs no teachers. The state of torch's random generator is restored.

        Raises:
            ValueError: As the class.
        """
        if len(self.teachers) or not self._specs:
            return
        # a resumed training loads them within a later epoch, and must draw the same numbers there
        with torch.random.fork_rng(devices=[]):
            built = {name: build_teacher(name, spec) for name, spec in self._specs.items()}
        classes = getattr(self.head, 'num_classes', None)
        for name, teacher in built.items():
            own = getattr(getattr(teacher, 'head', None), 'num_classes', classes)
            if classes is not None and own != classes:
                raise ValueError(
                    f'teachers: {name} has {own} classes, but the student has {classes}'
                )
        reference = next(self.parameters())
        self.teachers = TeacherHolder([teacher.to(reference) for teacher in built.values()])

    @property
    def num_assistants(self) -> int:
        """Number of assistants."""
        return max(len(self._specs) - 1, 0)

    def set_teacher(self, assistant: int) -> None:
        """Make this assistant active, together with the main teacher.

        Args:
            assistant: Index in the list of assistants.

        Raises:
            ValueError: If there is no such assistant.
        """
        if not 0 <= assistant < self.num_assistants:
            raise ValueError(
                f'assistant={assistant}: the model has {self.num_assistants} assistants'
            )
        self._assistant = assistant

    def active_teachers(self) -> list[nn.Module]:
        """Return the active teachers: the assistant, if there is one, and the main one.

        Raises:
            ValueError: If the model has no teachers.
        """
        self.load_teachers()
        if not len(self.teachers):
            raise ValueError('teachers=None: the model can predict but not be trained')
        *assistants, main = self.teachers
        return [*assistants[self._assistant : self._assistant + 1], main]

    @torch.no_grad()
    def teacher_logits(self, inputs: Tensor) -> list[Tensor]:
        """Compute the logits of the active teachers.

        Args:
            inputs: Preprocessed images ``(N, C, H, W)``.

        Returns:
            One tensor ``(N, K)`` per teacher.
        """
        enabled = self.teacher_autocast and inputs.is_cuda
        with torch.autocast(inputs.device.type, enabled=enabled):
            return [
                _logits(f'teachers: the {type(teacher).__name__}', teacher(inputs))
                for teacher in self.active_teachers()
            ]

    def loss(self, inputs: Tensor, data_samples: list[Any]) -> dict[str, Tensor]:
        """Compute the losses.

        Args:
            inputs: Preprocessed images ``(N, C, H, W)``.
            data_samples: mmpretrain's samples with the labels.
        """
        teachers = self.teacher_logits(inputs)
        features = self.extract_feat(inputs)
        logits = _logits(f'head={type(self.head).__name__}', self.head(features))
        losses = {'loss_kd': self.distill_loss(logits, teachers)}
        if self.label_weight:
            labelled = self.head.loss(features, data_samples)
            losses['loss_cls'] = self.label_weight * labelled.pop('loss')
            losses.update(labelled)
        return losses

    def _apply(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> DistillClassifier:
        """Move or convert the teachers along with the student."""
        super()._apply(fn, *args, **kwargs)
        if not self.teachers.borrowed:
            for teacher in self.teachers:
                teacher._apply(fn, *args, **kwargs)
        return self
