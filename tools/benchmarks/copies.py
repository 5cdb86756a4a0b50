"""Compare the differences between untrained copies with their theory.

    python tools/benchmarks/copies.py [--units 8] [--slope 0.25]

Builds untrained ES-ReactNets of 32 channels with tau=2, one for every copy_init. Prints
the effective rank of the 64 channels of signs that every unit reads, and the mean
|correlation| of copies, predicted and measured on smooth noise. docs/copies.md explains
the prediction. It takes seconds. Exit status 0: done; 2: error.
"""

import argparse
import math

from mmesbnn import cli, options  # before the slow imports

# isort: split

import torch
import torch.nn.functional as F
from torch import nn

from mmesbnn.analysis import measure_capacity
from mmesbnn.binary import Expansion, TiledBatchNorm2d
from mmesbnn.binary.expansion import COPY_INITS, copy_signs
from mmesbnn.models.backbones import ReActNet

WIDTH, EXPANSION = 32, Expansion(2, 1)
KERNELS = EXPANSION.kernels(WIDTH)


def predict(units, copy_init, draws=4000):
    """Predict effective rank and mean |correlation| behind ``units`` units."""
    copies = EXPANSION.copies
    torch.manual_seed(0)
    signs = torch.stack([copy_signs(draws, copies, copy_init) for _ in range(units)])
    signs = signs.unflatten(1, (copies, draws))
    shared = 1 + torch.einsum('lcd,lkd->ckd', signs, signs)
    r = (2 / math.pi) * (shared / (1 + units)).clamp(-1, 1).asin()
    pairs = ~torch.eye(copies, dtype=torch.bool)
    rank = copies * KERNELS / (r.square().sum((0, 1)).mean() / copies)
    return rank.item(), r[pairs].abs().mean().item()


def smooth_noise(count=4, size=64):
    generator = torch.Generator().manual_seed(2)
    return 2 * F.avg_pool2d(torch.randn(count, 3, 2 * size, 2 * size, generator=generator), 2)


def measure(units, copy_init, slope, tau=EXPANSION.tau):
    """Measure the same numbers of an untrained network, for all units but the first."""
    torch.manual_seed(0)
    arch = dict(channels=[WIDTH, WIDTH], depths=[units])
    model = ReActNet(arch, tau=tau, stem_stride=1, copy_init=copy_init)
    for module in model.modules():
        if isinstance(module, TiledBatchNorm2d):
            module.momentum = 1.0
        elif isinstance(module, nn.PReLU):
            nn.init.constant_(module.weight, slope)
    x = smooth_noise()
    model(x)  # sets the statistics of the norms
    found = measure_capacity(model, lambda: model(x), positions=16384)
    return [(layer.rank, layer.copy_correlation) for layer in found[1:]]


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--units', type=options.count, default=8, help='default: 8')
    parser.add_argument(
        '--slope', type=options.fraction, default=0.25, help='of the PReLUs; default: 0.25'
    )
    args = parser.parse_args()
    if args.units < 2:
        parser.error('--units must be at least 2: the first one reads the stem')
    return args


def main():
    args = parse_args()
    plain = measure(args.units, 'alike', args.slope, tau=1)
    print(f'tau=1, {WIDTH} channels: rank {", ".join(f"{rank:.1f}" for rank, _ in plain)}\n')
    print('copy_init  units before  rank: theory  measured  |r|: theory  measured')
    for copy_init in COPY_INITS:
        measured = measure(args.units, copy_init, args.slope)
        for units, (rank, alike) in enumerate(measured, start=1):
            theory = predict(units, copy_init)
            print(
                f'{copy_init:9}  {units:12}  {theory[0]:12.1f}  {rank:8.1f}  '
                f'{theory[1]:11.2f}  {alike:8.2f}'
            )


if __name__ == '__main__':
    cli.run(main)
