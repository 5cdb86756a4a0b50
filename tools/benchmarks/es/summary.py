"""Paired differences between forms, corrected for how many were tried, as tables."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import mean
from typing import Any

from paired import PairedDifference, paired_difference

from .forms import BASELINE, Form, Setting, form_of
from .records import Records

#: Figures of a record: the part, the number in it, and its name in tables.
FIGURES = {
    'capacity': ('fit', 'loss', 'loss, fresh training crops'),
    'score': ('fit', 'score', 'score, fresh training crops'),
    'held_out': ('test', 'score', 'score, held-out crops'),
}
#: Probability that all intervals of a setting cover their means.
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Row:
    """A form in a setting.

    Attributes:
        setting: What the trainings share.
        form: The form.
        seeds: Seeds for which this form and the baseline were trained.
        ops: Operations, in millions.
        means: Mean of every one of ``FIGURES``.
        gains: Difference of each to the baseline, signed so that more is better; none
            for the baseline.
    """

    setting: Setting
    form: Form
    seeds: tuple[int, ...]
    ops: float
    means: dict[str, float]
    gains: dict[str, PairedDifference]


def _figure(records: Iterable[dict[str, Any]], name: str) -> list[float]:
    part, number, _ = FIGURES[name]
    return [record[part][number] for record in records]


def summarise(records: Records) -> list[Row]:
    """Return a row per setting and form.

    Intervals are Student's for pairs of equal seed, at a confidence of ``1 - 0.05 / k``
    with the ``k`` forms of the setting (Bonferroni): the probability that one of a
    setting's intervals misses is at most 5 %.
    """
    rows = []
    settings = {setting: None for setting, _, _ in records.found}
    for setting in settings:
        by_form: dict[str, dict[int, dict]] = {}
        for (other, form, seed), record in records.found.items():
            if other == setting:
                by_form.setdefault(form, {})[seed] = record
        baseline = by_form.get(str(BASELINE), {})
        forms = sorted((form_of(x) for x in by_form), key=str)
        # a form of one seed has no interval
        k = sum(len(by_form[str(x)].keys() & baseline.keys()) > 1 for x in forms) - 1
        rows += [_row(setting, x, by_form[str(x)], baseline, max(k, 1)) for x in forms]
    return rows


def _row(setting: Setting, form: Form, own: dict, baseline: dict, k: int) -> Row:
    seeds = sorted(own.keys() & baseline.keys() if form != BASELINE else own)
    chosen = [own[seed] for seed in seeds or own]
    means = {name: mean(_figure(chosen, name)) for name in FIGURES}
    gains = {}
    if form != BASELINE and seeds:
        others = [baseline[seed] for seed in seeds]
        for name in FIGURES:
            a, b = _figure(chosen, name), _figure(others, name)
            if FIGURES[name][1] == 'loss':
                a, b = b, a
            gains[name] = paired_difference(a, b, 1 - (1 - CONFIDENCE) / k)
    return Row(setting, form, tuple(seeds), chosen[0]['ops'] / 1e6, means, gains)


def table(rows: list[Row]) -> str:
    """Return all rows as Markdown tables, one per setting."""
    lines: list[str] = []
    setting = None
    for row in rows:
        if row.setting != setting:
            setting = row.setting
            unit = '%' if setting.task == 'regions' else 'dB'
            lines += [
                '',
                f'**{setting.in_words()}** ({row.ops:.4f} M OPs)',
                '',
                f'| form | seeds | fit loss | gain | fit {unit} | gain | held-out {unit} | gain |',
                '|---|---|---|---|---|---|---|---|',
            ]
        cells = [f'`{row.form}`', str(len(row.seeds) or 1)]
        for name, digits in (('capacity', 4), ('score', 2), ('held_out', 2)):
            cells.append(f'{row.means[name]:.{digits}f}')
            cells.append(row.gains[name].in_words(digits) if row.gains else '')
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines[1:])
