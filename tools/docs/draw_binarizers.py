"""Draw all signs and weight binarizers with their gradients, for docs/binarizers.md.

    python tools/docs/draw_binarizers.py [docs/binarizers.png]

A panel of a sign shows its value and its gradient over the input. A panel of a weight
binarizer shows the effective weight, and its derivative with respect to the same latent
weight, over an output channel of 101 latent weights with normal distribution and deviation
0.7. Those with a schedule are drawn at the start, in the middle and at the end of a training.
Gradients above 3 are cut off.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmesbnn import cli, options  # before what takes time to import

# isort: split

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from mmesbnn.binary import Scheduled, build_sign, build_weight_binarizer
from mmesbnn.binary.entries import SIGNS, WEIGHT_BINARIZERS
from mmesbnn.whole_files import whole_file

ROOT = Path(__file__).resolve().parents[2]
#: Names of the same class, or without a formula to draw.
LEFT_OUT = {'approx', 'fixed'}
STEPS = {'start': 0.0, 'middle': 0.5, 'end': 1.0}
COLUMNS = 5
Curve = Callable[[nn.Module], tuple[Tensor, Tensor, Tensor]]


def of_sign(sign: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    """Return inputs, values and gradients of a sign."""
    x = torch.linspace(-2, 2, 801, dtype=torch.float64).requires_grad_()
    y = sign(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    return x.detach(), y.detach(), gradient


def of_weight(binarizer: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    """Return latent weights, effective weights and the diagonal of the derivatives."""
    shares = torch.linspace(0.003, 0.997, 101, dtype=torch.float64)
    latent = 0.7 * torch.special.ndtri(shares)[None]
    jacobian: Any = torch.autograd.functional.jacobian(lambda w: binarizer(w)[0], latent)
    return latent[0], binarizer(latent)[0].detach(), jacobian[:, 0].diagonal()


def draw_panel(axis: Any, name: str, module: nn.Module, curve: Curve) -> None:
    """Draw one sign or weight binarizer."""
    parts = [x for x in module.modules() if isinstance(x, Scheduled)]
    for i, (step, progress) in enumerate((STEPS if parts else {'': 0.0}).items()):
        for part in parts:
            part.progress.fill_(progress)
        x, y, gradient = curve(module)
        if i == 0:
            axis.plot(x, y, color='black', linewidth=1.5, label='value')
        label = f'gradient, {step} of the training' if step else 'gradient'
        axis.plot(x, gradient, color=f'C{i + bool(step)}', linewidth=1, label=label)
    axis.set_title(name, fontsize=10)
    axis.grid(alpha=0.3)
    axis.tick_params(labelsize=7)
    axis.set_ylim(-1.3, 3)


def panels() -> list[tuple[str, nn.Module, Curve]]:
    """List what is drawn."""
    signs = [(name, build_sign(name), of_sign) for name in SIGNS.own]
    weights = [
        (name, build_weight_binarizer(name, channels=1), of_weight)
        for name in WEIGHT_BINARIZERS.own
    ]
    return [
        (name, module.double(), curve)
        for name, module, curve in (*signs, *weights)
        if name not in LEFT_OUT
    ]


def draw(path: Path) -> None:
    """Draw all panels into a PNG file."""
    found = panels()
    rows = -(-len(found) // COLUMNS)
    figure = Figure(figsize=(2.6 * COLUMNS, 2.1 * rows), layout='constrained')
    axes = figure.subplots(rows, COLUMNS).flat
    for axis, panel in zip(axes, found):
        draw_panel(axis, *panel)
    for axis in list(figure.axes)[len(found) :]:
        axis.remove()
    handles = {
        label: handle
        for axis in figure.axes
        for handle, label in zip(*axis.get_legend_handles_labels())
    }
    figure.legend(handles.values(), handles.keys(), loc='outside lower right', ncols=5)
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=90, format='png')


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'out', type=options.path, nargs='?', default=ROOT / 'docs' / 'binarizers.png'
    )
    draw(parser.parse_args().out)


if __name__ == '__main__':
    cli.run(main)
