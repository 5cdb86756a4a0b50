"""Train the small detector of `make demo-det` with ES in some of its parts, seed by seed.

    python tools/benchmarks/es_detection.py [--forms NAME ...] [--seeds 4] [--out FILE]
    python tools/benchmarks/es_detection.py --ranks

Every training is one line of FILE: the form, the seed, mAP on the held-out images (VOC's
11 points, and area) and the mean training loss of the last three epochs. What FILE holds
already is not trained again, so the script can be stopped and started. All forms with
the same epochs see the same images in the same order for the same seed, and all but
`all copies` have the same operations. Prints the means, and the paired differences to
`baseline` with their 95 % confidence intervals.

`--ranks` trains nothing: it prints how many independent maps untrained networks have
between their parts, as the effective rank `(tr C)^2 / sum_ij C_ij^2` of the channels'
correlations `C` over the pixels of a training batch.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from statistics import mean
from typing import Any

from mmesbnn import cli  # before what takes time to import

# isort: split

import torch
from json_lines import read
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from seeded_forms import BASELINE, parser_of, show, train_missing
from torch import Tensor, nn

from mmesbnn.analysis.capacity import correlations, effective_rank
from mmesbnn.datasets import write_mini_voc
from mmesbnn.engine.hooks import CopyInitHook

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / 'configs/demo/es_bnext_fcos_mini_voc.py'
PARTS = ('backbone', 'neck', 'head')
#: Layers whose input `--ranks` looks at.
READ = {
    'neck.lateral_convs.0': 'pyramid reads, stride 8 (32)',
    'neck.lateral_convs.1': 'pyramid reads, stride 16 (64)',
    'neck.fpn_convs.0': 'between its two layers (64)',
    'bbox_head.cls_convs.0': 'pyramid gives (64)',
    'bbox_head.conv_cls': 'class scores read (64)',
}
METRICS = {'map': 'mAP, 11 points', 'map_area': 'mAP, area', 'loss': 'training loss'}


def options_of(*parts: str, epochs: int = 18, **backbone: Any) -> dict[str, Any]:
    """Options for the config: tau = 2 in ``parts``, 1 in the others."""
    tau = {part: 2 if part in parts else 1 for part in PARTS}
    chosen: dict[str, Any] = {
        'model.backbone.tau': tau['backbone'],
        'model.neck.conv_cfg.tau': tau['neck'],
        'model.bbox_head.conv_cfg.tau': tau['head'],
        'epochs': epochs,
    }
    backbone = dict(copy_init='alike') | backbone
    return chosen | {f'model.backbone.{key}': value for key, value in backbone.items()}


#: What is compared. Every form has the operations and weight bits of the baseline,
#: `all copies` excepted: the laterals of its pyramid read twice the channels.
FORMS = {
    BASELINE: options_of(),
    'everywhere': options_of(*PARTS),
    'backbone': options_of('backbone'),
    'neck and head': options_of('neck', 'head'),
    'backbone, signs': options_of('backbone', copy_init='signs'),
    'backbone, balanced': options_of('backbone', copy_init='balanced'),
    'everywhere, balanced': options_of(*PARTS, copy_init='balanced') | {'hook': 'balanced'},
    'neck and head, balanced': options_of('neck', 'head') | {'hook': 'balanced'},
    'neck': options_of('neck'),
    'head': options_of('head'),
    'all copies': options_of('backbone', out_copies='all') | {'model.neck.in_channels': [64, 128]},
    'groups 2': options_of(groups=2),
}


class LossRecorder(Hook):
    """Keeps the training loss of every iteration."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Keep the sum of the losses."""
        self.losses.append(float(outputs['loss'].detach()))


def config_of(chosen: dict[str, Any], seed: int, work_dir: str) -> Config:
    """The demo's config with ``chosen``, tested at its end only."""
    cfg = Config.fromfile(CONFIG)
    chosen = dict(chosen)
    epochs = chosen.pop('epochs')
    if hook := chosen.pop('hook', None):
        cfg.custom_hooks.append(dict(type='CopyInitHook', copy_init=hook))
    cfg.train_cfg.update(max_epochs=epochs, val_interval=epochs)
    cfg.param_scheduler[1].T_max = epochs
    for hook in cfg.custom_hooks:
        if hook['type'] == 'TemperatureHook':
            hook['binary_from'] = epochs // 2
    cfg.default_hooks.checkpoint.interval = epochs
    cfg.randomness.seed = seed
    cfg.log_level = 'WARNING'
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        cfg[name].update(num_workers=0)
    cfg.merge_from_dict(chosen)
    cfg.work_dir = work_dir
    # mmengine keeps a visualizer and a log by name, for the whole process
    cfg.experiment_name = f'seed{seed}_{time.time_ns()}'
    cfg.visualizer.update(name=cfg.experiment_name, vis_backends=[])
    return cfg


def train(form: str, seed: int) -> dict[str, Any]:
    """Train a form; return what was measured."""
    with tempfile.TemporaryDirectory() as work_dir:
        runner = Runner.from_cfg(config_of(FORMS[form], seed, work_dir))
        recorder = LossRecorder()
        runner.register_hook(recorder)
        runner.train()
    scalars = runner.message_hub.log_scalars
    last = 3 * len(runner.train_dataloader)
    return {
        'map': float(scalars['val/pascal_voc/mAP'].current()),
        'map_area': float(scalars['val/pascal_voc_area/mAP'].current()),
        'loss': mean(recorder.losses[-last:]),
    }


def ranks(form: str) -> dict[str, float]:
    """Return the effective rank of the input of some layers of an untrained network."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as work_dir:
        runner = Runner.from_cfg(config_of(FORMS[form], 0, work_dir))
        runner.model.train()
        runner.model.init_weights()
        batch = next(iter(runner.build_dataloader(runner.cfg.train_dataloader)))

        def look(name: str) -> Any:
            def hook(module: nn.Module, args: tuple[Tensor]) -> None:
                # the first of two levels
                channels = args[0].transpose(0, 1).flatten(1).double()
                found.setdefault(name, effective_rank(correlations(channels)))

            return hook

        for path, name in READ.items():
            runner.model.get_submodule(path).register_forward_pre_hook(look(name))
        if hook := FORMS[form].get('hook'):
            CopyInitHook(hook).before_train_iter(runner, 0, batch)
            found.clear()
        data = runner.model.data_preprocessor(batch, True)
        with torch.no_grad():
            runner.model(**data, mode='loss')
    return found


def print_ranks(forms: list[str]) -> None:
    """Print the effective ranks of all forms that start differently, as Markdown."""
    print(f'| form | {" | ".join(READ.values())} |\n|{"---|" * (len(READ) + 1)}')
    for form in forms:
        found = ranks(form)
        print(f'| {form} | {" | ".join(f"{found[name]:.1f}" for name in READ.values())} |')


def main() -> None:
    parser = parser_of(__doc__, FORMS, ROOT / 'docs/es_detection.jsonl', seeds=4)
    parser.add_argument('--ranks', action='store_true', help='print effective ranks; train nothing')
    parser.add_argument('--first-seed', type=int, default=0)
    args = parser.parse_args()
    out = args.out.resolve()
    os.chdir(ROOT)
    import sys

    sys.path.insert(0, str(ROOT / 'tools'))
    from demo_det import DATA, DEVKIT

    write_mini_voc(DATA, **DEVKIT)
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    if args.ranks:
        return print_ranks(args.forms)
    train_missing(out, train, args.forms, seeds)
    lines = read(out, *METRICS)
    show(lines, FORMS, METRICS, out)


if __name__ == '__main__':
    cli.run(main)
