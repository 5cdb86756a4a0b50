"""Comparison of the boxes of an export with those of the detector itself.

The graph of a detector and the runner's decoding together replace mmdet's ``predict``. A
head may have its own way of decoding. Both are therefore run on the same images before an
export is written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from ...binary.modes import inference
from ..runtime.decoding import detect
from ..runtime.detection_decoding import DetectionDecoding
from ..runtime.manifest import ExportError

#: Smallest share of boxes that must be the same. Rounding can swap two boxes that are almost
#: equal, and suppression then keeps a different one.
LEAST_SHARE = 0.9

#: Largest number of scores above a threshold that are compared.
CANDIDATES = 500

#: Largest differences that count as rounding: of boxes, relative to the image, and of scores.
_BOX, _SCORE = 0.002, 0.001


@dataclass(frozen=True)
class Boxes:
    """Boxes ``(n, 4)``, scores ``(n,)`` and labels ``(n,)`` of an image."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)


def contained(found: Boxes, candidates: Boxes, size: tuple[int, int]) -> int:
    """Count the boxes that are among candidates, except for rounding.

    Args:
        found: Boxes of an image.
        candidates: Boxes to search in.
        size: Height and width of the image.
    """
    count = 0
    for box, score, label in zip(found.boxes, found.scores, found.labels):
        near = np.abs(candidates.boxes - box).max(-1) <= _BOX * max(size)
        near &= np.abs(candidates.scores - score) <= _SCORE
        count += bool((near & (candidates.labels == label)).any())
    return count


def same_scores(ours: Boxes, theirs: Boxes) -> int:
    """Count the scores of ``ours`` that have an equal partner in ``theirs``."""
    count, left = 0, sorted(theirs.scores)
    for score in sorted(ours.scores):
        while left and left[0] < score - _SCORE:
            left.pop(0)
        if left and left[0] <= score + _SCORE:
            left.pop(0)
            count += 1
    return count


def _decided(candidates: Boxes) -> bool:
    """Return True if most scores differ; with equal scores suppression is arbitrary."""
    return len(np.unique(candidates.scores)) >= LEAST_SHARE * len(candidates)


@contextlib.contextmanager
def _score_threshold(detector: Any, value: float) -> Iterator[None]:
    """Set the score threshold of ``detector``; restore it afterwards."""
    head = getattr(detector, 'roi_head', None) or detector.bbox_head
    config = head.test_cfg
    before = dict(config)
    config.score_thr = value
    try:
        yield
    finally:
        config.clear()
        config.update(before)


def predicted(detector: Any, image: Tensor) -> Boxes:
    """Return the boxes that mmdet finds in an image that fills the input.

    Args:
        detector: A detector of mmdet.
        image: Image ``(1, 3, H, W)``, normalised.
    """
    from mmdet.structures import DetDataSample

    size = tuple(image.shape[-2:])
    shapes = {name: size for name in ('img_shape', 'ori_shape', 'batch_input_shape')}
    sample = DetDataSample(metainfo={**shapes, 'scale_factor': (1.0, 1.0)})
    found = detector.predict(image, [sample], rescale=False)[0].pred_instances
    boxes = getattr(found.bboxes, 'tensor', found.bboxes)
    return Boxes(*(x.float().numpy() for x in (boxes, found.scores, found.labels)))


def _decoded(
    outputs: Mapping[str, Any], decoding: DetectionDecoding, size: tuple[int, int]
) -> Boxes:
    """Return the boxes that the runner finds."""
    found = detect(outputs, decoding, None, size, size)
    return Boxes(found['bboxes'], found['scores'], found['labels'])


def _undecided(
    outputs: Mapping[str, Any], decoding: DetectionDecoding, size: tuple[int, int]
) -> Boxes:
    """Return all boxes from which the runner chooses, without suppression."""
    where, labels = np.nonzero(outputs['scores'] > decoding.score_thr)
    scores, boxes = outputs['scores'][where, labels], outputs['boxes']
    if 'factors' in outputs:
        scores = scores * outputs['factors'][where]
    boxes = boxes[where, labels] if boxes.ndim == 3 else boxes[where]
    if decoding.border is not None:
        limits = np.array([size[1], size[0]] * 2, np.float32) - decoding.border
        boxes = boxes.clip(0, limits)
    return Boxes(boxes, scores, labels)


def _thresholds(scores: np.ndarray, configured: float) -> list[float]:
    """Return the configured threshold, and a low one that some scores exceed."""
    ordered = np.sort(scores, axis=None)[::-1]
    low = ordered[min(CANDIDATES, len(ordered) - 1)]
    return [configured, max(float(np.nextafter(low, np.float32(-1))), 0.0)]


def check_boxes(
    detector: nn.Module,
    graph: nn.Module,
    names: Sequence[str],
    decoding: DetectionDecoding,
    images: Tensor,
) -> str:
    """Compare the decoded outputs of a graph with the detector's own ``predict``.

    Args:
        detector: A detector of mmdet.
        graph: Its graph, see :mod:`mmesbnn.deploy.tasks.detector_graphs`.
        names: Names of the graph's outputs.
        decoding: Settings of the manifest, including ``levels``.
        images: Images ``(N, 3, H, W)``, normalised.

    Returns:
        Number of equal boxes, as text.

    Raises:
        ExportError: If too many boxes differ, because the head has its own way of decoding.
    """
    size = (int(images.shape[-2]), int(images.shape[-1]))
    same = most = 0
    with inference(detector):
        for image in images.split(1):
            outputs = dict(zip(names, (y[0].numpy() for y in graph(image))))
            for value in _thresholds(outputs['scores'], decoding.score_thr):
                with _score_threshold(detector, value):
                    theirs = predicted(detector, image)
                settings = replace(decoding, score_thr=value)
                candidates = _undecided(outputs, settings, size)
                found, count = contained(theirs, candidates, size), len(theirs)
                if _decided(candidates):
                    ours = _decoded(outputs, settings, size)
                    found = min(found, same_scores(ours, theirs))
                    count = max(count, len(ours))
                same, most = same + found, most + count
    if same < LEAST_SHARE * most:
        head = getattr(detector, 'roi_head', detector).bbox_head
        raise ExportError(
            f'{type(detector).__name__} with {type(head).__name__} is not exported: it '
            f'decodes its outputs in a way that the export does not know, so that only '
            f'{same} of {most} boxes would be the ones that mmdet finds'
        )
    if not most:
        return "nothing was found, so boxes were not compared with the detector's own"
    return f"{same} of {most} boxes are the ones that the detector's own predict finds"
