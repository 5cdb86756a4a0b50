"""Picture of several versions of the same images side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..optional import require
from ..whole_files import whole_file


def draw_comparison(
    rows: Sequence[Sequence[tuple[str, np.ndarray]]], path: str | os.PathLike[str], title: str = ''
) -> None:
    """Draw images in a grid, each under its caption, as a PNG.

    Args:
        rows: Captions and images ``(H, W, 3)`` uint8 of every row. Small images are
            enlarged to the size of the others, without interpolation.
        path: PNG to write; an existing file is replaced as a whole.
        title: Title of the figure. Default ``''``.

    Raises:
        ValueError: If there is nothing to draw.
        ImportError: If matplotlib is missing.
    """
    if not rows or not all(rows):
        raise ValueError('rows: there must be at least one image in every row')
    require('matplotlib', 'demo')
    from matplotlib.figure import Figure

    columns = max(len(row) for row in rows)
    figure = Figure(figsize=(3 * columns, 3.3 * len(rows)), layout='constrained')
    figure.suptitle(title)
    axes: Any = figure.subplots(len(rows), columns, squeeze=False)
    for axis in axes.flat:
        axis.axis('off')
    for line, row in zip(axes, rows):
        for axis, (caption, image) in zip(line, row):
            axis.imshow(image, interpolation='nearest')
            axis.set_title(caption, fontsize=9)
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=100, format='png')
