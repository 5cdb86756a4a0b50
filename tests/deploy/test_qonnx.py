"""QONNX files compute torch's outputs with quantizers, and count the same multiplications."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

from mmesbnn.analysis import count_ops
from mmesbnn.binary import (
    BinaryConv2d,
    BinaryFeedForward,
    BinaryLinear,
    BinaryMultiheadAttention,
    InputForm,
    build_sign,
)
from mmesbnn.deploy import ExportError, PackError
from tests import families
from tests.defaults import torch_default, with_other_defaults
from tests.deploy.apart import apart
from tests.deploy.packed.nets import Net, shaken, soft
from tests.deploy.small_network import Moody
from tests.real_data import photograph

onnx = pytest.importorskip('onnx')
pytest.importorskip('qonnx')
from mmesbnn.deploy.qonnx import export_qonnx  # noqa: E402

TINY = 2.0**-126


def run(path, *inputs):
    """Return the outputs of a file, as the package qonnx computes them from the file alone."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

    model = ModelWrapper(str(path)).transform(InferShapes())
    feed = {port.name: x.numpy() for port, x in zip(model.graph.input, inputs)}
    return list(execute_onnx(model, feed).values())


def nodes(path, kind):
    model = onnx.load(path)
    onnx.checker.check_model(model)
    assert {node.domain for node in model.graph.node} <= {'', 'qonnx.custom_op.general'}
    return [node for node in model.graph.node if node.op_type == kind]


def weights(path):
    """Return the arrays that ``BipolarQuant`` nodes turn into weights."""
    arrays = {x.name: onnx.numpy_helper.to_array(x) for x in onnx.load(path).graph.initializer}
    quants = nodes(path, 'BipolarQuant')
    assert all(arrays[node.input[1]] == 1 for node in quants)
    return [arrays[node.input[0]] for node in quants if node.input[0] in arrays]


def counts(model, *inputs):
    """Return the numbers of binary multiplications and of others, as count_ops has them."""
    total = count_ops(model, *inputs).total
    return total['bops'], total['fp_macs'] + total['int_macs']


SPECIAL = [0.0, -0.0, TINY, -TINY, 1e-30, -1e-30, 0.5, -0.5, 0.50000006, 1, -1, 7, -7, 3e38, -3e38]


@pytest.mark.parametrize(
    'spec',
    [
        'quadratic',
        'hard_tanh',
        'ede',
        dict(type='quadratic', zero=0),
        'heaviside',
        dict(type='dorefa', bits=1),
    ],
    ids=str,
)
def test_signs_of_special_numbers(spec, tmp_path):
    sign = nn.Sequential(build_sign(spec)).eval()
    x = torch.tensor([SPECIAL])
    export_qonnx(sign, tmp_path / 'x.onnx', [(x,)])
    (y,) = run(tmp_path / 'x.onnx', x)
    np.testing.assert_array_equal(y, sign(x).numpy())


def test_positive_subnormal_numbers_count_as_zero(tmp_path):
    sign = nn.Sequential(build_sign('quadratic')).eval()
    export_qonnx(sign, tmp_path / 'x.onnx', [(torch.ones(1, 3),)])
    (y,) = run(tmp_path / 'x.onnx', torch.tensor([[2.0**-149, TINY / 2, -(2.0**-149)]]))
    np.testing.assert_array_equal(y, [[-1, -1, -1]])


def is_sign(module):
    return isinstance(getattr(module, 'form', None), InputForm)


def without_first_offsets(model, x):
    """Return ``model`` without offsets before its first sign, which then reads exact zeros.

    Later offsets stay. They keep sums of scaled signs that cancel, up to rounding, away from 0.
    """
    order = []
    hooks = [
        module.register_forward_pre_hook(lambda module, _: order.append(module))
        for module in model.modules()
        if not list(module.children())
    ]
    model(x)
    for hook in hooks:
        hook.remove()
    for module in order[: next(i for i, module in enumerate(order) if is_sign(module))]:
        if getattr(module, 'bias', None) is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.zero_()
    return model


