"""Trainings of several forms of a network: stored one by one, compared pair by pair."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from json_lines import Line, read, write
from paired import paired_difference

from mmesbnn import options
from mmesbnn.whole_files import check_file, whole_file

#: The form that all others are compared with.
BASELINE = 'baseline'


def _lines_file(given: str) -> Path:
    """Return the file of ``--out``, beside which the picture gets the ending ``.png``."""
    path = options.path(given)
    if path.suffix == '.png':
        raise argparse.ArgumentTypeError(f'{given!r} must not end with .png, as the picture does')
    return path


def parser_of(text: str, forms: Iterable[str], out: Path, seeds: int) -> argparse.ArgumentParser:
    """Return a parser of ``--forms``, ``--seeds`` and ``--out``.

    Args:
        text: Docstring of the script.
        forms: Names of all its forms.
        out: Default of ``--out``.
        seeds: Default of ``--seeds``.
    """
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = list(forms)
    parser.add_argument(
        '--forms',
        nargs='*',
        choices=names,
        default=names,
        metavar='NAME',
        help=f'of: {"; ".join(names)}; none: print the table only',
    )
    parser.add_argument(
        '--seeds', type=options.count, default=seeds, help='trainings of every form'
    )
    parser.add_argument('--out', type=_lines_file, default=out)
    return parser


def train_missing(
    path: Path,
    train: Callable[..., Line],
    forms: Iterable[str],
    seeds: Iterable[int],
    **setting: Any,
) -> None:
    """Train what ``path`` does not hold, seed by seed, and add one line for each training.

    The file is not locked: of two processes that add at the same moment one loses its line.

    Args:
        path: File of JSON lines.
        train: Called with ``form``, ``seed`` and ``setting``; returns measurements.
        forms: Names of forms.
        seeds: The seeds.
        **setting: What else tells one training from another.

    Raises:
        ValueError: If ``path`` is damaged, or holds the results of another command.
        OSError: If ``path``, or the picture beside it, cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        for form in forms:
            key = dict(form=form, seed=seed, **setting)
            if any(key.items() <= line.items() for line in read(path, *key)):
                continue
            for written in (path, path.with_suffix('.png')):
                check_file(written)
            line = key | train(**key)
            print(json.dumps(line), flush=True)
            write(path, [*read(path), line])


def pairs(lines: list[Line], form: str, metric: str) -> tuple[list[float], list[float]]:
    """Return the values of ``form`` and of the baseline for all seeds that both have."""
    runs = {(line['form'], line['seed']): line[metric] for line in lines}
    seeds = sorted(seed for name, seed in runs if name == form and (BASELINE, seed) in runs)
    return [runs[form, seed] for seed in seeds], [runs[BASELINE, seed] for seed in seeds]


def table(lines: list[Line], forms: Iterable[str], metrics: Sequence[str]) -> str:
    """Write the means of the forms, and their differences to the baseline, as Markdown."""
    head = ['form', 'seeds', *(cell for metric in metrics for cell in (metric, 'difference'))]
    rows = [head, ['---'] * len(head)]
    for form in forms:
        row = []
        for metric in metrics:
            own, baseline = pairs(lines, form, metric)
            if own:
                difference = paired_difference(own, baseline)
                shown = '' if form == BASELINE else difference.in_words(3)
                row += [f'{mean(own):.3f}', shown]
        if row:
            rows.append([form, str(len(own)), *row])
    return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


def draw(lines: list[Line], forms: Iterable[str], metrics: dict[str, str], path: Path) -> None:
    """Draw the difference of each form to the baseline: every pair, mean and interval.

    Args:
        lines: Results.
        forms: Names of forms.
        metrics: Titles by the names of measurements; one panel each.
        path: The PNG file to write.
    """
    from matplotlib.figure import Figure

    shown = [
        form for form in forms if form != BASELINE and pairs(lines, form, next(iter(metrics)))[0]
    ]
    figure = Figure(
        figsize=(3.1 * len(metrics) + 1.5, 0.36 * len(shown) + 1.4), layout='constrained'
    )
    axes = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for axis, (metric, title) in zip(axes, metrics.items()):
        for y, form in enumerate(shown):
            own, baseline = pairs(lines, form, metric)
            d = paired_difference(own, baseline)
            axis.plot(
                [a - b for a, b in zip(own, baseline)], [y] * len(own), 'o', color='C0', alpha=0.4
            )
            if d.pairs > 1:
                axis.plot([d.low, d.high], [y, y], color='C0', linewidth=2)
            axis.plot(d.mean, y, '|', color='C0', markersize=16, markeredgewidth=2)
        axis.axvline(0, color='grey', linewidth=1)
        axis.grid(alpha=0.3)
        axis.set(title=title, xlabel='difference to the baseline')
        axis.locator_params(axis='x', nbins=4)  # more labels would overlap
    names = [f'{form} ({len(pairs(lines, form, next(iter(metrics)))[0])})' for form in shown]
    axes[0].set_yticks(range(len(shown)), names)
    axes[0].set_ylim(len(shown) - 0.5, -0.5)
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=140, format='png')


def show(lines: list[Line], forms: Iterable[str], metrics: dict[str, str], out: Path) -> None:
    """Draw the results beside ``out`` and print their table; arguments as :func:`draw`."""
    draw(lines, forms, metrics, out.with_suffix('.png'))
    print(table(lines, forms, metrics))
