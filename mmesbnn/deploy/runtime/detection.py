"""Task of detecting objects with boxes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from .decoding import detect
from .detection_decoding import DetectionDecoding, FinalBoxes
from .drawing import draw_boxes
from .image_task import ImageTask, as_json
from .images import read_image
from .manifest_schema import Manifest, check_classes, check_counts, check_image, equal
from .preprocessing import Seen
from .schema import Part, Unfit
from .task import Options, Source, register_task


@register_task
class Detection(ImageTask):
    """Task that gives boxes, scores and labels, with mmdet's names."""

    NAME = 'detection'
    Decoding = DetectionDecoding

    @classmethod
    def read_decoding(cls, content: Mapping[str, Any]) -> Part:
        settings = FinalBoxes if content.get('final') is True else DetectionDecoding
        return settings.from_dict(content, 'decoding')

    @classmethod
    def check(cls, manifest: Manifest) -> None:
        check_counts(manifest, 1, len(manifest.outputs))
        check_image(manifest)
        shapes = {port.name: port.shape for port in manifest.outputs}
        final = manifest.decoding.final
        _check_outputs(shapes, final)
        if final:
            return
        classes = shapes['scores'][2]
        if len(shapes['boxes']) == 4 and not equal((shapes['boxes'][2], classes)):
            raise Unfit('outputs.boxes', list(shapes['boxes']), f'for the {classes} classes')
        check_classes(manifest.classes, classes)
        rows, levels = [shape[1] for shape in shapes.values()], manifest.decoding.levels
        if levels and not equal((sum(levels), *rows)):
            raise Unfit('decoding.levels', list(levels), f'the parts of {max(rows)} boxes')

    def decode(self, outputs: Mapping[str, np.ndarray], seen: Seen) -> dict[str, Any]:
        settings, classes = self.manifest.decoding, self.manifest.classes
        return detect(outputs, settings, classes, seen.size, seen.original)

    def describe(self, result: Any, options: Options) -> tuple[str, Any]:
        shown = int((result['scores'] >= options.score_thr).sum())
        names = result.get('classes') or [str(label) for label in result['labels']]
        pairs = list(zip(names, result['scores']))[: min(shown, 5)]
        best = ', '.join(f'{name} {score:.2f}' for name, score in pairs)
        plain = {
            key: value if key == 'classes' else as_json(value) for key, value in result.items()
        }
        return f'{shown} boxes  {best}', plain

    def draw(self, source: Source, result: Any, options: Options) -> Image.Image:
        image = read_image(source, self.network.max_pixels)
        return draw_boxes(image, result, self.manifest.classes, options.score_thr)


def _check_outputs(shapes: Mapping[str, tuple[int, ...]], final: bool) -> None:
    """Check names and shapes of the outputs."""
    needed = {'boxes', 'scores', 'labels'} if final else {'boxes', 'scores'}
    if not needed <= set(shapes) <= (needed if final else {*needed, 'factors'}):
        raise Unfit('outputs', list(shapes), f'{", ".join(sorted(needed))} for detection')
    ranks = {'boxes': (3,) if final else (3, 4), 'scores': (2,) if final else (3,)}
    for name, shape in shapes.items():
        if len(shape) not in ranks.get(name, (2,)):
            raise Unfit(f'outputs.{name}', list(shape), f'of rank {ranks.get(name, (2,))}')
    if shapes['boxes'][-1] not in (-1, 4):
        raise Unfit('outputs.boxes', list(shapes['boxes']), '(N, K, 4)')
    if not equal(shape[1] for shape in shapes.values()):
        raise Unfit('outputs', dict(shapes), 'of as many boxes')