def crops(size):
    """Return a function that draws crops of photographs whose lower half is grey, 0."""
    generator = np.random.default_rng(0)

    def draw():
        image = photograph(int(generator.integers(4)))
        top, left = (generator.integers(side - size) for side in image.shape[:2])
        crop = image[top : top + size, left : left + size].transpose(2, 0, 1)
        x = torch.from_numpy(crop / 64.0 - 2).float()[None]
        x[:, :, size // 2 :] = 0
        return (x,)

    return draw


def zeros_at_signs(model, x):
    """Count the exact zeros that signs read."""
    found = []
    for module in filter(is_sign, model.modules()):
        module.register_forward_pre_hook(lambda _, args: found.append(int((args[0] == 0).sum())))
    with torch.no_grad():
        model(x)
    return sum(found)


@pytest.mark.parametrize(
    'name',
    [
        'bnext',
        'es-bnext-groups',
        'reactnet-a',
        'es-reactnet-a',
        'birealnet-18',
        'es-birealnet-18',
        'es-bidet-vgg',
        'binary-vit',
        'es-all-binary-vit',
    ],
)
def test_photographs_with_zeros_at_signs(name, tmp_path):
    model, _ = families.build(name)
    draw = crops(families.BACKBONES[name].size)
    model = without_first_offsets(model, *draw())
    example = apart(model, draw)
    report = export_qonnx(model, tmp_path / 'net.onnx', [example])
    for agreement in report.agreements:
        assert agreement.equal == 1, agreement
    assert zeros_at_signs(model, *example) > 50
    binary, real = counts(model, *example)
    assert report.binary == binary > 0
    assert report.multiplications.pop('FLOAT32 x FLOAT32') == real
    assert set(report.multiplications) <= {'BIPOLAR x BIPOLAR', 'SCALEDINT<1> x BIPOLAR'}
    assert all((abs(weight) == 1).all() for weight in weights(tmp_path / 'net.onnx'))


@pytest.mark.parametrize('name', ['birealnet-18', 'es-bidet-vgg'])
def test_the_command_of_qonnx_counts_the_same(name, tmp_path):
    """Its constant folding changes no number, and its clean-up no output."""
    from qonnx.util.cleanup import cleanup
    from qonnx.util.inference_cost import inference_cost

    model, inputs = families.build(name)
    x = inputs[0][:1]
    path = tmp_path / 'net.onnx'
    report = export_qonnx(model, path, [(x,)])
    cleanup(str(path), out_file=str(tmp_path / 'clean.onnx'))
    for ours, theirs in zip(run(path, x), run(tmp_path / 'clean.onnx', x), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    costs = inference_cost(str(path), discount_sparsity=False)['total_cost']
    binary, real = counts(model, x)
    assert costs['op_mac_BIPOLAR_BIPOLAR'] == report.binary == binary
    assert costs['op_mac_FLOAT32_FLOAT32'] == real
    assert costs['total_macs'] == binary + real
    # weights of binary layers are one bit each
    layers = count_ops(model, x).total
    assert costs['mem_w_BIPOLAR'] == layers['binary_params']


@pytest.mark.parametrize('binarizer', ['temperature', 'scaled_sign', 'centred_sign'])
def test_scales_biases_groups_and_padding(binarizer, tmp_path):
    model = shaken(Net(binarizer))
    draw = crops(16)
    example = apart(model, draw)
    report = export_qonnx(model, tmp_path / 'net.onnx', [example])
    assert report.agreements[0].equal == 1
    signs = {tuple(w.shape): w for w in weights(tmp_path / 'net.onnx')}
    for layer in (model.grouped, model.wide, model.dense.conv, model.linear):
        expected = layer.effective_weight().sign().detach().numpy()
        np.testing.assert_array_equal(signs[expected.shape], expected)
    assert (report.binary, report.multiplications['FLOAT32 x FLOAT32']) == counts(model, *example)
    # the model has not changed
    assert type(model.wide.weight_binarizer).__name__ != 'BipolarWeight'
    np.testing.assert_allclose(
        run(tmp_path / 'net.onnx', *example)[0], model(*example).detach(), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize('groups', [1, 2])
def test_groups_of_tokens(groups, tmp_path):
    model = shaken(BinaryFeedForward(16, 32, tau=2, es_groups=groups))
    example = apart(model, lambda: (torch.randn(1, 9, 16),))
    report = export_qonnx(model, tmp_path / 'a.onnx', [example], input_names=['tokens'])
    assert report.agreements[0].equal == 1
    assert (report.binary, 0) == counts(model, *example)


def test_attention(tmp_path):
    model = shaken(BinaryMultiheadAttention(16, 4, tau=2, clip=0.1))
    example = apart(model, lambda: (torch.randn(1, 9, 32),))
    report = export_qonnx(model, tmp_path / 'a.onnx', [example], input_names=['tokens'])
    assert report.agreements[0].equal == 1
    assert len(nodes(tmp_path / 'a.onnx', 'Quant')) == 1
    # both products of attention are binary, and one of them has the scale of probabilities
    assert report.multiplications['SCALEDINT<1> x BIPOLAR'] == 4 * 9 * 9 * 4
    assert (report.binary, 0) == counts(model, *example)


@pytest.mark.parametrize(
    ('sign', 'types'),
    [
        (dict(type='quadratic', zero=0), 'INT2 x BIPOLAR'),
        ('heaviside', 'BINARY x BIPOLAR'),
        (dict(type='dorefa', bits=1), 'BINARY x BIPOLAR'),
    ],
    ids=str,
)
def test_other_levels(sign, types, tmp_path):
    model = shaken(BinaryConv2d(3, 4, 3, padding=1, sign=sign))
    x = torch.randn(1, 3, 6, 6)
    x[..., :3] = 0
    report = export_qonnx(model, tmp_path / 'x.onnx', [(x,)])
    assert report.agreements[0].difference < 1e-5
    assert report.multiplications == {types: counts(model, x)[0]}


def test_real_weights_and_a_channel_of_zeros(tmp_path):
    model = nn.Sequential(
        BinaryConv2d(3, 4, 3, weight_binarizer='real'), BinaryConv2d(4, 5, 3, bias=True)
    )
    with torch.no_grad():
        model[1].weight[2] = 0
        model[1].bias.normal_()
    example = apart(model.eval(), lambda: (torch.randn(1, 3, 6, 6),))
    report = export_qonnx(model, tmp_path / 'x.onnx', [example])
    assert report.agreements[0].equal == 1
    real = 4 * 27 * 16
    assert report.multiplications == {'BIPOLAR x FLOAT32': real, 'BIPOLAR x BIPOLAR': 5 * 36 * 4}
    arrays = [
        onnx.numpy_helper.to_array(x) for x in onnx.load(tmp_path / 'x.onnx').graph.initializer
    ]
    assert any(np.array_equal(array, model[0].weight.detach()) for array in arrays)


class Steps(nn.Module):
    """A sign of another package, with its values."""

    def __init__(self, form=None, low=-1.0):
        super().__init__()
        if form:
            self.form = form
        self.low = low

    def forward(self, x):
        return torch.where(x > 0.25, 1.0, self.low)


def test_a_sign_of_another_package(tmp_path):
    model = BinaryConv2d(3, 4, 3, sign=Steps())
    x = torch.randn(1, 3, 6, 6)
    report = export_qonnx(model, tmp_path / 'x.onnx', [(x,)])
    assert report.agreements[0].difference < 1e-5
    assert report.multiplications == {'BIPOLAR x BIPOLAR': counts(model, x)[0]}


class Unsigned(nn.Module):
    """A binary layer whose input is made by no sign that an export can know."""

    def __init__(self):
        super().__init__()
        self.layer = BinaryLinear(6, 4, sign=None)

    def forward(self, x):
        return self.layer(torch.where(x > 0, 1.0, -1.0))


class Picked(nn.Module):
    def forward(self, x):
        return x[x > 0]


@pytest.mark.parametrize(
    ('model', 'words'),
    [
        (BinaryLinear(6, 4, sign=dict(type='dorefa', bits=2)), 'sign: its outputs are 4 values'),
        (BinaryLinear(6, 4, sign=Steps(low=0.0)), 'sign: its outputs must be -1 and 1'),
        (BinaryLinear(6, 4, sign=Steps(InputForm(low=0))), 'sign: its outputs are 0 and 1, and'),
        (Unsigned(), '24 binary multiplications, and 0 became'),
        (Picked(), 'the size of .* depends on values'),
    ],
    ids=['dorefa', 'zeros', 'levels', 'unsigned', 'picked'],
)
def test_what_has_no_exact_form(model, words, tmp_path):
    with pytest.raises(ExportError, match=words):
        export_qonnx(model, tmp_path / 'x.onnx', [(torch.randn(1, 6),)])
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_exported(tmp_path, monkeypatch):
    path, x = tmp_path / 'x.onnx', torch.randn(1, 3, 16, 16)
    model = shaken(Net('temperature'))
    with pytest.raises(ExportError, match=r'qonnx cannot run the network .*Conv'):
        export_qonnx(shaken(Net('temperature')).double(), path, [(x.double(),)])
    soft(model)
    with pytest.raises(PackError, match=r'cannot export grouped: its temperature'):
        export_qonnx(model, path, [(x,)])
    with torch.no_grad():
        model.stem.weight[0, 0, 0, 0] = float('nan')
    with pytest.raises(ExportError, match='holds NaN or infinity'):
        export_qonnx(model, path, [(x,)])
    with pytest.raises(FileNotFoundError, match=r'no/x\.onnx'):
        export_qonnx(model, tmp_path / 'no' / 'x.onnx', [(x,)])
    monkeypatch.setitem(sys.modules, 'qonnx', None)
    with pytest.raises(ImportError, match=r'needs qonnx.*mmesbnn\[fpga\]'):
        export_qonnx(model, path, [(x,)])
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_agree_is_not_written(tmp_path):
    with pytest.raises(ExportError, match='qonnx disagrees with torch: output'):
        export_qonnx(Moody(), tmp_path / 'x.onnx', [(torch.randn(1, 6),)] * 3)
    assert list(tmp_path.iterdir()) == []


@with_other_defaults
def test_a_file_does_not_depend_on_the_defaults_of_torch(default, tmp_path):
    model, paths = shaken(Net('scaled_sign')), [tmp_path / 'a.onnx', tmp_path / 'b.onnx']
    examples = [(torch.randn(1, 3, 16, 16),)]
    export_qonnx(model, paths[0], examples)
    with torch_default(default):
        export_qonnx(model, paths[1], examples)
    assert paths[0].read_bytes() == paths[1].read_bytes()
