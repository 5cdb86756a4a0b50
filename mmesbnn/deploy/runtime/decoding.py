"""Decoding of a network's outputs to labels and boxes. Needs numpy only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .detection_decoding import DetectionDecoding, FinalBoxes
from .manifest import ExportError

Size = tuple[int, int]


def softmax(x: np.ndarray) -> np.ndarray:
    """Compute ``exp(x) / sum(exp(x))`` over the last axis."""
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Compute ``1 / (1 + exp(-x))``."""
    return np.exp(-np.logaddexp(0, -x))


_ACTIVATIONS: dict[str | None, Callable[[np.ndarray], np.ndarray]] = {
    'softmax': softmax,
    'sigmoid': sigmoid,
    None: np.asarray,
}


def _check_names(classes: Sequence[str] | None, count: int) -> None:
    if classes and len(classes) < count:
        raise ExportError(
            f'the network has {count} classes, but its manifest has {len(classes)} names'
        )


def classify(
    outputs: np.ndarray, activation: str | None, classes: Sequence[str] | None
) -> dict[str, Any]:
    """Return label and scores of one image, with mmpretrain's names.

    Args:
        outputs: Output of the network, ``(classes,)``.
        activation: ``'softmax'``, ``'sigmoid'``, or None.
        classes: Names of the classes, or None.
    """
    scores = _ACTIVATIONS[activation](outputs)
    _check_names(classes, len(scores))
    label = int(scores.argmax())
    result = {'pred_label': label, 'pred_score': float(scores[label]), 'pred_scores': scores}
    if classes:
        result['pred_class'] = classes[label]
    return result


def overlap(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Compute the intersection over union of a box ``(4,)`` with others ``(n, 4)``."""

    def area(boxes: np.ndarray) -> np.ndarray:
        sides = boxes[..., 2:] - boxes[..., :2]
        return sides[..., 0] * sides[..., 1]

    low = np.maximum(box[:2], others[:, :2])
    high = np.minimum(box[2:], others[:, 2:])
    sides = (high - low).clip(0)
    common = sides[:, 0] * sides[:, 1]
    return common / np.maximum(area(box) + area(others) - common, 1e-12)


def suppress(boxes: np.ndarray, iou_thr: float) -> list[int]:
    """Suppress boxes ``(n, 4)``, in descending order of score, that overlap better ones.

    Returns:
        Indices of the kept boxes: their overlap with every better kept box is at most
        ``iou_thr``.
    """
    kept, left = [], np.arange(len(boxes))
    while len(left):
        best, left = left[0], left[1:]
        kept.append(int(best))
        left = left[overlap(boxes[best], boxes[left]) <= iou_thr]
    return kept


def _best_per_class(where: np.ndarray, scores: np.ndarray, most: int) -> np.ndarray:
    """Return the flat indices of ``where`` with the ``most`` best scores of each class."""
    where = where[np.argsort(-scores.ravel()[where], kind='stable')]
    labels = where % scores.shape[1]
    return np.concatenate(
        [where[:0], *(where[labels == label][:most] for label in np.unique(labels))]
    )


def _candidates(scores: np.ndarray, decoding: DetectionDecoding) -> tuple[np.ndarray, np.ndarray]:
    """Return box and class of every score ``(K, classes)`` that enters suppression."""
    levels = decoding.levels or (len(scores),)
    if sum(levels) != len(scores):
        raise ExportError(
            f'the network gives {len(scores)} boxes, but the levels of its manifest have '
            f'{sum(levels)}'
        )
    best = decoding.nms_pre if decoding.levels else None
    chosen, start = [], 0
    for count in levels:
        flat = scores[start : start + count].ravel()
        above = np.flatnonzero(flat > decoding.score_thr)
        if best is not None and len(above) > best:
            above = above[np.argsort(-flat[above], kind='stable')[:best]]
        chosen.append(above + start * scores.shape[1])
        start += count
    where = np.concatenate(chosen)
    most = decoding.max_per_class or 0
    if most > 0:
        where = _best_per_class(where, scores, most)
    return where // scores.shape[1], where % scores.shape[1]


def _picked(
    outputs: Mapping[str, np.ndarray], decoding: DetectionDecoding, size: Size, scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the boxes, scores and labels after all steps of the choice."""
    boxes, scores = outputs['boxes'], outputs['scores']
    which, labels = _candidates(scores, decoding)
    scores = scores[which, labels]
    if 'factors' in outputs:
        scores = scores * outputs['factors'][which]
    boxes = boxes[which, labels] if boxes.ndim == 3 else boxes[which]
    if decoding.border is not None:
        limits = np.array([size[1], size[0]] * 2, np.float32) - decoding.border
        boxes = boxes.clip(0, limits)
    boxes = boxes * scale
    # a head of a user can exchange the ends of a box, whose side is then less than -1
    least = decoding.min_size if decoding.min_size >= 0 else -np.inf
    large = ((boxes[:, 2:] - boxes[:, :2]) > least).all(1)
    boxes, scores, labels = boxes[large], scores[large], labels[large]
    order = np.argsort(-scores, kind='stable')
    boxes, scores, labels = boxes[order], scores[order], labels[order]
    chosen: list[int] = []
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        chosen += list(of_class[suppress(boxes[of_class], decoding.iou_thr)])
    kept = np.sort(np.asarray(chosen, int))
    if decoding.max_per_image > 0:
        kept = kept[: decoding.max_per_image]
    return boxes[kept], scores[kept], labels[kept]


def detect(
    outputs: Mapping[str, np.ndarray],
    decoding: DetectionDecoding | FinalBoxes,
    classes: Sequence[str] | None,
    size: Size,
    original: tuple[float, float],
) -> dict[str, Any]:
    """Return the boxes of one image, with mmdet's names.

    Args:
        outputs: ``boxes``, ``scores`` (and ``factors`` or ``labels``) of the image, see
            the manifest.
        decoding: Settings of the manifest.
        classes: Names of the classes, or None.
        size: Height and width of the image in the network's input. As in mmdet, they
            include the padding of pipeline steps. Boxes are clipped to this size.
        original: The same height and width in pixels of the original image.

    Returns:
        ``bboxes``, ``(n, 4)`` corners in pixels of the image, ``scores`` and ``labels``,
        best first; ``classes`` if there are names.
    """
    scale = np.array([b / a for a, b in zip(size, original)], np.float32)[[1, 0, 1, 0]]
    if isinstance(decoding, FinalBoxes):
        boxes, scores, labels = (outputs[k] for k in ('boxes', 'scores', 'labels'))
        real = labels >= 0
        boxes, scores, labels = boxes[real] * scale, scores[real], labels[real]
    else:
        boxes, scores, labels = _picked(outputs, decoding, size, scale)
    result: dict[str, Any] = {'bboxes': boxes, 'scores': scores, 'labels': labels.astype(int)}
    if classes:
        _check_names(classes, int(labels.max(initial=-1)) + 1)
        result['classes'] = [classes[label] for label in result['labels']]
    return result
