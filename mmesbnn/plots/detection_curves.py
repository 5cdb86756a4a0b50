"""Picture of detectors' precision-recall curves and boxes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..optional import require
from ..whole_files import whole_file


def precision_recall(
    detections: Sequence[Sequence[np.ndarray]],
    truth: Sequence[dict[str, Any]],
    classes: Sequence[str],
    iou_thr: float = 0.5,
) -> dict[str, dict[str, Any]]:
    """Compute mmdet's precision and recall of every class, in descending order of scores.

    Args:
        detections: Arrays ``(n, 5)`` of box and score, for every image and class.
        truth: Arrays ``bboxes``, ``labels``, ``bboxes_ignore`` and ``labels_ignore`` of
            every image.
        classes: Names of the classes.
        iou_thr: Smallest overlap of a correct detection. Default 0.5.

    Returns:
        ``recall``, ``precision``, ``ap`` (11 points) and ``num_gts``, by class name.

    Raises:
        ImportError: If mmdet is missing.
    """
    require('mmdet', 'det', 'precision_recall')
    from mmdet.evaluation import eval_map

    _, results = eval_map(
        list(detections),
        list(truth),
        iou_thr=iou_thr,
        dataset=tuple(classes),
        logger='silent',
        eval_mode='11points',
        use_legacy_coordinate=True,
    )
    return dict(zip(classes, results))


def _draw_boxes(axis: Any, image: np.ndarray, found: Sequence[tuple[Any, ...]]) -> None:
    from matplotlib.patches import Rectangle

    axis.imshow(image)
    axis.axis('off')
    # the best box is last, so its label stays readable if two classes share a box
    for (x1, y1, x2, y2), name, score in sorted(found, key=lambda one: one[2]):
        corner = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor='lime', linewidth=1.5)
        axis.add_patch(corner)
        axis.text(
            x1,
            y1,
            f'{name} {score:.2f}',
            fontsize=7,
            va='bottom',
            color='black',
            bbox=dict(facecolor='lime', edgecolor='none', pad=1),
        )


def draw_detections(
    images: Sequence[tuple[np.ndarray, Sequence[tuple[Any, ...]]]],
    curves: Mapping[str, Mapping[str, dict[str, Any]]],
    path: str | os.PathLike[str],
    title: str,
) -> None:
    """Draw images with boxes, and below them the curves of every class, as a PNG.

    Args:
        images: Arrays ``(H, W, 3)``, each with its detections: box, class, score.
        curves: Results of :func:`precision_recall` by network.
        path: PNG to write; an existing file is replaced as a whole.
        title: Title of the figure.

    Raises:
        ImportError: If matplotlib is missing.
    """
    require('matplotlib', 'demo')
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8), layout='constrained')
    figure.suptitle(title)
    parts: Any = figure.subfigures(2, 1, height_ratios=(3, 2))
    top, bottom = parts
    columns = (len(images) + 1) // 2
    grid = top.subplots(2, columns, squeeze=False)
    for axis in grid.flat:
        axis.axis('off')
    for axis, (image, found) in zip(grid.flat, images):
        _draw_boxes(axis, image, found)
    classes = list(next(iter(curves.values())))
    for axis, name in zip(bottom.subplots(1, len(classes), squeeze=False)[0], classes):
        for network, by_class in curves.items():
            result = by_class[name]
            label = f'{network}: AP {result["ap"]:.2f}'
            axis.plot(result['recall'], result['precision'], label=label)
        axis.set(
            title=f'class {name}', xlabel='recall', ylabel='precision', xlim=(0, 1), ylim=(0, 1.02)
        )
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=110, format='png')
