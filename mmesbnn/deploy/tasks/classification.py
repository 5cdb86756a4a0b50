"""Exporting classifiers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmengine.config import Config
from torch import nn

from ...project import class_names
from ..runtime.classification import Classification, ClassificationDecoding
from .export_task import ExportTask, register_export
from .image_sizes import padding_remark
from .images import images_of, shape_of
from .preprocessing import check_preprocessor, preprocessing_of

if TYPE_CHECKING:
    from typing_extensions import Self


def classification_decoding(model: nn.Module) -> ClassificationDecoding:
    """Return how the head of a classifier makes scores of its outputs."""
    # mmpretrain, which may be missing, has heads of other names with this base
    kinds = type(getattr(model, 'head', None)).__mro__
    multiple = any(kind.__name__.startswith('MultiLabel') for kind in kinds)
    return ClassificationDecoding(activation='sigmoid' if multiple else 'softmax')


@register_export
@dataclass(frozen=True, kw_only=True)
class ClassificationExport(ExportTask):
    """A classifier, whose output is logits; so is any network that no other task takes."""

    RUNNER = Classification

    @classmethod
    def accepts(cls, cfg: Config, model: nn.Module) -> bool:
        return True

    @classmethod
    def make(
        cls,
        cfg: Config,
        model: nn.Module,
        *,
        size: Sequence[int] | None,
        count: int,
        dataset_meta: Mapping[str, Any] | None,
    ) -> Self:
        preprocessing, names = preprocessing_of(cfg), class_names(cfg, dataset_meta)
        check_preprocessor(cfg, model, preprocessing)
        shape = shape_of(cfg, size, multiple=1, steps=preprocessing.steps)
        images, source = images_of(cfg, model, shape, count, preprocessing)
        return cls(
            graph=model,
            input_names=('image',),
            output_names=('logits',),
            preprocessing=preprocessing,
            classes=None if names is None else tuple(names),
            decoding=classification_decoding(model),
            images=images,
            source=source,
            remarks=padding_remark(preprocessing, shape[1:]),
        )
