"""Compare baseline and ES forms of narrow binary networks at equal operations.

    python tools/benchmarks/es_vs_baseline.py [--seeds 5] [--out DIR]

The task is classification: each grey 32x32 patch comes from one of 16 bundled photographs
and textures, and the network names the image. The left part of every image is for
training, the right part for testing. The script trains a BNext, a ReActNet and a BinaryViT
with several tau and groups. All forms of a network have equally many operations and binary
weights. With the same seed they see the same patches in the same order. The script prints
and draws the accuracies and the paired difference to tau=1, groups=1 with its 95 %
confidence interval.

Results are saved after every training. A training that DIR/results.json already holds with
the same settings is not repeated.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from mmesbnn import cli, options  # before the slow imports

# isort: split

import torch
import torch.nn.functional as F
from mmengine.config import DictAction
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from paired import paired_difference
from torch import Tensor, nn
from tqdm import tqdm

import mmesbnn  # noqa: F401  (registers)
from mmesbnn.analysis import check_binary, count_ops, save_json
from mmesbnn.binary import Expansion
from mmesbnn.binary.expansion import spread_thresholds
from mmesbnn.datasets.patches import PATCH_CLASSES, PatchTask, patch_task
from mmesbnn.engine.hooks.parameter_bounds import bounded_parameters, clamp_parameters
from mmesbnn.engine.reach import temperature_weights
from mmesbnn.engine.temperature_schedule import temperature_schedule
from mmesbnn.models.backbones.reactnet import ReActUnit
from mmesbnn.models.layers import RecoupledConv
from mmesbnn.whole_files import whole_file

SIZE = 32

#: tau and groups
Form = tuple[int, int]
BASELINE = (1, 1)

FAMILIES = ('BNext', 'ReActNet', 'BinaryViT')


def network(family: str, width: int) -> dict:
    """Return a narrow network of a family, with all its widths multiplied by ``width``."""
    channels = [16 * width, 16 * width, 32 * width]
    if family == 'BNext':
        arch: dict = dict(channels=channels, depths=[1, 1])
        return dict(type=family, arch=arch, se_ratio=2)
    if family == 'ReActNet':
        return dict(type=family, arch=dict(channels=channels, depths=[2, 2]))
    arch = dict(
        dims=[48 * width],
        depths=[2],
        heads=[3 * width],
        ffn_dims=[96 * width],
        sr_ratios=[1],
        patch_size=8,
    )
    return dict(type=family, arch=arch, img_size=SIZE)


class Classifier(nn.Module):
    """Classifier with a backbone, global average pooling and a linear layer."""

    def __init__(self, backbone: dict) -> None:
        super().__init__()
        self.backbone = MODELS.build(dict(backbone, in_channels=1))
        self.head = nn.Linear(self.backbone.out_channels[-1], len(PATCH_CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits ``(N, 16)`` of the patches ``x``."""
        return self.head(self.backbone(x)[-1].mean((2, 3)))


def build(family: str, form: Form, args: argparse.Namespace) -> Classifier:
    cfg = {**network(family, args.width), **dict(zip(('tau', 'groups'), form)), **args.backbone}
    if family == 'BinaryViT' and args.spread is not None:
        cfg['spread'] = args.spread
    model = Classifier(cfg)
    if args.spread is None:
        return model
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, RecoupledConv):
                spread_out(module.shift.bias, form, args.spread)
            if isinstance(module, ReActUnit):
                spread_out(module.sign.shift.bias, form, args.spread)
    return model


def spread_out(shift: Tensor, form: Form, spread: float) -> None:
    """Give the copies of an expanded feature different thresholds."""
    copies = Expansion(*form).copies
    shifts = spread_thresholds(shift.numel() // copies, copies, spread)
    shift.copy_(shifts.view_as(shift))


def forms_of(wanted: list[Form]) -> list[Form]:
    """Return the baseline and the forms to compare it with."""
    return [BASELINE, *(form for form in wanted if form != BASELINE)]


def form_of(text: str) -> Form:
    """Parse ``'2x1'`` to ``(2, 1)``."""
    tau, _, groups = text.partition('x')
    return options.count(tau), options.count(groups)


def batches(task: PatchTask, size: int, rng: torch.Generator) -> Iterator[tuple]:
    """Yield the training batches of an epoch; mirror each patch with probability 0.5."""
    order = torch.randperm(len(task.train), generator=rng)
    for chosen in order.split(size):
        x = task.train[chosen]
        flip = torch.rand(len(x), 1, 1, 1, generator=rng) < 0.5
        yield torch.where(flip, x.flip(-1), x), task.train_labels[chosen]


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, labels: Tensor) -> float:
    """Return the percentage of right answers."""
    model.eval()
    right = [
        (model(part).argmax(1) == label).sum()
        for part, label in zip(x.split(256), labels.split(256))
    ]
    return 100 * torch.stack(right).sum().item() / len(x)


