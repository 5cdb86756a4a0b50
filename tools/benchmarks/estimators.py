"""Train a small binary network with every estimator of the package on one task.

    python tools/benchmarks/estimators.py [--forms NAME ...] [--seeds 3] [--out FILE]

A residual network (four binary 3x3 convolutions of 32 channels) says which of 100 regions of
bundled photographs a crop comes from. Crops hardly ever come twice. One part changes at a
time: the sign (weights: scaled_sign), the weight binarizer (sign: quadratic), or the
optimizer. The baseline has quadratic and scaled_sign. Every training is one line of FILE: OPs,
loss and accuracy on fresh crops of the training area, and accuracy on held-out crops. What
FILE holds already is not trained again. Accuracies are in percent.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from mmesbnn import cli  # before what takes time to import

# isort: split

import torch
from es.forms import Setting
from es.training import CLASSES, Task
from json_lines import read
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from seeded_forms import BASELINE, parser_of, show, train_missing
from torch import Tensor, nn

from mmesbnn.analysis import check_binary, count_ops
from mmesbnn.binary import BinaryConv2d, RankOneScale, RPReLU, Scheduled
from mmesbnn.engine.reach import temperature_weights
from mmesbnn.engine.temperature_schedule import temperature_schedule

ROOT = Path(__file__).parents[2]
CHANNELS, UNITS, SIZE, STEM_STRIDE = 32, 4, 16, 2
SETTING = Setting(size=SIZE, iters=300, batch=64, lr=5e-3)
METRICS = {'fit_loss': 'loss', 'fit': 'accuracy (%)', 'held_out': 'held-out accuracy (%)'}


class Parts(NamedTuple):
    """Parts of a network that the forms change.

    Attributes:
        sign: Sign of the activations.
        weight_binarizer: Binarizer of the weights.
        optimizer: ``'AdamW'`` or ``'Bop'``.
        spatial: Whether a :class:`RankOneScale` follows every convolution.
    """

    sign: Any = 'quadratic'
    weight_binarizer: Any = 'scaled_sign'
    optimizer: str = 'AdamW'
    spatial: bool = False


SIGNS = {
    'hard_tanh': 'hard_tanh',
    'identity': 'identity',
    'swish': 'swish',
    'ede': 'ede',
    'reste': 'reste',
    'fda': 'fda',
    'heaviside': 'heaviside',
    **{f'dorefa, {k} bits': dict(type='dorefa', bits=k) for k in (1, 2, 4, 8)},
}
WEIGHTS = {
    'scaled_sign, attached': dict(type='scaled_sign', attached=True),
    'centred_sign': 'centred_sign',
    'temperature': 'temperature',
    'plain_sign': 'plain_sign',
    'magnitude_aware': 'magnitude_aware',
    'learned_scale (XNOR++)': 'learned_scale',
    'balanced (IR-Net)': 'balanced',
    'recu': 'recu',
    'real': 'real',
}
FORMS = {
    BASELINE: Parts(),
    **{f'sign {name}': Parts(sign=spec) for name, spec in SIGNS.items()},
    **{f'weights {name}': Parts(weight_binarizer=spec) for name, spec in WEIGHTS.items()},
    'weights plain_sign, RankOneScale (XNOR++)': Parts(weight_binarizer='plain_sign', spatial=True),
    'ede and balanced (IR-Net)': Parts('ede', 'balanced'),
    'optimizer Bop': Parts(weight_binarizer=dict(type='plain_sign', clip=None), optimizer='Bop'),
}


class Unit(nn.Module):
    """A binary convolution with a norm, a real residual and an RPReLU."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        side = SIZE // STEM_STRIDE
        self.conv = BinaryConv2d(
            CHANNELS,
            CHANNELS,
            3,
            padding=1,
            sign=parts.sign,
            weight_binarizer=parts.weight_binarizer,
        )
        self.scale = RankOneScale(CHANNELS, side, side) if parts.spatial else nn.Identity()
        self.norm = nn.BatchNorm2d(CHANNELS)
        self.act = RPReLU(CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the unit's output for ``x``."""
        return self.act(self.norm(self.scale(self.conv(x))) + x)


def network(parts: Parts) -> nn.Sequential:
    """Build the network of a form."""
    return nn.Sequential(
        nn.Conv2d(3, CHANNELS, 5, STEM_STRIDE, 2, bias=False),
        nn.BatchNorm2d(CHANNELS),
        *(Unit(parts) for _ in range(UNITS)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(CHANNELS, CLASSES),
    )


def wrapper_of(model: nn.Module, parts: Parts) -> Any:
    """Build the optimizer of a form."""
    optimizer: dict[str, Any] = dict(type=parts.optimizer, lr=SETTING.lr, weight_decay=1e-3)
    constructor = 'BinaryOptimWrapperConstructor'
    if parts.optimizer == 'Bop':
        optimizer |= dict(gamma=1e-2, threshold=1e-6)
        constructor = 'BopOptimWrapperConstructor'
    return build_optim_wrapper(model, dict(optimizer=optimizer, constructor=constructor))


def fit(model: nn.Module, task: Task, parts: Parts, seed: int, steps: int) -> None:
    """Train a model; schedules end with the training, and temperatures at its half."""
    wrapper = wrapper_of(model, parts)
    schedule = torch.optim.lr_scheduler.OneCycleLR(wrapper.optimizer, SETTING.lr, steps)
    scheduled = [m for m in model.modules() if isinstance(m, Scheduled)]
    soft = temperature_weights(model)
    harden = temperature_schedule(soft[0].binary_below, binary_from=steps // 2) if soft else None
    rng = torch.Generator().manual_seed(seed)
    for step in range(steps):
        for module in scheduled:
            module.progress.fill_(step / max(steps - 1, 1))
        for weight in soft if harden else ():
            weight.temperature.fill_(harden.temperature(step))
        x, target = task.batch(SETTING.batch, rng)
        wrapper.update_params(task.loss(model(x), target))
        schedule.step()


def train(form: str, seed: int, iters: int) -> dict[str, Any]:
    """Train a form; return what was measured."""
    torch.manual_seed(seed)
    parts, task = FORMS[form], Task(SETTING, 'cpu')
    model = network(parts)
    total = count_ops(model, (3, SIZE, SIZE)).total
    fit(model, task, parts, seed, iters)
    probe = task.batch(8, torch.Generator().manual_seed(5))[0]
    fitted, held_out = task.judge(model, False), task.judge(model, True)
    return dict(
        mops=total['ops'] / 1e6,
        bops=total['bops'],
        binary=not check_binary(model, probe),
        fit_loss=fitted['loss'],
        fit=fitted['score'],
        held_out=held_out['score'],
    )


def costs(lines: list[dict[str, Any]]) -> str:
    """Write the operations of every form as Markdown."""
    rows = ['| form | M OPs | BOPs | every layer binary |', '|---|---|---|---|']
    known = {line['form']: line for line in lines}
    for form in FORMS:
        if form in known:
            line = known[form]
            binary = 'yes' if line['binary'] else 'no'
            rows.append(f'| {form} | {line["mops"]:.3f} | {line["bops"]:,} | {binary} |')
    return '\n'.join(rows)


def main() -> None:
    parser = parser_of(__doc__, FORMS, ROOT / 'docs/binarizers/benchmark.jsonl', seeds=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    MMLogger.get_instance('mmengine', log_level='WARNING')
    args.out.parent.mkdir(parents=True, exist_ok=True)
    train_missing(args.out, train, args.forms, range(args.seeds), iters=SETTING.iters)
    lines = read(args.out, *METRICS)
    show(lines, FORMS, METRICS, args.out)
    print()
    print(costs(lines))


if __name__ == '__main__':
    cli.run(main)
