"""Picture of a training run's curves, from the scalars that mmengine logs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..optional import require
from ..whole_files import whole_file

_Record = TypeVar('_Record', bound=Mapping[str, Any])


def _read_log(file: Path) -> list[dict[str, Any]]:
    lines = file.read_bytes().splitlines(keepends=True)
    # a training that was killed while it wrote leaves a part of its last line
    if lines and not lines[-1].endswith(b'\n'):
        lines.pop()
    return [
        json_record(line, f'line {i} of {file}') for i, line in enumerate(lines, 1) if line.strip()
    ]


def json_record(line: bytes, name: str) -> dict[str, Any]:
    """Read a dict from a line of JSON.

    Args:
        line: The line.
        name: What it is called in messages.

    Raises:
        ValueError: If the line is damaged.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{name} is damaged: it must be JSON') from error
    if not isinstance(record, dict):
        raise ValueError(f'{name} is damaged: it must be a dict')
    return record


def read_scalars(work_dir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read all scalar records that the runs in ``work_dir`` logged, oldest first.

    A last line that a killed training left unfinished is skipped.

    Args:
        work_dir: ``work_dir`` of an mmengine run.

    Raises:
        FileNotFoundError: If no run in it logged anything.
        ValueError: If a line is damaged.
    """
    files = sorted(Path(work_dir).glob('*/vis_data/scalars.json'))
    records = [record for file in files for record in _read_log(file)]
    if not records:
        raise FileNotFoundError(f'work_dir={str(work_dir)!r} holds no logged scalars')
    return records


def series(records: Sequence[dict[str, Any]], key: str) -> tuple[list[Any], list[Any]]:
    """Return steps and values of the records that have ``key``, in ascending order of steps.

    Steps that a later run repeats are left out. A resumed training repeats those after its
    checkpoint, and one that began anew in the same folder repeats all.
    """
    found = latest(record for record in records if key in record)
    return [record['step'] for record in found], [record[key] for record in found]


def latest(records: Iterable[_Record]) -> list[_Record]:
    """Return records in ascending order of steps, without those of steps that a later run repeats.

    Args:
        records: Records with ``step``, in the order in which they were logged.
    """
    found: list[_Record] = []
    for record in reversed(list(records)):
        if not found or record['step'] < found[-1]['step']:
            found.append(record)
    return found[::-1]


def _draw_samples(figure: Any, samples: Sequence[tuple[Any, ...]]) -> None:
    columns = (len(samples) + 1) // 2
    grid = figure.subplots(2, columns)
    for axis in grid.flat:
        axis.axis('off')
    for axis, (image, label, predicted) in zip(grid.flat, samples):
        axis.imshow(image, cmap='gray', interpolation='nearest')
        colour = 'tab:green' if label == predicted else 'tab:red'
        axis.set_title(f'{predicted}', color=colour, fontsize=12)
    figure.suptitle('predictions on held-out images (red: wrong)')


def draw_training(
    records: Sequence[dict[str, Any]],
    path: str | os.PathLike[str],
    title: str,
    samples: Sequence[tuple[Any, ...]] = (),
) -> None:
    """Draw loss, accuracy, temperature, flip rate and sample predictions as a PNG.

    Args:
        records: Records of :func:`read_scalars`.
        path: PNG to write; an existing file is replaced as a whole.
        title: Title of the figure.
        samples: ``(image, label, predicted)``, images as arrays for ``imshow``.

    Raises:
        ImportError: If matplotlib is missing.
    """
    require('matplotlib', 'demo')
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8), layout='constrained')
    figure.suptitle(title)
    parts: Any = figure.subfigures(2, 1, height_ratios=(3, 2))
    top, bottom = parts
    axes = top.subplots(1, 4)
    panels = (
        ('loss', 'training loss', 'iteration', 'log'),
        ('accuracy/top1', 'validation accuracy (%)', 'epoch', 'linear'),
        ('temperature', 'temperature of the weights', 'iteration', 'log'),
        ('flip_rate', 'signs flipped per epoch', 'iteration', 'linear'),
    )
    for axis, (key, name, unit, scale) in zip(axes, panels):
        axis.plot(*series(records, key), marker='.', markersize=3)
        axis.set(title=name, xlabel=unit, yscale=scale)
        axis.grid(alpha=0.3)
    if samples:
        _draw_samples(bottom, samples)
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=100, format='png')
