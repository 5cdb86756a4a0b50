"""Train a small residual network of drop-in ES layers behind ReLUs on scanned digits.

    python tools/benchmarks/es_drop_in.py [--forms NAME ...] [--seeds 4] [--out FILE]

Three basic blocks of a ResNet (32 channels, six ESConv2d) classify scikit-learn's 8x8 digits:
1200 train, 597 test. Every binary convolution reads what a ReLU gives. All forms have the
same binary operations. Each training is one line of FILE: the loss of the last two epochs,
loss and accuracy on the test digits. What FILE holds already is not trained again.
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any

from mmesbnn import cli  # before what takes time to import

# isort: split

import torch
import torch.nn.functional as F
from json_lines import read
from seeded_forms import BASELINE, parser_of, show, train_missing
from sklearn.datasets import load_digits
from torch import Tensor, nn

from mmesbnn.binary import ESConv2d
from mmesbnn.binary.expansion import spread_thresholds

ROOT = Path(__file__).parents[2]
CHANNELS, BLOCKS, EPOCHS, BATCH = 32, 3, 8, 50
#: tau, and whether the thresholds of the copies start around 0 rather than above it.
FORMS = {BASELINE: (1, False), 'tau 2': (2, False), 'tau 2, around 0': (2, True)}
METRICS = {'loss': 'training loss', 'test_loss': 'test loss', 'accuracy': 'test accuracy (%)'}


class Block(nn.Module):
    """ResNet's basic block of two ES convolutions."""

    def __init__(self, tau: int, around_0: bool) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            ESConv2d(CHANNELS, CHANNELS, 3, padding=1, tau=tau) for _ in range(2)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(CHANNELS) for _ in range(2))
        if around_0:
            for conv in self.convs:
                with torch.no_grad():
                    conv.shift.copy_(spread_thresholds(CHANNELS, conv.expansion.factor, 0.5))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block's output for ``x``, which is not negative."""
        y = F.relu(self.norms[0](self.convs[0](x)))
        return F.relu(x + self.norms[1](self.convs[1](y)))


def network(tau: int, around_0: bool) -> nn.Sequential:
    """Build the network of a form."""
    return nn.Sequential(
        nn.Conv2d(1, CHANNELS, 3, padding=1, bias=False),
        nn.BatchNorm2d(CHANNELS),
        nn.ReLU(),
        *(Block(tau, around_0) for _ in range(BLOCKS)),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * CHANNELS, 10),
    )


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return images and labels to train on, and those to test on."""
    data = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
    y = torch.tensor(data.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, test = order[:1200], order[1200:]
    return x[train], y[train], x[test], y[test]


def train(form: str, seed: int) -> dict[str, Any]:
    """Train a form; return what was measured."""
    x, y, test_x, test_y = digits()
    torch.manual_seed(seed)
    model = network(*FORMS[form])
    steps = len(x) // BATCH * EPOCHS
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    generator, losses = torch.Generator().manual_seed(seed), []
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(x), generator=generator).split(BATCH):
            loss = F.cross_entropy(model(x[chosen]), y[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
    model.eval()
    with torch.no_grad():
        logits = model(test_x)
    return {
        'loss': mean(losses[-2 * len(x) // BATCH :]),
        'test_loss': float(F.cross_entropy(logits, test_y)),
        'accuracy': 100 * float((logits.argmax(1) == test_y).float().mean()),
    }


def main() -> None:
    parser = parser_of(__doc__, FORMS, ROOT / 'docs/es_drop_in.jsonl', seeds=4)
    args = parser.parse_args()
    train_missing(args.out, train, args.forms, range(args.seeds))
    lines = read(args.out, *METRICS)
    show(lines, FORMS, METRICS, args.out)


if __name__ == '__main__':
    cli.run(main)
