"""Presets: the settings, forms and seeds that a command trains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from .forms import BASELINE, TASKS, Form, Setting, form_of

Training = tuple[Setting, Form, int]


@dataclass(frozen=True)
class Study:
    """Forms that are compared to the baseline in one setting.

    Attributes:
        setting: What the trainings share.
        forms: The forms, without the baseline.
        seeds: A training of every form each.
    """

    setting: Setting
    forms: tuple[Form, ...]
    seeds: tuple[int, ...]

    def trainings(self) -> Iterator[Training]:
        """List what has to be trained, all forms of a seed first."""
        for seed in self.seeds:
            for form in (BASELINE, *self.forms):
                yield self.setting, form, seed


@dataclass(frozen=True)
class Preset:
    """The trainings of one command.

    Attributes:
        says: What it is for, and how long it takes.
        studies: What is compared.
    """

    says: str
    studies: tuple[Study, ...]


def study(forms: str, seeds: Iterable[int], **setting: Any) -> Study:
    """Make a study of forms as they are written, with some of ``Setting``'s arguments."""
    return Study(Setting(**setting), tuple(map(form_of, forms.split())), tuple(seeds))


TINY = dict(width=16, depth=2, iters=4, batch=8)
#: Where the pilot found the decisive pairs; other seeds judge them.
LONG = dict(iters=1500)
GPU = dict(width=128, depth=16, batch=256, iters=3000)
WIDE_DENOISING = dict(GPU, task='denoising', iters=1500)
DENOISERS = ('ReActNet', 'BiReal')
JUDGES = range(1, 5)
BNEXT_GATES = '2x1+balanced 2x1+balanced+even 2x1+balanced+full'
BNEXT_FORMS = '2x1 2x1+signs 2x1+balanced 4x1+balanced 2x1+balanced+full'

PRESETS = {
    'tiny': Preset(
        'a trial in seconds, of no meaning',
        tuple(study('2x1+signs', range(2), task=task, **TINY) for task in TASKS),
    ),
    'demo': Preset(
        'the pair that `make demo-es` shows, 12 minutes of one core',
        (study('2x1+balanced', range(1, 3), **LONG),),
    ),
    'pilot': Preset(
        'form and learning rate with one seed, 25 minutes of one core',
        (
            *(study('2x1+balanced', [0], lr=lr) for lr in (2e-3, 5e-3, 1e-2, 2e-2)),
            study('2x1 2x1+signs 2x1+balanced', [0], lr=5e-3),
            study('2x1 2x1+balanced', [0], task='denoising'),
            study('2x1+balanced', [0], family='BNext'),
        ),
    ),
    'cpu': Preset(
        'the decisive pairs, 2.5 hours of one core (an estimate)',
        (
            study('2x1 2x1+balanced', JUDGES, **LONG),
            study('2x1+balanced', JUDGES, task='denoising', family='BiReal'),
            study(BNEXT_FORMS, JUDGES, family='BNext', **LONG),
            study('2x1+balanced+even', range(1, 9), family='BNext', **LONG),
            study('2x1+balanced', JUDGES, task='denoising'),
            study('2x1+balanced 1x2+balanced', JUDGES, family='BinaryViT', depth=4),
            study('4x1+balanced', JUDGES, family='BinaryViT', depth=4),
        ),
    ),
    'axes': Preset(
        'gains against width, depth, length and tau, 4 hours of one core (an estimate)',
        (
            study('2x1+balanced 4x1+balanced 1x2+balanced', JUDGES, **LONG),
            *(study('2x1+balanced', JUDGES, width=width, **LONG) for width in (32, 128)),
            *(study('2x1+balanced', JUDGES, depth=depth, **LONG) for depth in (4, 16)),
            *(study('2x1+balanced', JUDGES, iters=iters) for iters in (600, 3000)),
        ),
    ),
    'gpu': Preset(
        'wider and deeper networks, 45 minutes of one H100 (an estimate)',
        (
            *(study(BNEXT_GATES, JUDGES, family='BNext', **dict(GPU, width=w)) for w in (128, 256)),
            study('2x1+balanced 4x1+balanced 1x2+balanced', JUDGES, **GPU),
            study(
                '2x1+balanced 4x1+balanced 1x2+balanced',
                JUDGES,
                family='BinaryViT',
                **dict(GPU, depth=8, iters=2000),
            ),
            *(study('2x1+balanced', JUDGES, family=f, **WIDE_DENOISING) for f in DENOISERS),
        ),
    ),
}