def train(model: Classifier, task: PatchTask, args: Any, seed: int, bar: tqdm) -> dict:
    """Train ``model`` and return its accuracy on both parts of the images."""
    optim_wrapper = build_optim_wrapper(
        model,
        dict(
            optimizer=dict(type='AdamW', lr=args.lr, weight_decay=1e-3),
            constructor='BinaryOptimWrapperConstructor',
        ),
    )
    steps = args.epochs * math.ceil(len(task.train) / args.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optim_wrapper.optimizer, args.lr, steps, pct_start=0.1
    )
    weights, bounded = temperature_weights(model), bounded_parameters(model)
    decay = 1.0
    if weights:  # binary for the second half
        below = min(weight.binary_below for weight in weights)
        decay = temperature_schedule(below, binary_from=args.epochs // 2).decay
    rng = torch.Generator().manual_seed(seed)
    clamp_parameters(bounded)
    for epoch in range(args.epochs):
        for weight in weights:
            weight.temperature.fill_(decay**epoch)
        model.train()
        for x, labels in batches(task, args.batch_size, rng):
            loss = F.cross_entropy(model(x), labels)
            optim_wrapper.update_params(loss)
            clamp_parameters(bounded)
            schedule.step()
            bar.update(len(x))
    return {
        'train': accuracy(model, task.train, task.train_labels),
        'test': accuracy(model, task.test, task.test_labels),
    }


def run(args: argparse.Namespace) -> dict:
    """Run all trainings that ``results.json`` does not hold yet."""
    path = args.out / 'results.json'
    results = {'settings': settings(args), 'costs': costs(args), 'runs': {}}
    if path.exists():
        old = json.loads(path.read_text())
        if old['settings'] != results['settings']:
            raise ValueError(f'--out {args.out} holds results of other settings')
        results['runs'] = old['runs']
    todo = [
        (seed, family, form)
        for seed in range(args.seeds)
        for family in args.families
        for form in forms_of(args.forms)
        if key(family, form, seed) not in results['runs']
    ]
    patches = args.epochs * args.train_per_class * len(PATCH_CLASSES)
    with tqdm(total=len(todo) * patches, unit='patch', disable=None) as bar:
        for seed, family, form in todo:
            bar.set_description(key(family, form, seed))
            task = patch_task(args.train_per_class, args.test_per_class, SIZE, seed)
            torch.manual_seed(seed)
            model = build(family, form, args)
            run = train(model, task, args, seed, bar)
            if findings := check_binary(model, task.test[:2]):
                raise RuntimeError(f'not binary after training: {findings[0]}')
            bar.write(f'{key(family, form, seed)}: {run["test"]:.2f} %')
            results['runs'][key(family, form, seed)] = run
            save_json(path, results)
    save_json(path, results)
    return results


def settings(args: argparse.Namespace) -> dict:
    """Return the settings that the results depend on, without the seed."""
    names = (
        'epochs',
        'batch_size',
        'lr',
        'train_per_class',
        'test_per_class',
        'width',
        'spread',
        'backbone',
    )
    values = {name: getattr(args, name) for name in names}
    return {**values, 'networks': [network(name, args.width) for name in FAMILIES]}


def key(family: str, form: Form, seed: int | None = None) -> str:
    name = f'{family} tau={form[0]} groups={form[1]}'
    return name if seed is None else f'{name} seed={seed}'


def costs(args: argparse.Namespace) -> dict:
    """Count the operations and weights of every form."""
    counted = {}
    for family in args.families:
        for form in forms_of(args.forms):
            report = count_ops(build(family, form, args), (1, SIZE, SIZE))
            names = ('ops', 'fp_macs', 'bops', 'binary_params', 'fp_params')
            total = report.total
            counted[key(family, form)] = {
                **{name: total[name] for name in names},
                'capacity': total['capacity_median'],
            }
    return counted


def summary(results: dict, args: argparse.Namespace) -> list[dict]:
    """Return the means, deviations and paired differences of every form."""

    def values(family: str, form: Form, part: str) -> list[float]:
        keys = [key(family, form, seed) for seed in range(args.seeds)]
        return [results['runs'][name][part] for name in keys]

    rows = []
    for family in args.families:
        for form in forms_of(args.forms):
            row = {
                'family': family,
                'tau': form[0],
                'groups': form[1],
                **results['costs'][key(family, form)],
            }
            for part in ('train', 'test'):
                own = values(family, form, part)
                row[part] = {'all': own, 'mean': mean(own), 'std': stdev(own)}
                if form != BASELINE:
                    d = paired_difference(own, values(family, BASELINE, part))
                    row[part]['difference'] = vars(d) | {'clear': d.clear}
            rows.append(row)
    return rows


def table(rows: list[dict]) -> str:
    lines = [
        'network    tau  groups  OPs (M)  binary weights  values  '
        + '  '.join(f'{part + " %":<15}  {"difference to 1x1":<24}' for part in ('train', 'test'))
    ]
    for row in rows:
        line = (
            f'{row["family"]:<9}  {row["tau"]:>3}  {row["groups"]:>6}  '
            f'{row["ops"] / 1e6:>7.4f}  {row["binary_params"]:>14,}  '
            f'{row["capacity"]:>6.0f}'
        )
        for part in ('train', 'test'):
            cell = f'{row[part]["mean"]:.2f} +- {row[part]["std"]:.2f}'
            line += f'  {cell:<15}  {difference(row[part]):<24}'
        lines.append(line.rstrip())
    return '\n'.join(lines)


def difference(values: dict) -> str:
    """Format the paired difference, with a star if its interval excludes 0."""
    if 'difference' not in values:
        return ''
    d = values['difference']
    star = ' *' if d['clear'] else ''
    return f'{d["mean"]:+.2f} [{d["low"]:+.2f}, {d["high"]:+.2f}]{star}'


def draw(rows: list[dict], path: Path) -> None:
    """Draw each training as a dot, and the paired differences with their intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 0.42 * len(rows) + 1.5), layout='constrained')
    left, right = figure.subplots(1, 2, sharey=True)
    colours = {family: f'C{i}' for i, family in enumerate(FAMILIES)}
    for y, row in enumerate(rows):
        colour, test = colours[row['family']], row['test']
        left.plot(test['all'], [y] * len(test['all']), 'o', color=colour, alpha=0.4)
        left.plot(test['mean'], y, '|', color=colour, markersize=16, markeredgewidth=2)
        if 'difference' in test:
            d = test['difference']
            right.plot([d['low'], d['high']], [y, y], color=colour, linewidth=2)
            right.plot(d['mean'], y, 'o', color=colour)
    left.set_yticks(
        range(len(rows)), [f'{r["family"]}  tau={r["tau"]}, g={r["groups"]}' for r in rows]
    )
    left.invert_yaxis()
    left.set(title='test accuracy of every seed, and mean', xlabel='%')
    right.set(title='difference to tau=1, g=1', xlabel='points, paired, 95 % interval')
    right.axvline(0, color='grey', linewidth=1)
    for axis in (left, right):
        axis.grid(alpha=0.3)
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=100, format='png')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('--families', nargs='+', choices=FAMILIES, default=list(FAMILIES))
    add(
        '--forms',
        nargs='+',
        type=form_of,
        metavar='TAUxGROUPS',
        default=[(1, 2), (2, 1), (2, 2), (4, 1)],
        help='forms to compare with 1x1, the baseline; default: 1x2 2x1 2x2 4x1',
    )
    add('--seeds', type=options.count, default=4, help='trainings of every form')
    add('--epochs', type=options.count, default=20)
    add('--train-per-class', type=options.count, default=64, help='patches per image')
    add('--test-per-class', type=options.count, default=64, help='patches per image')
    add('--batch-size', type=options.count, default=64)
    add('--width', type=options.count, default=1, help='factor of all widths')
    add('--lr', type=options.positive, default=4e-3)
    add(
        '--backbone',
        nargs='+',
        action=DictAction,
        default={},
        metavar='KEY=VALUE',
        help='more arguments of every backbone, for example out_copies=all',
    )
    add(
        '--spread',
        type=options.not_negative,
        help='the thresholds of the copies start evenly spaced in [-SPREAD, SPREAD]; default: '
        "the networks' own: 0 (equal thresholds), for BinaryViT 0.5",
    )
    add('--quick', action='store_true', help='trial run: two epochs of few patches')
    add('--out', type=options.path, default=Path('work_dirs/es_vs_baseline'))
    args = parser.parse_args()
    if args.quick:
        args.epochs, args.train_per_class, args.test_per_class = 2, 4, 4
    least = dict(seeds=2, epochs=2, train_per_class=1, test_per_class=1, batch_size=2, width=1)
    for name, value in least.items():
        if getattr(args, name) < value:
            parser.error(f'--{name.replace("_", "-")} must be at least {value}')
    return args


def main() -> None:
    args = parse_args()
    MMLogger.get_instance('mmengine', log_level='WARNING')
    args.out.mkdir(parents=True, exist_ok=True)
    results = run(args)
    rows = summary(results, args)
    text = table(rows)
    save_json(args.out / 'results.json', {**results, 'summary': rows})
    draw(rows, args.out / 'results.png')
    print(text)
    print(f'\n{args.seeds} seeds; * the 95 % interval excludes 0; files in {args.out}')


if __name__ == '__main__':
    cli.run(main)
