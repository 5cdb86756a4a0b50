"""Compiled networks compute torch's outputs, and refuse unsupported networks."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip('openvino')

from mmesbnn import native
from mmesbnn.analysis.lifelike import lifelike
from mmesbnn.deploy.native.axes import NotCovered
from mmesbnn.deploy.native.compiling import compile_program
from mmesbnn.deploy.openvino.graph import binary_graph, compile_graph, to_openvino
from mmesbnn.deploy.runtime.program_sweeps import MAP, MEAN
from mmesbnn.models.backbones import BNext, ReActNet

needs_library = pytest.mark.skipif(
    not native.available(), reason='the native kernels are not compiled'
)

SMALL = dict(channels=[16, 32, 32, 64])
DEEP = dict(channels=[16, 16, 32], depths=[2, 2])
NETWORKS = {
    'bnext': lambda: BNext(SMALL),
    'bnext tau': lambda: BNext(SMALL, tau=2),
    'bnext groups': lambda: BNext(SMALL, groups=2),
    'bnext full': lambda: BNext(SMALL, tau=2, es_mode='full'),
    'bnext sign(0)=0': lambda: BNext(SMALL, tau=2, sign_zero=0),
    'bnext-18': lambda: BNext(DEEP, tau=2),
    'reactnet': lambda: ReActNet(SMALL),
    'reactnet tau': lambda: ReActNet(SMALL, tau=2),
    'reactnet groups': lambda: ReActNet(SMALL, groups=2),
    'reactnet-18': lambda: ReActNet(DEEP, tau=2),
    'bi-real': lambda: ReActNet(DEEP, generalized=False),
}


class Classifier(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        with torch.no_grad():
            channels = backbone.eval()(torch.zeros(1, 3, 64, 64))[-1].shape[1]
        self.fc = nn.Linear(channels, 7)

    def forward(self, x):
        return self.fc(self.backbone(x)[-1].mean((2, 3)))


def classifier(name):
    torch.manual_seed(0)
    return lifelike(Classifier(NETWORKS[name]()), torch.randn(2, 3, 70, 64))


def compiled(model, x):
    return compile_program(binary_graph(model, [x[:1]])[0])


def engine(program, data):
    return native.Engine(np.array(program.code()), data)


@pytest.fixture(autouse=True, scope='module')
def fastest_again():
    yield
    if native.available():
        native.use_instruction_set(native.instruction_sets()[0])


def typical_error(outputs, exact):
    """Return the median error of the images, since some signs flip at their threshold."""
    return np.median(np.abs(outputs - exact).max(1))


@needs_library
@pytest.mark.parametrize('name', NETWORKS)
def test_outputs_are_as_near_to_float64_as_those_of_torch(name):
    model, x = classifier(name), torch.randn(5, 3, 70, 64)
    runs = engine(*compiled(model, x))
    with torch.no_grad():
        y = model(x).numpy()
        exact = model.double()(x.double()).numpy()
    of_torch = typical_error(y, exact)
    assert of_torch < 1e-5
    for instructions in native.instruction_sets():
        native.use_instruction_set(instructions)
        ours = runs.run(x.numpy())[0][:, :, 0, 0]
        assert typical_error(ours, exact) <= 3 * of_torch, instructions
        for threads in (2, 3):
            again = runs.run(x.numpy(), threads=threads)[0][:, :, 0, 0]
            np.testing.assert_array_equal(again, ours)


class Maps(nn.Module):
    """A backbone that gives the maps of some stages, in any order."""

    def __init__(self, backbone, stages):
        super().__init__()
        self.backbone, self.stages = backbone, stages
        backbone.out_indices = tuple(range(len(backbone.stages)))

    def forward(self, x):
        maps = self.backbone(x)
        return tuple(maps[i] for i in self.stages)


@needs_library
@pytest.mark.parametrize('stages', [(0, -1), (-1, 0), (0, 0, -1)])
@pytest.mark.parametrize('name', ['bnext tau', 'bnext groups', 'reactnet tau', 'bi-real'])
def test_the_maps_of_several_stages(name, stages):
    torch.manual_seed(0)
    model, x = Maps(NETWORKS[name](), stages), torch.randn(5, 3, 70, 64)
    lifelike(model, torch.randn(2, 3, 70, 64))
    runs = engine(*compiled(model, x))
    with torch.no_grad():
        maps = [y.numpy() for y in model(x)]
        exact = [y.numpy() for y in model.double()(x.double())]
    assert runs.output_shapes == [y.shape[1:] for y in maps]
    ours = runs.run(x.numpy())
    for one, two, best in zip(ours, maps, exact):
        error, of_torch = (
            np.median(np.abs(y - best).max((1, 2, 3))) / np.abs(best).max() for y in (one, two)
        )
        assert error <= max(3 * of_torch, 1e-6)
    for one, two in zip(ours, runs.run(x.numpy(), threads=3)):
        np.testing.assert_array_equal(one, two)


@needs_library
def test_weights_are_rounded_to_half_precision_as_in_openvino():
    model, x = classifier('bnext tau'), torch.randn(9, 3, 70, 64)
    conversion = to_openvino(model, [x[:1]], half=True, with_native=True)
    request = compile_graph(conversion.graph, 1).create_infer_request()
    other = np.concatenate([request.infer([one[None].numpy()])[0] for one in x])
    ours = engine(*conversion.native).run(x.numpy())[0][:, :, 0, 0]
    with torch.no_grad():
        whole = model(x).numpy()
    assert typical_error(ours, whole) > 1e-5
    assert typical_error(ours, other) < typical_error(ours, whole) / 10


def test_weights_are_bits_in_the_data():
    model, x = classifier('bnext tau'), torch.randn(1, 3, 70, 64)
    program, data = compiled(model, x)
    assert program.nbytes == len(data)
    real = sum(p.numel() for n, p in model.named_parameters() if '.conv.weight' not in n)
    # words of 64 channels and blocks of eight kernels are not all full in so small a network
    assert len(data) < 4 * 4 * real + 40_000


def test_a_map_is_read_and_written_in_one_sweep():
    program, _ = compiled(classifier('bnext'), torch.randn(1, 3, 64, 64))
    large = [s for s in program.steps if hasattr(s, 'segments') and s.pixels > 1]
    convolutions = [s for s in program.steps if hasattr(s, 'pad_value')]
    # a mean of each result, and what follows; the stem and the end have one each
    assert len(large) <= 2 * len(convolutions) + 2
    assert not any(type(step).__name__ == 'Pool' for step in program.steps)


class Odd(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ('function', 'message'),
    [
        (lambda x: x.softmax(1).mean((2, 3)), 'no native form of Softmax'),
        (lambda x: x[:, :, ::2].mean((2, 3)), 'other than channels'),
        (lambda x: (x * torch.arange(8.0)).mean((2, 3)), 'from pixel to pixel'),
        (lambda x: x.repeat(1, 2**19, 1, 1), 'beyond a limit: .*channels=1572864 must be'),
    ],
)
def test_what_is_not_covered_is_named(function, message):
    with pytest.raises(NotCovered, match=message):
        compiled(Odd(function), torch.randn(1, 3, 8, 8))


@needs_library
@pytest.mark.parametrize(
    'function',
    [
        lambda x: torch.cat([x * 2, x.sigmoid()], 1).mean((2, 3)),
        lambda x: (x.clamp(-0.5, 0.5) - x.relu()).mean((2, 3)),
        lambda x: torch.nn.functional.max_pool2d(x, 3, 2, 1).mean((2, 3)),
        lambda x: torch.nn.functional.avg_pool2d(x, 3, 2, 1).mean((2, 3)),
        lambda x: torch.nn.functional.avg_pool2d(x, 2, 2).mean((2, 3)),
        lambda x: torch.cat([x[:, 1:], x[:, :1], x], 1).mean((2, 3)),
        lambda x: (x * x.mean((2, 3), keepdim=True).sigmoid() * 3).mean((2, 3)),
    ],
)
def test_single_operators(function):
    x = torch.randn(2, 3, 12, 10)
    runs = engine(*compiled(Odd(function), x))
    ours = runs.run(x.numpy())[0][:, :, 0, 0]
    np.testing.assert_allclose(ours, function(x).numpy(), rtol=1e-5, atol=1e-6)


@needs_library
@pytest.mark.parametrize(
    'gate',
    [
        lambda means: means.repeat(1, 2, 1, 1),
        lambda means: means[:, 1:2],
        lambda means: torch.cat([means[:, 2:], means, means[:, :2]], 1),
    ],
    ids=['copies', 'one channel', 'other order'],
)
def test_gates_whose_channels_are_read_again(gate):
    torch.manual_seed(0)
    weight, x = torch.randn(6, 3, 1, 1), torch.randn(2, 3, 12, 10)

    def gated(x):
        gates = gate(x.mean((2, 3), keepdim=True))
        return nn.functional.conv2d(x, weight) * gates

    ours = engine(*compiled(Odd(gated), x)).run(x.numpy())[0]
    np.testing.assert_allclose(ours, gated(x), rtol=1e-5, atol=1e-6)


class Joined(nn.Module):
    """Joins changed results of layers, one of which another layer reads as it is."""

    def __init__(self, change):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1, bias=False)
        self.second = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.third, self.change = nn.Conv2d(4, 2, 1), change

    def forward(self, x):
        y, z = self.first(x), self.second(x)
        return torch.cat([self.change(y), self.change(z)], 1) * 2, self.third(y)


@needs_library
@pytest.mark.parametrize(
    'change',
    [
        lambda y: y,
        lambda y: y.unflatten(1, (2, 2)),
        lambda y: torch.cat([y[:, :1], y[:, 1:]], 1),
        lambda y: nn.functional.max_pool2d(y, 3, 1, 1),
        lambda y: nn.functional.avg_pool2d(y, 3, 1, 1),
    ],
    ids=['as they are', 'in other axes', 'in parts', 'maxima', 'means'],
)
def test_joined_results_that_others_read(change):
    torch.manual_seed(0)
    model, x = Joined(change), torch.randn(2, 3, 6, 6)
    ours = engine(*compiled(model, x)).run(x.numpy())
    with torch.no_grad():
        expected = model(x)
    for one, two in zip(ours, expected, strict=True):
        np.testing.assert_allclose(one.reshape(two.shape), two, rtol=1e-5, atol=1e-5)


def test_equal_networks_are_equal_programs():
    x = torch.randn(1, 3, 64, 64)
    programs = [compiled(classifier('bnext tau'), x) for _ in range(3)]
    for program, data in programs[1:]:
        assert program == programs[0][0]
        assert np.array_equal(data, programs[0][1])


def test_means_of_copies_read_their_integers_once():
    program, _ = compiled(classifier('bnext tau'), torch.randn(1, 3, 64, 64))
    segments = [segment for step in program.steps for segment in getattr(step, 'segments', ())]
    maxima = [
        segment
        for segment in segments
        if any(name == 'max' and to[0] == MEAN for name, to, *_ in segment.code)
    ]
    assert maxima
    for segment in maxima:
        small = [
            operand
            for _, _, *operands in segment.code
            for operand in operands
            if operand[0] == MAP and program.maps[operand[1]].kind == 'int16'
        ]
        assert len(small) == 1


@needs_library
@pytest.mark.parametrize(
    'settings',
    [
        dict(),
        dict(stride=2, padding=1),
        dict(stride=(1, 3), padding=(0, 2), dilation=(2, 1)),
        dict(padding=1, dilation=2),
        dict(stride=2, padding=1, groups=3),
    ],
)
@pytest.mark.parametrize('kernels', [3, 33, 48])
def test_real_convolutions(settings, kernels):
    torch.manual_seed(0)
    weight = torch.randn(kernels, 3 // settings.get('groups', 1), 3, 3)
    x = torch.randn(2, 3, 11, 60)  # wide enough for windows that lie inside, side by side

    def convolve(x):
        return torch.nn.functional.conv2d(x, weight.to(x.dtype), **settings)

    ours = engine(*compiled(Odd(convolve), x)).run(x.numpy())[0]
    np.testing.assert_allclose(ours, convolve(x.double()).numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ('channels', 'expected'),
    [
        # only one block keeps width and resolution
        ([16, 32, 32, 64], 1),
        # and one more, which reads and writes its map in two halves, twice
        ([16, 32, 32, 32, 64], 5),
    ],
)
def test_a_residual_map_stays_in_its_place(channels, expected):
    torch.manual_seed(0)
    model = lifelike(Classifier(BNext(dict(channels=channels))), torch.randn(2, 3, 64, 64))
    program, _ = compiled(model, torch.randn(1, 3, 64, 64))
    in_place = 0
    for sweep in (step for step in program.steps if hasattr(step, 'segments')):
        for segment in sweep.segments:
            for name, to, *operands in segment.code:
                if to[0] != MAP or name == 'bits' or sweep.pixels == 1:
                    continue
                offset = program.maps[to[1]].offset
                read = {program.maps[x[1]].offset for x in operands if x[0] == MAP}
                in_place += offset in read
    assert in_place == expected


def touched(step):
    """Return the numbers of the maps that a step reads or writes."""
    found = {getattr(step, name) for name in ('source', 'to') if hasattr(step, name)}
    for segment in getattr(step, 'segments', ()):
        for _, to, *operands in segment.code:
            found |= {x[1] for x in operands if x[0] == MAP}
            found |= {to[1]} if to[0] >= MAP else set()
    return found


@pytest.mark.parametrize('name', NETWORKS)
def test_maps_take_no_more_memory_than_those_that_are_needed_at_once(name):
    program, _ = compiled(classifier(name), torch.randn(1, 3, 64, 64))
    steps = [touched(step) for step in program.steps]
    most = 0
    for number in range(len(steps)):
        past, coming = set().union(*steps[: number + 1]), set().union(*steps[number:])
        alive = [program.maps[i] for i in past & coming]
        # two of them can be one place: a sweep reads the first one before it writes the second
        places = sorted({(one.offset, one.offset + one.nbytes) for one in alive})
        assert all(end <= start for (_, end), (start, _) in pairwise(places))
        most = max(most, sum(-(-(end - start) // 64) * 64 for start, end in places))
    assert program.memory == most
