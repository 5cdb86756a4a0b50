"""Train a stack of BI-DiffSR's residual blocks to sharpen photographs, ES or not.

    python tools/benchmarks/es_super_resolution.py [--forms NAME ...] [--seeds 3] [--out FILE]

The task is one step of super-resolution: predict what bicubic upsampling by 2 has lost,
in units of 0.05, from its result. Crops of six photographs train, three others test.
The network is a convolution, residual blocks (two binary convolutions each, without a
batch norm), group norm, SiLU, a convolution. All forms have the same binary operations
and see the same crops for the same seed.

Every training is one line of FILE: the form, the seed, the mean squared error on fresh
training crops (`fit`), PSNR and SSIM of the luma of every test image, the share of the
channels of sign inputs that are constant before and after the training, and the seconds
of processor time. What FILE holds already is not trained again. Prints the means and the
paired differences to `baseline` with their 95 % confidence intervals.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

from mmesbnn import cli, options  # before what takes time to import

# isort: split

import torch
import torch.nn.functional as F
from json_lines import read
from seeded_forms import BASELINE, parser_of, show, train_missing
from torch import Tensor, nn

from mmesbnn.binary import Expansion, tile
from mmesbnn.binary.expansion import one_sided_thresholds, spread_thresholds
from mmesbnn.datasets import write_photographs
from mmesbnn.diffusion.bi_layers import BIConv, ResBlock, contract
from mmesbnn.evaluation import psnr, ssim
from mmesbnn.images.bicubic import resize
from mmesbnn.images.tensors import image_files, read_rgb, to_uint8

ROOT = Path(__file__).parents[2]
DATA = ROOT / 'data/photographs'
SCALE = 2
#: Deviation of what bicubic upsampling loses, in units of the data's range.
UNIT = 0.05
CHANNELS, DEPTH, NORM_GROUPS = 32, 4, 8
SIZE, BATCH = 24, 8
METRICS = {
    'fit': 'squared error, training crops',
    'psnr': 'PSNR (dB), test images',
    'ssim': 'SSIM, test images',
}


#: How a form differs from tau = 1 as the package makes it.
FORMS: dict[str, dict[str, Any]] = {
    BASELINE: {},
    'tau 2': dict(tau=2),
    # as before the thresholds allowed for the SiLU
    'tau 2, around 0': dict(tau=2, start=spread_thresholds),
    'tau 2, one-sided': dict(tau=2, start=one_sided_thresholds),
    'tau 2, first': dict(tau=2, read='first'),
    'tau 2, balanced': dict(tau=2, copy_init='balanced'),
    'groups 2': dict(groups=2),
}
#: Forms that train longer than the others, by this factor.
LONGER = {'baseline, 1.5 times as long': 1.5}
FORMS |= {form: {} for form in LONGER}


class Network(nn.Module):
    """Residual blocks between two plain convolutions.

    Args:
        tau: ES factor.
        groups: ES groups.
        read: ``'mean'`` or ``'first'`` copies are read after the last block.
        start: Makes the thresholds that the signs start with; None: the package does.
        copy_init: As :class:`BIConv`'s.
        banks: As :class:`BIConv`'s.
        in_channels: Channels of the input.
    """

    def __init__(
        self,
        tau: int = 1,
        groups: int = 1,
        read: str = 'mean',
        start: Any = None,
        copy_init: str = 'alike',
        banks: int = 1,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        expansion = Expansion(tau, groups)
        self.factor, self.read = expansion.factor, read
        binary = dict(
            banks=banks,
            expansion=expansion,
            spread=0.5,
            copy_init=copy_init,
            sign='quadratic',
            weight_binarizer='scaled_sign',
        )
        self.conv_in = nn.Conv2d(in_channels, CHANNELS, 3, padding=1)
        self.blocks = nn.ModuleList(
            ResBlock(CHANNELS, CHANNELS, NORM_GROUPS, 0.0, False, binary) for _ in range(DEPTH)
        )
        self.norm = nn.GroupNorm(NORM_GROUPS, CHANNELS)
        self.conv_out = nn.Conv2d(CHANNELS, 3, 3, padding=1)
        for module in self.modules():
            if start and isinstance(module, BIConv):
                with torch.no_grad():
                    module.shift.bias.copy_(start(CHANNELS, self.factor, 0.5))

    def forward(self, x: Tensor) -> Tensor:
        """Predict the details that ``x``, ``(N, 3, H, W)`` in [0, 1], lacks, in units of 0.05."""
        time, bank = x.new_zeros(len(x), CHANNELS), torch.zeros(len(x), dtype=torch.long)
        return self.run((x - 0.5) * 4, time, bank)

    def run(self, x: Tensor, time: Tensor, bank: Tensor) -> Tensor:
        """Compute the output for embedded timesteps ``(N, CHANNELS)`` and banks ``(N,)``."""
        h = tile(self.conv_in(x), self.factor)
        for block in self.blocks:
            h = block(h, time, bank)
        h = contract(h, self.factor) if self.read == 'mean' else h[:, :CHANNELS]
        return self.conv_out(F.silu(self.norm(h)))


@torch.no_grad()
def constant_signs(model: Network, x: Tensor) -> float:
    """Share of the channels of all sign inputs that have one sign in the whole of ``x``."""
    shares = []

    def look(module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        low, high = output.amin((0, 2, 3)), output.amax((0, 2, 3))
        shares.append(float((low == high).float().mean()))

    convs = [module.conv for module in model.modules() if isinstance(module, BIConv)]
    handles = [conv.sign.register_forward_hook(look) for conv in convs]
    model(x)
    for handle in handles:
        handle.remove()
    return mean(shares)


def upsampled(hr: Tensor) -> Tensor:
    """``hr`` in [0, 1], made smaller, rounded and upsampled again."""
    size = hr.shape[-2:]
    small = resize(hr, (size[0] // SCALE, size[1] // SCALE)).clamp(0, 1)
    return resize((small * 255).round() / 255, size).clamp(0, 1)


class Crops:
    """Random crops of photographs, mirrored and turned.

    Args:
        seed: What the sequence of crops depends on.
        part: ``'train'`` or ``'test'`` photographs.
    """

    def __init__(self, seed: int, part: str = 'train') -> None:
        hr = torch.stack([read_rgb(file) for file in image_files(DATA / part / 'HR')]) / 255
        self.pairs = torch.cat([upsampled(hr), hr], 1)
        self.generator = torch.Generator().manual_seed(seed)

    def _below(self, limit: int) -> int:
        return int(torch.randint(limit, (), generator=self.generator))

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """``count`` inputs, and what they lack."""
        crops = []
        for _ in range(count):
            top, left = (self._below(side - SIZE + 1) for side in self.pairs.shape[2:])
            crop = self.pairs[self._below(len(self.pairs)), :, top : top + SIZE, left : left + SIZE]
            crop = crop.rot90(self._below(4), (1, 2))
            crops.append(crop.flip(2) if self._below(2) else crop)
        x, hr = torch.stack(crops).chunk(2, 1)
        return x, (hr - x) / UNIT


def minimise(loss: Callable[[], Tensor], model: nn.Module, iters: int) -> None:
    """Train ``model`` for ``iters`` steps; ``loss`` is called in each of them."""
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, betas=(0.9, 0.99), eps=1e-12)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, iters, pct_start=0.05)
    for _ in range(iters):
        value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()


def train(form: str, seed: int, iters: int) -> dict[str, Any]:
    """Train a form; return what was measured."""
    began = time.process_time()
    torch.manual_seed(seed)
    model = Network(**FORMS[form])
    fresh, missing = Crops(10_000 + seed).draw(256)
    constant = [constant_signs(model, fresh)]
    iters = round(iters * LONGER.get(form, 1))
    crops = Crops(seed)

    def loss() -> Tensor:
        x, y = crops.draw(BATCH)
        return F.mse_loss(model(x), y)

    minimise(loss, model, iters)
    seconds = time.process_time() - began
    model.eval()
    line: dict[str, Any] = {'seconds': round(seconds)}
    with torch.no_grad():
        parts = zip(fresh.split(32), missing.split(32))
        line['fit'] = mean(float(F.mse_loss(model(a), b)) for a, b in parts)
        line['constant'] = [*constant, constant_signs(model, fresh)]
        line['images'] = {}
        for file in image_files(DATA / 'test' / 'HR'):
            hr = read_rgb(file)
            x = upsampled(hr[None] / 255)
            sharp = to_uint8((x + UNIT * model(x)).clamp(0, 1)[0])
            line['images'][file.stem] = {
                'psnr': float(psnr(sharp, hr, SCALE, 'Y')),
                'ssim': float(ssim(sharp, hr, SCALE, 'Y')),
            }
    for metric in ('psnr', 'ssim'):
        line[metric] = mean(image[metric] for image in line['images'].values())
    return line


def main() -> None:
    parser = parser_of(__doc__, FORMS, ROOT / 'docs/es_super_resolution.jsonl', seeds=3)
    parser.add_argument('--iters', type=options.count, default=400)
    args = parser.parse_args()
    out = args.out.resolve()
    os.chdir(ROOT)
    write_photographs(DATA, SCALE)
    train_missing(out, train, args.forms, range(args.seeds), iters=args.iters)
    lines = [line for line in read(out) if line['iters'] == args.iters]
    show(lines, FORMS, METRICS, out)


if __name__ == '__main__':
    cli.run(main)
