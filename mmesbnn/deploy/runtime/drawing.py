"""Drawing of results into images. Needs PIL and numpy only."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

#: Images with a shorter side below this number of pixels are enlarged to fit text.
_LEAST = 160
#: Largest number of pixels of an enlarged image.
_MOST = 2**22


def colour_of(label: int) -> tuple[int, int, int]:
    """Return a colour for a class that differs clearly from its neighbours' colours."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.381966 % 1, 0.6, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def _name(label: int, classes: Sequence[str] | None) -> str:
    return classes[label] if classes else str(label)


def _canvas(
    image: np.ndarray,
) -> tuple[Image.Image, int, ImageFont.FreeTypeFont | ImageFont.ImageFont]:
    """Return the image, enlarged if it is small, the factor, and a font that fits."""
    height, width = image.shape[:2]
    # a long line of pixels would become a huge square
    factor = min(-(-_LEAST // min(height, width)), math.isqrt(_MOST // (height * width)))
    factor = max(factor, 1)
    height, width = height * factor, width * factor
    canvas = Image.fromarray(image).resize((width, height), Image.Resampling.NEAREST)
    font = ImageFont.load_default(size=max(11, min(height, width) / 28))
    return canvas, factor, font


def _write(
    draw: ImageDraw.ImageDraw,
    corner: tuple[float, float],
    text: str,
    font: Any,
    colour: tuple[int, int, int],
) -> None:
    left, top, right, bottom = draw.textbbox(corner, text, font)
    draw.rectangle((left - 2, top - 2, right + 2, bottom + 2), fill=colour)
    draw.text(corner, text, (0, 0, 0), font)


def draw_labels(
    image: np.ndarray,
    result: Mapping[str, Any],
    classes: Sequence[str] | None = None,
    count: int = 3,
) -> Image.Image:
    """Draw the best classes and their scores on the image.

    Args:
        image: Array ``(H, W, 3)``.
        result: Result of a classification.
        classes: Names of the classes. Default None: numbers.
        count: Number of classes to draw. Default 3.
    """
    canvas, _, font = _canvas(image)
    draw = ImageDraw.Draw(canvas)
    scores = result['pred_scores']
    best = np.argsort(-scores, kind='stable')[:count]
    lines = [f'{_name(label, classes)}  {scores[label]:.1%}' for label in best]
    y = 4.0
    for label, line in zip(best, lines):
        _write(draw, (4, y), line, font, colour_of(int(label)))
        y = draw.textbbox((4, y), line, font)[3] + 4
    return canvas


def draw_boxes(
    image: np.ndarray,
    result: Mapping[str, Any],
    classes: Sequence[str] | None = None,
    score_thr: float = 0.3,
) -> Image.Image:
    """Draw the boxes with a score of at least ``score_thr`` on the image.

    Args:
        image: Array ``(H, W, 3)``.
        result: Result of a detection.
        classes: Names of the classes. Default None: numbers.
        score_thr: Smallest score of a drawn box. Default 0.3.
    """
    canvas, factor, font = _canvas(image)
    draw = ImageDraw.Draw(canvas)
    found = zip(result['bboxes'], result['scores'], result['labels'])
    shown = [item for item in found if item[1] >= score_thr and np.isfinite(item[0]).all()]
    limits = (*canvas.size, *canvas.size)
    for box, score, label in reversed(shown):  # the best box is drawn last
        # PIL counts pixels in 32 bits
        x1, y1, x2, y2 = (
            min(max(float(value) * factor, -limit), 2.0 * limit)
            for value, limit in zip(box, limits)
        )
        colour = colour_of(int(label))
        draw.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=colour, width=2)
        text = f'{_name(int(label), classes)} {score:.2f}'
        _write(draw, (x1 + 3, y1 + 2), text, font, colour)
    return canvas
