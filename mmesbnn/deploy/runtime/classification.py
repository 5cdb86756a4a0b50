"""Task of classifying images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from .decoding import classify
from .drawing import draw_labels
from .image_task import ImageTask, as_json
from .images import read_image
from .manifest_schema import Manifest, check_classes, check_counts, check_image
from .preprocessing import Seen
from .schema import Maybe, OneOf, Part, Unfit, entry
from .task import Options, Source, register_task


@dataclass(frozen=True, kw_only=True)
class ClassificationDecoding(Part):
    """Settings of the step from logits to scores.

    Attributes:
        activation: ``'softmax'``, ``'sigmoid'``, or None.
    """

    activation: str | None = entry(Maybe(OneOf(('softmax', 'sigmoid'))))


@register_task
class Classification(ImageTask):
    """Task that gives a label and the scores of all classes, with mmpretrain's names."""

    NAME = 'classification'
    Decoding = ClassificationDecoding

    @classmethod
    def check(cls, manifest: Manifest) -> None:
        check_counts(manifest, 1, 1)
        check_image(manifest)
        shape = manifest.outputs[0].shape
        if len(shape) != 2:
            raise Unfit('outputs[0].shape', list(shape), '(N, classes)')
        check_classes(manifest.classes, shape[1])

    def decode(self, outputs: Mapping[str, np.ndarray], seen: Seen) -> dict[str, Any]:
        (logits,) = outputs.values()
        return classify(logits, self.manifest.decoding.activation, self.manifest.classes)

    def describe(self, result: Any, options: Options) -> tuple[str, Any]:
        label = result.get('pred_class', result['pred_label'])
        text = f'{label}  {result["pred_score"]:.4f}'
        scores = {key: as_json(result[key]) for key in ('pred_score', 'pred_scores')}
        return text, {**result, **scores}

    def draw(self, source: Source, result: Any, options: Options) -> Image.Image:
        image = read_image(source, self.network.max_pixels)
        return draw_labels(image, result, self.manifest.classes)
