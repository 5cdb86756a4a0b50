"""Gains of all forms, and gains against width, depth, length and tau, as a picture."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from paired import PairedDifference

from mmesbnn.whole_files import whole_file

from .forms import BASELINE, TASKS, Form, Setting
from .summary import Row

#: Axes of the lower panels, and what they show.
AXES = {'width': 'channels', 'depth': 'residual units', 'iters': 'training steps', 'tau': 'tau'}
#: The same form in all settings of a line.
Line = tuple[Setting, Form]


def draw(rows: list[Row], path: Path) -> None:
    """Draw capacity and held-out gains of every form, and capacity along every axis."""
    compared = [row for row in rows if row.gains]
    tasks = [task for task in TASKS if any(x.setting.task == task for x in compared)]
    lines = {axis: along(axis, compared) for axis in AXES}
    shown = [axis for axis in AXES if lines[axis]]
    heights = [0.26 * sum(x.setting.task == task for x in compared) + 1.1 for task in tasks]
    heights += [3.6] if shown else []
    figure = Figure(figsize=(13, sum(heights)), layout='constrained')
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, task in zip(parts, tasks):
        _forest(part, task, [row for row in compared if row.setting.task == task])
    if shown:
        for panel, axis in zip(parts[-1].subplots(1, len(shown), squeeze=False)[0], shown):
            _panel(panel, axis, lines[axis])
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=100, format='png')


def capacity(row: Row) -> PairedDifference:
    """Return the gain on fresh training crops: in nats for ``regions``, else in dB."""
    return row.gains['capacity' if row.setting.task == 'regions' else 'score']


def _forest(part: Any, task: str, rows: list[Row]) -> None:
    left, right = part.subplots(1, 2, sharey=True)
    families = list(dict.fromkeys(x.setting.family for x in rows))
    for y, row in enumerate(rows):
        colour = f'C{families.index(row.setting.family)}'
        _gain(left, capacity(row), y, colour)
        _gain(right, row.gains['held_out'], y, colour)
    left.set_yticks(range(len(rows)), [_label(row) for row in rows], fontsize=8)
    left.set_ylim(len(rows) - 0.5, -0.5)
    unit, score = ('nats', 'points') if task == 'regions' else ('dB', 'dB')
    left.set(title=f'{task}: gain on fresh training crops (capacity)', xlabel=unit)
    right.set(title=f'{task}: gain on held-out crops', xlabel=score)
    for axis in (left, right):
        axis.axvline(0, color='black', linewidth=1)
        axis.grid(alpha=0.3)


def _label(row: Row) -> str:
    s = row.setting
    seeds = f'{len(row.seeds)} seeds' if len(row.seeds) > 1 else '1 seed'
    size = f'{s.width} channels, {s.depth} units, {s.iters} steps'
    return f'{s.family}, {size}, lr {s.lr:g}: {row.form} ({seeds})'


def _gain(axis: Any, gain: PairedDifference, y: int, colour: str) -> None:
    has_interval = gain.pairs > 2  # that of two pairs is so wide that it hides all others
    if has_interval:
        axis.plot([gain.low, gain.high], [y, y], color=colour, linewidth=2)
    axis.plot(gain.mean, y, 'o', color=colour, fillstyle='full' if has_interval else 'none')


def _line(axis: str, row: Row) -> Line:
    """Return what is left of a row when the axis is taken out."""
    if axis == 'tau':
        return row.setting, replace(row.form, tau=1)
    return replace(row.setting, **{axis: getattr(Setting(), axis)}), row.form


def along(axis: str, rows: list[Row]) -> dict[Line, dict[int, PairedDifference]]:
    """Return capacity gains of forms that were measured at several places of an axis."""
    counts = Counter(_line(axis, row) for row in rows)
    found: dict[Line, dict[int, PairedDifference]] = {}
    for row in rows:
        line = _line(axis, row)
        if counts[line] < 2 or row.form.costs_more or row.form == BASELINE:
            continue
        place = row.form.tau if axis == 'tau' else getattr(row.setting, axis)
        found.setdefault(line, {})[place] = capacity(row)
    return found


def line_labels(axis: str, lines: list[Line]) -> list[str]:
    """Return a label for each line, with its size where labels would be alike."""
    short = []
    for setting, form in lines:
        name = replace(form, tau=2) if axis == 'tau' else form
        short.append(f'{setting.family} {setting.task} {str(name).removeprefix("2x1+")}')
    sizes = [f', {setting.width} channels, {setting.depth} units' for setting, _ in lines]
    return [label + size if short.count(label) > 1 else label for label, size in zip(short, sizes)]


def _panel(panel: Any, axis: str, lines: dict[Line, dict[int, PairedDifference]]) -> None:
    places = sorted({place for points in lines.values() for place in points})
    labels = line_labels(axis, list(lines))
    for i, (points, label) in enumerate(zip(lines.values(), labels)):
        xs = sorted(points)
        ys = [points[x].mean for x in xs]
        errors = [[points[x].mean - points[x].low if points[x].pairs > 1 else 0 for x in xs]] * 2
        panel.errorbar(xs, ys, errors, marker='o', capsize=3, color=f'C{i}', label=label)
    panel.axhline(0, color='black', linewidth=1)
    panel.set_xscale('log', base=2)
    panel.set_xticks(places, [str(x) for x in places])
    panel.set(xlabel=AXES[axis], ylabel='gain in nats, or dB', title=f'against {AXES[axis]}')
    panel.grid(alpha=0.3)
    panel.legend(fontsize=6)
