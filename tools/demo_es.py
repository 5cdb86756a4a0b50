"""Train a binary network and its ES form at equal operations, and show which fits better."""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

from mmesbnn import cli, options  # before what takes time to import

# isort: split

import demo
from demo import ROOT
from matplotlib.figure import Figure

from mmesbnn.whole_files import whole_file

BENCHMARK = 'tools/benchmarks/es_vs_baseline.py'
#: The forms as the benchmark names them, and as the picture does.
FORMS = {'1x1': 'baseline', '2x1+balanced': 'ES, tau = 2'}
COLOURS = {'1x1': 'C7', '2x1+balanced': 'C3'}
Runs = dict[str, dict[int, dict[str, Any]]]


def read(path: Path) -> Runs:
    """Return the trainings of the benchmark's file, by form and seed."""
    runs: Runs = {form: {} for form in FORMS}
    for line in path.read_text().splitlines():
        record = json.loads(line)
        runs[record['form']][record['seed']] = record
    return runs


def report(runs: Runs) -> str:
    """Return the figures as lines of text."""
    baseline = runs['1x1']
    lines = []
    for form, name in FORMS.items():
        for seed, run in sorted(runs[form].items()):
            gain = run['fit']['score'] - baseline[seed]['fit']['score']
            lines.append(
                f'{name:<12} seed {seed}: {run["ops"] / 1e6:.4f} M OPs, fresh training crops '
                f'{run["fit"]["score"]:.2f} % right'
                + (f' ({gain:+.2f} points), ' if form != '1x1' else ', ')
                + f'held-out crops {run["test"]["score"]:.2f} %'
            )
    return '\n'.join(lines)


def draw(runs: Runs, path: Path) -> None:
    """Draw the loss of every training, and how many fresh crops it gets right."""
    figure = Figure(figsize=(10, 4), layout='constrained')
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    for i, (form, name) in enumerate(FORMS.items()):
        colour = COLOURS[form]
        for j, (_, run) in enumerate(sorted(runs[form].items())):
            curve = run['curve']
            steps = [(k + 1) * run['iters'] / len(curve) for k in range(len(curve))]
            left.plot(steps, curve, color=colour, alpha=0.8, label=None if j else name)
            score = run['fit']['score']
            bar = right.bar(j + 0.4 * i, score, 0.38, color=colour, label=None if j else name)
            right.bar_label(bar, [f'{score:.1f}'])
    ops = next(iter(runs['1x1'].values()))['ops'] / 1e6
    seeds = sorted(runs['1x1'])
    right.set_xticks([x + 0.2 for x in range(len(seeds))], [f'seed {x}' for x in seeds])
    left.set(title='loss while training', xlabel='step', ylabel='cross entropy', ylim=(None, 4.2))
    right.set(title='fresh crops of the training part', ylabel='% right, chance is 1 %')
    right.margins(y=0.12)  # room for the labels of the bars
    left.legend()
    left.grid(alpha=0.3)
    figure.suptitle(f'Binary ReActNet, 64 channels, 8 units, {ops:.4f} M operations each')
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=100, format='png')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add('--jobs', type=options.count, default=2, help='trainings at once; default 2')
    add('--work-dir', type=options.absolute, default=Path('work_dirs/demo_es'))
    args = parser.parse_args()
    os.chdir(ROOT)
    demo.be_quiet()
    began, work_dir = time.time(), args.work_dir
    work_dir.mkdir(parents=True, exist_ok=True)
    results, picture = work_dir / 'results.jsonl', work_dir / 'demo_es.png'
    demo.run(
        'train the baseline and its ES form, with two seeds',
        'python',
        BENCHMARK,
        '--preset',
        'demo',
        '--jobs',
        str(args.jobs),
        '--out',
        str(work_dir / 'results'),
    )
    runs = read(results)
    draw(runs, picture)
    print(f"""
Done in {time.time() - began:.0f} s.

{report(runs)}

  trainings {results}
  picture   {picture}

Next: other forms, widths and depths with {BENCHMARK}; docs/es_vs_baseline.md
says where ES helps.
""")


if __name__ == '__main__':
    cli.run(main)
