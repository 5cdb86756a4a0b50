"""OpenVINO's binary convolution on every processor that this one can imitate.

Graphs are made here, and run by another process on each processor. There are the
operator itself, wherever ``pads_rightly`` says that it is right, and exported layers,
alone and with what OpenVINO fuses with them. All of their arithmetic is exact.
"""

import json
import subprocess
import sys
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmesbnn.binary import BinaryConv2d

pytest.importorskip('openvino')

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from mmesbnn.deploy.openvino.graph import to_openvino
from mmesbnn.deploy.openvino.kernel import Geometry, pads_rightly
from mmesbnn.deploy.openvino.ops import binarize, bit_convolution, bits
from tests.campaigns import processors, run_graphs

#: Graphs that are run together.
BATCH = 40

KERNELS = {'sse42': 'jit_sse42', 'avx2': 'jit_avx2'}


def signs(x, zero=-1):
    return torch.where(x > 0, 1.0, torch.where(x < 0, -1.0, float(zero))).double()


def convolved(x, weight, geometry):
    """Return the convolution of signs in float64."""
    (top, left), value = geometry.padding, float(geometry.pad_value)
    x = F.pad(x, (left, left, top, top), value=value)
    return F.conv2d(
        x, weight.double(), None, geometry.stride, 0, geometry.dilation, geometry.groups
    )


def draw_size(rng, geometry, kernel):
    """Draw height and width of a map, often the smallest possible, tiny or odd."""
    return [
        max(1, d * (k - 1) + 1 - 2 * p) + rng.choice((0, 0, 1, 2, rng.randint(0, 20)))
        for k, d, p in zip(kernel, geometry.dilation, geometry.padding)
    ]


def draw_pair(rng, values):
    """Draw one value for both axes, or one for each."""
    first = rng.choice(values)
    return (first, first) if rng.random() < 0.5 else (first, rng.choice(values))


def draw_geometry(rng, groups):
    kernel = draw_pair(rng, (1, 1, 2, 3, 3, 4, 5, 6, 7, 8, 9))
    stride = draw_pair(rng, (1, 1, 2, 3, 4, 5))
    padding = draw_pair(rng, (0, 0, 1, 1, 2, 3, 4, 7))
    dilation = draw_pair(rng, (1, 1, 2, 3, 6))
    pad_value = rng.choice((-1, 0, 0, 1))
    return kernel, Geometry(stride, padding, dilation, groups, pad_value)


def operator(rng):
    """Return the operator alone as a graph, its input and output, or None if unused."""
    kernel, geometry = draw_geometry(rng, 1)
    height, width = draw_size(rng, geometry, kernel)
    x = torch.randn(rng.choice((1, 1, 2, 3)), 8 * rng.randint(1, 16), height, width)
    # torch.randn gives an exact 0 now and then
    weight = signs(torch.randn(rng.randint(1, 130), x.shape[1], *kernel))
    y = convolved(signs(x), weight, geometry)
    if not pads_rightly(geometry, kernel, height, y.shape[3]):
        return None
    image = ops.parameter(list(x.shape), np.float32)
    value = geometry.pad_value if any(geometry.padding) else -1
    image_bits = binarize(image.output(0), 0.0, x.shape[1])
    node = bit_convolution(image_bits, bits(weight.numpy()), geometry, value)
    return ov.Model([node], [image]), x, y


class Layer(BinaryConv2d):
    """A layer with given signs as weights."""

    def __init__(self, rng, channels, out, geometry, kernel, zero):
        sign = dict(type='hard_tanh', zero=zero)
        super().__init__(
            channels,
            out,
            kernel,
            geometry.stride,
            geometry.padding,
            geometry.dilation,
            geometry.groups,
            sign=sign,
            weight_binarizer='temperature',
            pad_value=geometry.pad_value,
        )
        self.weight_binarizer.temperature.zero_()


