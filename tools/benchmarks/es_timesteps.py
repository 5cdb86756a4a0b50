"""Train a stack of BI-DiffSR's residual blocks to predict noise, with timestep banks and ES.

    python tools/benchmarks/es_timesteps.py [--forms NAME ...] [--seeds 4] [--out FILE]

One step of a diffusion model: from a bicubically upsampled crop and the noisy details that it
lacks, predict the noise. The timestep sets the share of the noise: the variance of the details
is cos^2(pi/2 (t + 0.5) / 100) for t = 0 to 99. The network is that of
`es_super_resolution.py` with an embedding of the timestep and K timestep banks. A bank holds the
shifts and activations of a span of 100 / K timesteps. All forms have the same binary operations
and see the same crops, timesteps and noise for the same seed.

Every training is one line of FILE: the form, the seed, the squared error on fresh training crops
(`fit`) and on crops of test photographs (`test`, and `spans` for each fifth of the timesteps), and
the seconds of processor time. What FILE holds already is not trained again. Prints the means and
the paired differences to `baseline` with their 95 % confidence intervals.
"""

from __future__ import annotations

import math
import os
import time
from typing import Any

from mmesbnn import cli, options  # before what takes time to import

# isort: split

import torch
import torch.nn.functional as F
from es_super_resolution import BATCH, CHANNELS, DATA, ROOT, SCALE, Crops, Network, minimise
from json_lines import read
from seeded_forms import BASELINE, parser_of, show, train_missing
from torch import Tensor, nn

from mmesbnn.datasets import write_photographs
from mmesbnn.diffusion.bi_diffsr import bank_of

STEPS, BANKS, SPANS = 100, 5, 5
#: Waves of the embedding.
WAVES = 8
JUDGED = 512
METRICS = {'fit': 'squared error, training crops', 'test': 'squared error, test photographs'}

#: The baseline has the banks of the published network.
FORMS: dict[str, dict[str, Any]] = {
    BASELINE: dict(banks=BANKS),
    'tau 2': dict(banks=BANKS, tau=2),
    'tau 2, balanced': dict(banks=BANKS, tau=2, copy_init='balanced'),
    'one bank': dict(banks=1),
    'tau 2, one bank': dict(banks=1, tau=2),
}


class Denoiser(nn.Module):
    """The network of ``es_super_resolution.py``, of two images and a timestep.

    Args:
        banks: ``K``.
        **options: Arguments of the network.
    """

    def __init__(self, banks: int, **options: Any) -> None:
        super().__init__()
        self.network = Network(banks=banks, in_channels=6, **options)
        self.embedding = nn.Sequential(
            nn.Linear(2 * WAVES, CHANNELS), nn.SiLU(), nn.Linear(CHANNELS, CHANNELS)
        )
        self.banks = banks

    def forward(self, x: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        """Predict the noise in ``noisy`` at the timesteps ``t``, ``(N,)``."""
        angle = math.pi * t[:, None] / STEPS * 2.0 ** torch.arange(WAVES)
        embedded = self.embedding(torch.cat([angle.sin(), angle.cos()], 1))
        images = torch.cat([(x - 0.5) * 4, noisy], 1)
        return self.network.run(images, embedded, bank_of(t, self.banks, STEPS))


class Noisy:
    """Batches of crops with noise.

    Args:
        seed: What crops, timesteps and noise depend on.
        part: ``'train'`` or ``'test'`` photographs.
    """

    def __init__(self, seed: int, part: str = 'train') -> None:
        self.crops = Crops(seed, part)
        self.generator = torch.Generator().manual_seed(20_000 + seed)

    def draw(self, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``count`` images, noisy details, timesteps, and the noise."""
        x, details = self.crops.draw(count)
        t = torch.randint(STEPS, (count,), generator=self.generator)
        noise = torch.randn(details.shape, generator=self.generator)
        angle = (math.pi / 2 * (t + 0.5) / STEPS)[:, None, None, None]
        return x, angle.cos() * details + angle.sin() * noise, t, noise


@torch.no_grad()
def judge(model: Denoiser, batches: Noisy) -> tuple[float, list[float]]:
    """Return the squared error, and that of each fifth of the timesteps."""
    errors, spans = [], []
    for _ in range(JUDGED // 32):
        x, noisy, t, noise = batches.draw(32)
        errors.append((model(x, noisy, t) - noise).square().mean((1, 2, 3)))
        spans.append(bank_of(t, SPANS, STEPS))
    error, span = torch.cat(errors), torch.cat(spans)
    return float(error.mean()), [round(float(error[span == k].mean()), 5) for k in range(SPANS)]


def train(form: str, seed: int, iters: int) -> dict[str, Any]:
    """Train a form; return what was measured."""
    began = time.process_time()
    torch.manual_seed(seed)
    model = Denoiser(**FORMS[form])
    batches = Noisy(seed)

    def loss() -> Tensor:
        x, noisy, t, noise = batches.draw(BATCH)
        return F.mse_loss(model(x, noisy, t), noise)

    minimise(loss, model, iters)
    seconds = round(time.process_time() - began)
    model.eval()
    fit, _ = judge(model, Noisy(10_000 + seed))
    test, spans = judge(model, Noisy(10_000, 'test'))
    return dict(seconds=seconds, fit=fit, test=test, spans=spans)


def main() -> None:
    parser = parser_of(__doc__, FORMS, ROOT / 'docs/es_timesteps.jsonl', seeds=4)
    parser.add_argument('--iters', type=options.count, default=600)
    args = parser.parse_args()
    out = args.out.resolve()
    os.chdir(ROOT)
    write_photographs(DATA, SCALE)
    train_missing(out, train, args.forms, range(args.seeds), iters=args.iters)
    lines = [line for line in read(out, *METRICS) if line['iters'] == args.iters]
    show(lines, FORMS, METRICS, out)


if __name__ == '__main__':
    cli.run(main)
