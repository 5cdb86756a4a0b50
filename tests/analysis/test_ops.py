"""Counting whole networks."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import mmesbnn.analysis.ops as ops_module
from mmesbnn.analysis import count_ops
from mmesbnn.binary import BinaryConv2d, BinaryLinear, binary_conv2d, sign
from mmesbnn.models.backbones.bnext import BNext
from mmesbnn.models.layers.minmax import MinMaxConv2d, MinMaxLinear

IMAGENET = (3, 224, 224)


class Classifier(nn.Module):
    """A backbone, global average pooling and a linear classifier of 1000 classes."""

    def __init__(self, linear=nn.Linear, **backbone):
        super().__init__()
        self.backbone = BNext(**backbone)
        self.fc = linear(self.backbone.out_channels[-1], 1000)

    def forward(self, x):
        return self.fc(self.backbone(x)[-1].mean((2, 3)))


# Published architectures, counted by hand (FP MACs, BOPs, OPs) and stored parameters.
PUBLISHED = {
    'tiny': (13.34e6, 4.817e9, 0.886e8, 30.86e6),
    'small': (21.13e6, 10.84e9, 1.905e8, 68.59e6),
    'middle': (24.26e6, 20.09e9, 3.381e8, 134.50e6),
    'large': (39.42e6, 52.15e9, 8.543e8, 326.55e6),
    '18': (138.1e6, 1.676e9, 1.643e8, 12.06e6),
}


@pytest.mark.parametrize('arch', list(PUBLISHED))
def test_published_numbers(arch):
    total = count_ops(Classifier(arch=arch), IMAGENET).total
    macs, bops, ops, params = PUBLISHED[arch]
    assert total['fp_macs'] == pytest.approx(macs, rel=1e-3)
    assert total['bops'] == pytest.approx(bops, rel=1e-3)
    assert total['ops'] == pytest.approx(ops, rel=1e-3)
    assert total['fp_params'] + total['binary_params'] == pytest.approx(params, rel=1e-3)


@pytest.mark.parametrize('tau', [2, 4])
def test_es_costs_no_operation_and_no_binary_weight(tau):
    base = count_ops(Classifier(), IMAGENET)
    es = count_ops(Classifier(tau=tau), IMAGENET)
    for name in ('fp_macs', 'bops', 'ops', 'binary_params'):
        assert es.total[name] == base.total[name]
    widened = zip(base.layers, es.layers)
    binary = [(a, b) for a, b in widened if a.kind == 'binary']
    assert len(binary) == 31
    assert all(b.taps == tau * a.taps for a, b in binary)
    assert all(b.capacity == tau * a.taps + 1 for a, b in binary)
    # published for tau = 2 and 4, in millions
    stored = es.total['fp_params'] + es.total['binary_params']
    assert stored == pytest.approx({2: 30.93e6, 4: 31.10e6}[tau], rel=1e-3)


def test_8_bit_variant():
    model = Classifier(MinMaxLinear, stem_bits=8, se_bits=8)
    report = count_ops(model, IMAGENET)
    assert report.total['fp_macs'] == 0
    assert report.total['int_macs'] == pytest.approx(13.34e6, rel=1e-3)
    assert report.total['ops'] == pytest.approx(0.769e8, rel=1e-3)
    assert {layer.kind for layer in report.layers} == {'binary', '8-bit'}


def test_32_bits_are_full_precision():
    (layer,) = count_ops(MinMaxConv2d(3, 4, 1, bits=32), (3, 2, 2)).layers
    assert (layer.kind, layer.fp_macs, layer.int_macs) == ('full precision', 48, 0)


def small():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.PReLU(8),
        BinaryConv2d(8, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.Flatten(),
        BinaryLinear(16 * 16, 10, weight_binarizer='temperature'),
        nn.Linear(10, 4),
    )


def test_layers_add_up_to_the_total():
    model = small()
    report = count_ops(model, (3, 4, 4))
    assert [layer.name for layer in report.layers] == ['0', '2', '5', '6']
    kinds = [layer.kind for layer in report.layers]
    assert kinds == ['full precision', 'binary', 'binary', 'full precision']
    total = report.total
    assert total['fp_macs'] == 16 * 8 * 27 + 40
    assert total['bops'] == 16 * 16 * 72 + 2560
    assert total['ops'] == total['fp_macs'] + total['bops'] / 64
    assert total['binary_params'] == 16 * 72 + 2560
    parameters = sum(p.numel() for p in model.parameters())
    assert total['fp_params'] == parameters - total['binary_params']
    assert total['other_params'] == 8 + 32
    assert total['bytes_fp32'] == 4 * parameters
    # a bit per binary weight, a scale per output of layer 2, the rest as it is
    packed = 16 * 72 // 8 + 4 * 16 + 2560 // 8 + 4 * total['fp_params']
    assert total['bytes_packed'] == packed
    # running mean and variance, a 64-bit counter, a temperature
    assert total['buffer_bytes'] == 4 * 32 + 8 + 4


def test_packed_bytes_are_rounded_up_per_layer():
    model = nn.Sequential(*(BinaryConv2d(3, 3, 1) for _ in range(2)))
    report = count_ops(model, (3, 2, 2))
    assert [layer.bytes_packed for layer in report.layers] == [2 + 12] * 2


def test_a_layer_that_runs_twice_counts_twice_but_is_stored_once():
    conv = BinaryConv2d(4, 4, 1)
    report = count_ops(nn.Sequential(conv, conv), (4, 2, 2))
    (layer,) = report.layers
    assert (layer.bops, layer.binary_params) == (2 * 64, 16)


def test_shared_parameters_are_stored_once():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    report = count_ops(model, (4,))
    assert report.total['fp_params'] == 16 + 4 + 4
    assert report.total['fp_macs'] == 32


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.body = BinaryConv2d(8, 8, 1)
        self.gate = nn.Conv2d(8, 8, 1)
        self.downsample = nn.Sequential(nn.Conv2d(8, 16, 1))
        self.plain = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 5, bias=False)
        self.idle = nn.Linear(5, 5)

    def forward(self, x):
        x = self.body(self.stem(x))
        x = x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()
        x = self.plain(self.downsample(x)).flatten(2)
        x = x @ (x.transpose(1, 2) @ x).softmax(-1)
        return self.head(x.transpose(1, 2))


def test_says_why_a_layer_is_not_binary():
    report = count_ops(Gated(), (3, 8, 8))
    assert {layer.name: layer.why for layer in report.layers} == {
        'stem': 'first layer, reads the input',
        'body': '',
        'gate': '1x1 map (gate, embedding)',
        'downsample.0': 'projection shortcut',
        'plain': 'not a binary layer: Conv2d',
        'Gated': 'product of two activations',
        'head': 'last layer, gives the output',
        'idle': 'its forward did not run',
    }


def test_layers_that_read_as_much_as_the_input_has_are_not_first():
    body = nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3)))
    why = [layer.why for layer in count_ops(body, (4, 6, 6)).layers]
    assert why == [
        'first layer, reads the input',
        'not a binary layer: Conv2d',
        'last layer, gives the output',
    ]


@pytest.mark.parametrize('prepare', [nn.ReLU(), nn.Flatten(0, 1), nn.BatchNorm1d(4)])
def test_a_layer_that_reads_a_changed_input_is_first(prepare):
    report = count_ops(nn.Sequential(prepare, nn.Linear(6, 6), nn.Linear(6, 2)), (4, 6))
    assert report.layers[0].why == 'first layer, reads the input'
    assert report.layers[1].why != 'first layer, reads the input'


def test_several_outputs():
    class TwoHeads(nn.Module):
        def __init__(self):
            super().__init__()
            self.boxes = nn.Conv2d(4, 8, 3)
            self.scores = nn.Conv2d(4, 2, 3)

        def forward(self, x):
            x = x * 2
            x = torch.cat([x, x], 1)
            return {
                # made by a copy, because a view cannot have this layout
                'boxes': [self.boxes(x).permute(0, 2, 3, 1)[..., :4].reshape(1, -1)],
                'scores': self.scores(x),
            }

    report = count_ops(TwoHeads(), (2, 6, 6))
    assert {layer.why for layer in report.layers} == {'last layer, gives the output'}


def test_binary_operator_with_real_weights_is_full_precision():
    report = count_ops(BinaryConv2d(4, 4, 1, weight_binarizer='real'), (4, 2, 2))
    (layer,) = report.layers
    assert (layer.kind, layer.bops, layer.fp_macs) == ('full precision', 0, 64)
    assert (layer.binary_params, layer.capacity) == (0, None)
    assert layer.why == 'its weights are real'
    assert report.total['capacity_min'] is None


def test_binary_operator_called_without_a_layer():
    class Functional(nn.Module):
        def forward(self, x):
            return binary_conv2d(sign(x), torch.ones(2, 4, 1, 1))

    (layer,) = count_ops(Functional(), (4, 2, 2)).layers
    assert (layer.name, layer.kind, layer.bops) == ('Functional', 'binary', 32)


class NeedsValues(nn.Module):
    """Branches on a value, which fake tensors cannot do."""

    def __init__(self):
        super().__init__()
        self.conv = BinaryConv2d(4, 4, 1)

    def forward(self, x):
        x = self.conv(x)
        return x if x.sum() < 1e9 else self.conv(x)


@pytest.mark.parametrize('make', [small, NeedsValues])
def test_leaves_the_model_as_it_was(make):
    model = make()
    model[1].eval() if make is small else None
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    shape = (3, 4, 4) if make is small else (4, 2, 2)
    assert count_ops(model, shape).total['bops'] > 0
    assert [module.training for module in model.modules()] == modes
    for module in model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert torch.is_grad_enabled()


def test_fake_and_real_runs_agree(monkeypatch):
    model = Classifier(arch=dict(channels=[16, 32, 32, 64]), tau=2)
    fake = count_ops(model, (3, 32, 48))

    def refuse(*_):
        raise RuntimeError('no fake tensors today')

    monkeypatch.setattr(ops_module, '_run_fake', refuse)
    assert count_ops(model, (3, 32, 48)) == fake


@pytest.mark.parametrize('network_inside', [False, True])
@pytest.mark.parametrize('given', ['shape', 'tensor'])
def test_counts_in_inference_mode_as_outside(network_inside, given):
    def network():
        return nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(64, 3))

    net = network()
    macs = 4 * 4 * 4 * 18 + 3 * 64
    assert count_ops(net, (2, 6, 6)).to_dict()['total']['fp_macs'] == macs
    with torch.inference_mode():
        net = network() if network_inside else net
        x = torch.zeros(1, 2, 6, 6) if given == 'tensor' else (2, 6, 6)
        assert count_ops(net, x).to_dict()['total']['fp_macs'] == macs
    assert count_ops(net, x).to_dict()['total']['fp_macs'] == macs


def test_counts_a_batch_and_other_arguments():
    class Scaled(nn.Conv2d):
        def forward(self, x, factor=1):
            return super().forward(x) * factor

    conv = Scaled(3, 4, 1)
    one = count_ops(conv, torch.zeros(1, 3, 5, 5)).total['fp_macs']
    assert count_ops(conv, torch.zeros(7, 3, 5, 5), factor=2).total['fp_macs'] == 7 * one


def test_wrong_input():
    with pytest.raises(ValueError, match='needs an input'):
        count_ops(small())
    with pytest.raises(RuntimeError, match='channels'):
        count_ops(small(), (5, 4, 4))


def test_an_unknown_operator_of_ours_is_an_error():
    @torch.library.custom_op('mmesbnn::unknown_for_this_test', mutates_args=())
    def unknown(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    class Unknown(nn.Module):
        def forward(self, x):
            return unknown(x)

    with pytest.raises(NotImplementedError, match='unknown_for_this_test'):
        count_ops(Unknown(), (3,))


@pytest.mark.parametrize(('scale', 'scales'), [(1.0, 0), (0.5, 16)])
def test_scales_of_packed_weights_are_counted(scale, scales):
    conv = BinaryConv2d(4, 4, 1, weight_binarizer='fixed')
    conv.weight.data = scale * conv.weight.data.sign()
    (layer,) = count_ops(conv, (4, 2, 2)).layers
    assert layer.kind == 'binary'
    assert layer.bytes_packed == 2 + scales


def test_lazy_layers_of_the_model_stay_lazy():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.LazyLinear(10))
    report = count_ops(model, (3, 8, 8))
    assert report.total['fp_macs'] == 8 * 36 * 27 + 8 * 36 * 10
    assert isinstance(model[2], nn.LazyLinear) and model[2].has_uninitialized_params()


def test_pruned_weights_are_binary():
    conv = BinaryConv2d(4, 4, 3)
    plain = count_ops(conv, (4, 8, 8)).layers
    prune.l1_unstructured(conv, 'weight', amount=0.5)
    assert count_ops(conv, (4, 8, 8)).layers == plain
    assert plain[0].binary_params == conv.weight_orig.numel()