class Block(nn.Module):
    """A layer and the operators after it; its numbers are multiples of 1/4."""

    def __init__(self, rng, layer):
        super().__init__()
        self.layer, channels = layer, layer.out_channels
        self.scale = nn.Parameter(self._any(channels, (-0.5, 0.5, 1.0, 2.0)))
        self.shift = nn.Parameter(self._any(channels, (-4.25, -0.25, 0.25, 3.75)))
        self.affine, self.residual = rng.random() < 0.7, rng.random() < 0.5
        self.prelu = nn.PReLU(channels) if rng.random() < 0.5 else None
        self.after = None
        if rng.random() < 0.7:
            geometry = Geometry(padding=(1, 1), pad_value=rng.choice((-1, 0, 1)))
            self.after = Layer(rng, channels, rng.randint(1, 40), geometry, (3, 3), layer.sign.zero)

    @staticmethod
    def _any(channels, values):
        chosen = torch.randint(len(values), (1, channels, 1, 1))
        return torch.tensor(values)[chosen]

    def forward(self, x):
        y = self.layer(x)
        if self.affine:
            y = y * self.scale + self.shift
        if self.residual:
            y = y + x.mean((1, 2, 3), keepdim=True).ceil()
        if self.prelu is not None:
            y = self.prelu(y)
        return y if self.after is None else self.after(y)


def exported(rng, block=False):
    """Return a layer of any kind as a graph, its input and output."""
    groups = rng.choice((1, 1, 1, 2, 3))
    kernel, geometry = draw_geometry(rng, groups)
    most = 130 // groups
    channels, out = (groups * rng.randint(1, most) for _ in range(2))
    layer = Layer(rng, channels, out, geometry, kernel, rng.choice((-1, -1, 0)))
    size = draw_size(rng, geometry, kernel)
    x = (2 * torch.randn(rng.choice((1, 1, 2)), channels, *size)).round() / 2
    model = (Block(rng, layer) if block else layer).eval()
    conversion = to_openvino(model, [x])
    assert not conversion.not_binary, conversion.not_binary
    with torch.no_grad():
        y = model.double()(x.double())
    if not block:
        weight = layer.effective_weight()
        expected = convolved(signs(x, layer.sign.zero), weight, geometry)
        assert torch.equal(y, expected), "torch's layer itself is wrong"
    return conversion.graph, x, y


def exported_block(rng):
    return exported(rng, block=True)


MAKERS = {'operator': operator, 'layer': exported, 'block': exported_block}


def write(folder, graph, x, y):
    """Write a case for ``run_graphs``."""
    number = len(list(folder.glob('*.xml')))
    ov.save_model(graph, folder / f'{number}.xml', compress_to_fp16=False)
    np.savez(folder / f'{number}.npz', x=x.numpy(), y=y.detach().numpy())


def run_on(processor, library, folder):
    """Return the errors of each graph of a folder, or None if the processor cannot run."""
    if library is None and processor != processors.PROCESSORS[-1]:
        return None
    done = subprocess.run(
        [sys.executable, run_graphs.__file__, folder],
        capture_output=True,
        text=True,
        env=processors.environment(library, processor),
    )
    if done.returncode == processors.IMPOSSIBLE:
        return None
    assert done.returncode == 0, f'{processor}: {done.stderr[-1000:]}'
    return json.loads(done.stdout)


@pytest.mark.slow
def test_convolutions_on_every_processor(campaign, tmp_path):
    library = processors.build(tmp_path)
    cases, batches = [], Counter()
    folder = tmp_path / 'graphs'
    for i, rng in enumerate(campaign.draws(least=12)):
        torch.manual_seed(rng.randrange(2**31))
        kind = rng.choice(list(MAKERS))
        folder.mkdir(exist_ok=True)
        with campaign.attempt(f'making: {kind}'):
            case = MAKERS[kind](rng)
            if case is not None:
                write(folder, *case)
                cases.append((kind, i))
        if len(cases) == BATCH:
            batches += check_batch(campaign, library, folder, cases)
    if cases:
        batches += check_batch(campaign, library, folder, cases)
    assert batches['this one'] > 0


def check_batch(campaign, library, folder, cases):
    """Run the cases on all processors, remove them, and return where they ran."""
    ran = Counter()
    for processor in processors.PROCESSORS:
        results = run_on(processor, library, folder)
        if results is None:
            continue
        ran[processor] += 1
        for (kind, number), (wrong, kernel) in zip(cases, results, strict=True):
            with campaign.attempt(f'{processor}: {kind}'):
                assert not wrong, f'case {number}: {wrong}'
                assert (kernel or '').startswith(KERNELS.get(processor, 'jit')), kernel
    for file in folder.iterdir():
        file.unlink()
    cases.clear()
    return ran
