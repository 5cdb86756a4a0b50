"""Draw the pictures of the pages on concepts, from the package's own functions.

    python tools/docs/draw_concepts.py [docs/concepts]

Writes expanding_and_shrinking.png, signs.png, temperature.png and thresholds.png to the
folder.
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import torch

from mmesbnn import cli, options
from mmesbnn.binary import Expansion, hard_tanh_sign, identity_sign, quadratic_sign
from mmesbnn.binary import temperature_weight as weight_at
from mmesbnn.optional import require
from mmesbnn.whole_files import whole_file

COLOURS = ('tab:blue', 'tab:orange', 'tab:green', 'tab:red')
#: Channels of the drawn convolutions.
CHANNELS = 4
#: Temperatures of the drawn curves; below 1e-7 the weight is its sign.
TEMPERATURES = (1.0, 0.5, 0.1, 1e-8)


def new_figure(width, height, columns, **options):
    """Return a figure and its axes."""
    require('matplotlib', 'demo')
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout='constrained')
    return figure, figure.subplots(1, columns, squeeze=False, **options)[0]


def save(figure, path):
    with whole_file(path) as partial_path:
        figure.savefig(partial_path, dpi=110, format='png')


def channels(axis, x, colours, title, labels):
    """Draw a column of channels around the height of 4."""
    from matplotlib.patches import Rectangle

    middles = 4 + np.arange(len(colours) - 1, -len(colours), -2) / 2
    for y, colour, label in zip(middles, colours, labels):
        axis.add_patch(Rectangle((x, y - 0.35), 1.6, 0.7, facecolor=colour, edgecolor='black'))
        axis.text(x + 0.8, y, label, ha='center', va='center', fontsize=13, color='white')
    axis.text(x + 0.8, middles[0] + 0.55, title, ha='center', va='bottom', fontsize=13)


def arrow(axis, x, text):
    axis.annotate('', (x + 1.5, 4), (x, 4), arrowprops=dict(arrowstyle='->', lw=2))
    axis.text(x + 0.75, 4.35, text, ha='center', va='bottom', fontsize=13)


def draw_convolution(axis, expansion):
    """Draw a 1x1 convolution of four channels, plain or with ES."""
    wide, kernels = expansion.width(CHANNELS), expansion.kernels(CHANNELS)
    copies, colours = expansion.factor, COLOURS[:CHANNELS]
    several = expansion.tau > 1
    name = [f'x{i + 1}' for i in range(CHANNELS)]
    read = [f'{each}, copy {k + 1}' for k in range(copies) for each in name] if several else name
    channels(axis, 0, list(colours) * copies, f'{wide} signs of +1 or -1', read)
    arrow(axis, 1.8, f'{kernels} kernels\nof depth {wide}')
    made = [f'y{i + 1}' for i in range(kernels)]
    greys = ['0.25', '0.55', '0.35', '0.65'][:kernels]
    values = f'{kernels} outputs of\n{wide + 1} possible values'
    channels(axis, 3.5, greys, values, made)
    if several:
        arrow(axis, 5.3, f'tile {expansion.copies} times')
        labels = [f'{each}, copy {k + 1}' for k in range(expansion.copies) for each in made]
        title = f'{wide} features with own\naffine and threshold'
        channels(axis, 7.0, greys * expansion.copies, title, labels)
    weights = f'weights: {kernels} x {wide} = {kernels * wide}'
    axis.set_title(f'tau = {expansion.tau}     {weights}', fontsize=15)
    axis.set(xlim=(-0.6, 9.2 if several else 5.6), ylim=(0, 9.2))
    axis.axis('off')


def draw_expanding(path):
    """Draw a binary convolution and its ES form."""
    figure, axes = new_figure(13, 5, 2, width_ratios=(6.2, 9.8))
    for axis, tau in zip(axes, (1, 2)):
        draw_convolution(axis, Expansion(tau))
    save(figure, path)


def value_and_gradient(function, x):
    """Return a function's values and its gradients at all points."""
    x = torch.tensor(x, requires_grad=True)
    value = function(x)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    return value.detach().numpy(), gradient.numpy()


def draw_curves(path, functions, names):
    """Draw functions on the left and their gradients on the right."""
    figure, axes = new_figure(10, 3.6, 2)
    x = np.linspace(-2, 2, 2001)
    for (label, function), style in zip(functions.items(), ('-', '--', ':', '-.')):
        for axis, values in zip(axes, value_and_gradient(function, x)):
            axis.plot(x, values, style, label=label, lw=2)
    for axis, name in zip(axes, names):
        axis.set(title=name, xlabel='x')
        axis.grid(alpha=0.3)
        axis.legend()
    save(figure, path)


def draw_signs(path):
    """Draw the sign and its surrogate gradients."""
    functions = {
        'hard_tanh, clip 1.5': partial(hard_tanh_sign, clip=1.5),
        'quadratic': quadratic_sign,
        'identity': identity_sign,
    }
    draw_curves(path, functions, ('sign(x): the same for all', 'gradient'))


def draw_temperature(path):
    """Draw the effective weight at some temperatures."""
    figure, (axis,) = new_figure(6.5, 3.8, 1)
    w = np.linspace(-1.5, 1.5, 3001)
    for temperature in TEMPERATURES:
        value = weight_at(torch.tensor(w), torch.tensor(temperature))
        axis.plot(w, value.numpy(), label=f'T = {temperature:g}', lw=2)
    axis.set(xlabel='latent weight', ylabel='effective weight')
    axis.grid(alpha=0.3)
    axis.legend()
    save(figure, path)


def draw_thresholds(path):
    """Draw the signs of two copies of one feature, whose thresholds differ."""
    figure, (axis,) = new_figure(7.5, 3.2, 1)
    x = np.linspace(-2, 2, 2001)
    for place, (shift, colour) in enumerate(zip((-0.5, 0.5), COLOURS)):
        signs = hard_tanh_sign(torch.tensor(x + shift)).numpy()
        label = f'copy {place + 1}: sign(x + {shift})'.replace('+ -', '- ')
        axis.plot(x, signs * 0.5 + 2.5 * (1 - place), color=colour, lw=2, label=label)
        axis.axvline(-shift, color=colour, ls=':')
    for middle, text in ((-1.25, '-1, -1'), (0, '-1, +1'), (1.25, '+1, +1')):
        axis.text(middle, 1.25, text, ha='center', va='center', fontsize=12)
    axis.set(xlabel='feature x', title='two signs tell in which of three intervals x is')
    axis.set(yticks=[0, 2.5], yticklabels=['copy 2', 'copy 1'], ylim=(-0.9, 3.9))
    axis.legend(loc='upper left', ncols=2)
    save(figure, path)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('folder', type=options.path, nargs='?', default=Path('docs', 'concepts'))
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    draw_expanding(folder / 'expanding_and_shrinking.png')
    draw_signs(folder / 'signs.png')
    draw_temperature(folder / 'temperature.png')
    draw_thresholds(folder / 'thresholds.png')


if __name__ == '__main__':
    cli.run(main)
