"""ONNX files compute torch's outputs with plain operators."""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from mmesbnn.binary import BinaryConv2d, BinaryLinear, BinaryMultiheadAttention
from mmesbnn.deploy import ExportError, PackError
from mmesbnn.deploy.onnx import export_onnx
from tests.defaults import torch_default, with_other_defaults
from tests.deploy.apart import apart
from tests.deploy.packed.nets import Net, shaken, soft
from tests.deploy.small_network import Moody

onnx = pytest.importorskip('onnx')
runtime = pytest.importorskip('onnxruntime')


def images(*batches, size=16):
    return [(torch.randn(n, 3, size, size),) for n in batches]


def constants(path):
    model = onnx.load(path)
    onnx.checker.check_model(model)
    assert {node.domain for node in model.graph.node} == {''}
    return {value.name: onnx.numpy_helper.to_array(value) for value in model.graph.initializer}


@pytest.mark.parametrize('binarizer', ['temperature', 'scaled_sign', 'centred_sign'])
def test_outputs_are_equal_for_any_batch(binarizer, tmp_path):
    model, path = shaken(Net(binarizer)), tmp_path / 'net.onnx'
    examples = [apart(model, lambda n=n: images(n)[0]) for n in (2, 1, 5)]
    (agreement,) = export_onnx(model, path, examples)
    assert agreement.equal == agreement.examples == 3
    assert agreement.difference <= 1e-5 * agreement.largest
    weight = constants(path)['network.wide.weight']
    expected = model.wide.effective_weight().detach().numpy()
    np.testing.assert_array_equal(weight, expected)
    nodes = [node.op_type for node in onnx.load(path).graph.node]
    # one comparison for every layer that has a sign
    assert nodes.count('Greater') == nodes.count('Where') == 4
    # the model has not changed
    assert type(model.wide.weight_binarizer).__name__ != 'FixedWeight'


def test_a_weight_that_is_computed_from_others(tmp_path):
    model = nn.Sequential(BinaryLinear(8, 6))
    parametrizations.weight_norm(model[0])
    with pytest.raises(PackError, match='cannot export 0: its weight is computed from other'):
        export_onnx(model, tmp_path / 'net.onnx', [(torch.randn(1, 8),)])


def test_attention(tmp_path):
    model = shaken(BinaryMultiheadAttention(16, 4, tau=2))
    examples = [apart(model, lambda n=n: (torch.randn(n, 9, 32),)) for n in (1, 3)]
    path = tmp_path / 'a.onnx'
    (agreement,) = export_onnx(model, path, examples, input_names=['tokens'])
    assert agreement.equal == 2
    assert not [n for n in onnx.load(path).graph.node if n.op_type == 'If']


def test_names_and_fixed_batches(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = BinaryLinear(6, 4)

        def forward(self, x, y):
            return {'sum': self.layer(x + y), 'both': [self.layer(x)]}

    path = tmp_path / 'two.onnx'
    examples = [(torch.randn(2, 6), torch.randn(2, 6))]
    agreements = export_onnx(
        Two(),
        path,
        examples,
        input_names=['x', 'y'],
        output_names=['sum', 'one'],
        dynamic_batch=False,
    )
    assert [agreement.name for agreement in agreements] == ['sum', 'one']
    session = runtime.InferenceSession(path)
    assert [i.shape for i in session.get_inputs()] == [[2, 6]] * 2


def test_a_sign_of_zero_that_is_zero(tmp_path):
    sign = dict(type='quadratic', zero=0)
    model = BinaryConv2d(3, 4, 3, sign=sign).eval()
    x = torch.randn(1, 3, 6, 6)
    x[..., :3] = 0
    (agreement,) = export_onnx(model, tmp_path / 'x.onnx', [(x,)])
    assert agreement.difference < 1e-5


def test_real_weights_are_exported_as_they_are(tmp_path):
    model = shaken(Net('real'))
    export_onnx(model, tmp_path / 'net.onnx', images(1))
    weight = constants(tmp_path / 'net.onnx')['network.wide.weight']
    np.testing.assert_array_equal(weight, model.wide.weight.detach())


def test_a_network_in_its_temperature_phase(tmp_path):
    model = shaken(Net('temperature'))
    soft(model)
    with pytest.raises(PackError, match=r'cannot export grouped: its temperature'):
        export_onnx(model, tmp_path / 'net.onnx', images(1))
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_agree_is_not_written(tmp_path):
    with pytest.raises(ExportError, match='ONNX Runtime disagrees with torch: output'):
        export_onnx(Moody(), tmp_path / 'x.onnx', images(1))
    assert list(tmp_path.iterdir()) == []


class FixesItsBatch(nn.Module):
    def forward(self, x):
        return x.reshape(int(x.shape[0]), x.shape[1], -1)


class TakesOneImage(nn.Module):
    def forward(self, x):
        return x.reshape(1, -1)


class AnswersForOneImage(nn.Module):
    def forward(self, x):
        return x[:1]


@pytest.mark.parametrize('kind', [FixesItsBatch, TakesOneImage, AnswersForOneImage])
@pytest.mark.parametrize('batches', [[1], [2, 1], [1, 1, 1, 1, 1]])
def test_a_batch_that_cannot_be_left_open(kind, batches, tmp_path):
    with pytest.raises(ExportError, match=r'one size of batch only: .* \(--fixed-batch\)'):
        export_onnx(kind(), tmp_path / 'x.onnx', images(*batches))
    assert list(tmp_path.iterdir()) == []
    export_onnx(kind(), tmp_path / 'x.onnx', images(1), dynamic_batch=False)


def test_a_number_of_images_that_became_a_constant(tmp_path):
    class TimesBatch(nn.Module):
        def forward(self, x):
            return x * int(x.shape[0])

    with pytest.raises(ExportError, match='ONNX Runtime disagrees with torch'):
        export_onnx(TimesBatch(), tmp_path / 'x.onnx', images(1))


class OddGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.special.i0(x)


@pytest.mark.parametrize('function', [torch.special.i0, OddGradient.apply])
def test_what_onnx_does_not_know(function, tmp_path, capfd):
    class Odd(nn.Module):
        def forward(self, x):
            return function(x)

    with pytest.raises(ExportError, match=r'^the network cannot become ONNX: .*i0.*$'):
        export_onnx(Odd(), tmp_path / 'x.onnx', images(1))
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().out == ''  # torch does not print its graph


def test_missing_packages_and_folders(tmp_path, monkeypatch):
    model = BinaryLinear(3, 3)
    with pytest.raises(FileNotFoundError, match=r'no/x\.onnx'):
        export_onnx(model, tmp_path / 'no' / 'x.onnx', [(torch.randn(1, 3),)])
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(ImportError, match=r'needs onnxruntime.*mmesbnn\[deploy\]'):
        export_onnx(model, tmp_path / 'x.onnx', [(torch.randn(1, 3),)])


@pytest.mark.parametrize('pad_value', [-1, 0, 1])
def test_what_is_padded(pad_value, tmp_path):
    model = shaken(
        BinaryConv2d(
            4,
            6,
            (3, 1),
            stride=(2, 1),
            padding=(2, 1),
            dilation=(2, 1),
            groups=2,
            pad_value=pad_value,
        )
    ).eval()
    examples = [(torch.randn(n, 4, 9, 7),) for n in (1, 2)]
    (agreement,) = export_onnx(model, tmp_path / 'x.onnx', examples)
    assert agreement.difference < 1e-5 and agreement.largest > 1


@pytest.mark.parametrize('pad_value', [-1, 1])
def test_padding_in_half_precision(pad_value, tmp_path):
    model = shaken(BinaryConv2d(4, 6, 3, padding=1, pad_value=pad_value)).half().eval()
    examples = [(torch.randn(n, 4, 6, 6).half(),) for n in (1, 2)]
    (agreement,) = export_onnx(model, tmp_path / 'x.onnx', examples)
    assert agreement.equal == 2 and agreement.largest > 1


def test_several_threads_export_at_once(tmp_path):
    models = [shaken(Net('scaled_sign')) for _ in range(4)]
    examples = [apart(model, lambda: images(1)[0]) for model in models]

    def export(number):
        path = tmp_path / f'{number}.onnx'
        return export_onnx(models[number], path, [examples[number]])

    with ThreadPoolExecutor(4) as pool:
        for (agreement,) in pool.map(export, range(4)):
            assert agreement.equal == 1


def test_weights_that_are_no_numbers(tmp_path):
    model = shaken(Net('scaled_sign'))
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] = float('inf')
    with pytest.raises(ExportError, match='holds NaN or infinity'):
        export_onnx(model, tmp_path / 'x.onnx', images(1))
    assert list(tmp_path.iterdir()) == []


def test_a_network_whose_method_train_returns_nothing(tmp_path):
    class Silent(nn.Sequential):  # as mmpretrain's backbones
        def train(self, mode=True):
            super().train(mode)

    model = Silent(BinaryLinear(3, 3))
    (agreement,) = export_onnx(model, tmp_path / 'x.onnx', [(torch.randn(1, 3),)])
    assert agreement.equal == 1


@with_other_defaults
def test_a_file_does_not_depend_on_the_defaults_of_torch(default, tmp_path):
    model, paths = shaken(Net('scaled_sign')), [tmp_path / 'a.onnx', tmp_path / 'b.onnx']
    examples = [(torch.randn(1, 3, 16, 16),)]
    export_onnx(model, paths[0], examples)
    with torch_default(default):
        export_onnx(model, paths[1], examples)
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize(('beta', 'threshold'), [(1, 20), (2.5, 20), (2, 0.5), (-1.5, 1)])
def test_softplus_has_its_slope_and_threshold(beta, threshold, tmp_path):
    model, x = nn.Softplus(beta, threshold), torch.linspace(-9, 9, 40).view(1, 40)
    (agreement,) = export_onnx(model, tmp_path / 'net.onnx', [(x,)])
    assert agreement.difference < 1e-5
