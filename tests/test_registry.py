"""Signs and weight binarizers of a user's own module, from the config to the packed file."""

import copy
import json

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope, Registry
from torch import nn

import mmesbnn
from mmesbnn.analysis import check_binary, count_ops
from mmesbnn.analysis.lifelike import lifelike
from mmesbnn.binary import (
    BinaryConv2d,
    BinaryOptions,
    InputForm,
    QuadraticSign,
    ScaledSignWeight,
    WeightForm,
    binary_layers,
    build_sign,
    build_weight_binarizer,
    sign,
    straight_through,
)
from mmesbnn.binary.entries import WEIGHT_BINARIZERS as OWN
from mmesbnn.deploy.onnx import with_constant_weights
from mmesbnn.deploy.packed.file import PackError
from mmesbnn.deploy.packed.packing import pack
from mmesbnn.deploy.packed.unpacking import load_packed
from mmesbnn.registry import SIGNS, WEIGHT_BINARIZERS
from tests.managers import forget_components

REACTNET = dict(type='ReActNet', arch=dict(channels=[8, 8, 16], depths=[1, 1]), stem_stride=1)


class CubeSign(nn.Module):
    """A user's sign: the gradient is that of ``x^3``."""

    form = InputForm()

    def __init__(self, factor=1.0):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return straight_through(sign(x.detach()), self.factor * x**3)


class LargestWeight(nn.Module):
    """A user's binarizer: the scale is the largest magnitude of the output channel."""

    form = WeightForm(scaled=True)

    def forward(self, weight):
        scale = weight.detach().abs().flatten(1).amax(1).view(-1, *[1] * (weight.dim() - 1))
        return scale * straight_through(sign(weight.detach()), weight)


class SilentWeight(LargestWeight):
    """The same, and it says nothing about its values."""

    form = None


class TernaryWeight(nn.Module):
    form = WeightForm(values=3, scaled=False)

    def forward(self, weight):
        return straight_through((weight.detach() * 20).round().clamp(-1, 1), weight)


class LateWeight(LargestWeight):
    """A user's binarizer whose weights are not binary yet."""

    def why_not_binary(self):
        return 'its training has just begun'


@pytest.fixture
def registered():
    """Register the classes, as the import of a user's module does, and forget them again."""
    SIGNS.register_module(module=CubeSign)
    for kind in (LargestWeight, SilentWeight, TernaryWeight, LateWeight):
        WEIGHT_BINARIZERS.register_module(module=kind)
    yield
    forget_components((SIGNS, WEIGHT_BINARIZERS, MODELS), [__name__, 'users_signs'])
    MODELS.children.pop('mypackage', None)
    SIGNS.children.pop('other', None)


@pytest.mark.parametrize('registry', [SIGNS, WEIGHT_BINARIZERS])
def test_registries_are_children_of_the_root(registry):
    assert registry.parent is MODELS
    assert len(registry) >= 3


def test_names_of_the_package_mean_the_same_classes():
    assert SIGNS.get('quadratic') is QuadraticSign
    assert WEIGHT_BINARIZERS.get('scaled_sign') is ScaledSignWeight
    assert SIGNS.build(dict(type='quadratic', zero=0)).zero == 0
    assert type(WEIGHT_BINARIZERS.build('scaled_sign')) is ScaledSignWeight


@pytest.mark.usefixtures('registered')
@pytest.mark.parametrize('spec', ['CubeSign', dict(type='CubeSign'), dict(type=CubeSign)])
def test_a_sign_of_a_user(spec):
    assert type(build_sign(spec)) is CubeSign
    assert BinaryConv2d(4, 4, 3, sign=dict(type='CubeSign', factor=2.0)).sign.factor == 2


@pytest.mark.usefixtures('registered')
def test_the_conv_cfg_of_a_network():
    cfg = dict(type='ESConv2d', tau=2, sign=dict(type='CubeSign', factor=3.0))
    layer = MODELS.build(dict(cfg, in_channels=4, out_channels=8, kernel_size=3))
    assert type(layer.conv.sign) is CubeSign and layer.conv.sign.factor == 3


USERS_MODULE = """
from mmesbnn.binary import InputForm, QuadraticSign
from mmesbnn.registry import SIGNS

@SIGNS.register_module()
class WideSign(QuadraticSign):
    def forward(self, x):
        return super().forward(x / 2)
"""


@pytest.mark.usefixtures('registered')
def test_a_config_imports_the_module_of_a_user(tmp_path, monkeypatch):
    (tmp_path / 'users_signs.py').write_text(USERS_MODULE)
    (tmp_path / 'config.py').write_text(
        "custom_imports = dict(imports=['mmesbnn', 'users_signs'])\n"
        f'model = dict({REACTNET!r}, sign=dict(type="WideSign"))\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    model = MODELS.build(Config.fromfile(tmp_path / 'config.py').model)
    names = {type(module).__name__ for module in model.modules()}
    assert 'WideSign' in names and 'QuadraticSign' not in names
    x = torch.randn(1, 3, 16, 16, requires_grad=True)
    model(x)[-1].sum().backward()
    assert x.grad.abs().sum() > 0


@pytest.mark.usefixtures('registered')
def test_the_default_scope_of_a_training_does_not_hide_names():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        assert type(build_sign('CubeSign')) is CubeSign
        assert type(SIGNS.build('hard_tanh')) is type(build_sign('hard_tanh'))


@pytest.mark.usefixtures('registered')
def test_scopes_and_the_root_registry():
    own = Registry('model', parent=MODELS, scope='mypackage')
    own.register_module(name='Cube', module=CubeSign)
    of_signs = Registry('sign', parent=SIGNS, scope='other')
    of_signs.register_module(name='Cube', module=QuadraticSign)
    MODELS.register_module(name='RootWeight', module=LargestWeight)
    assert type(build_sign('mypackage.Cube')) is CubeSign
    assert type(build_sign('other.Cube')) is QuadraticSign
    assert type(build_weight_binarizer('RootWeight')) is LargestWeight
    with pytest.raises(ValueError, match='RootWeight'):
        build_sign('RootWeight')


@pytest.mark.parametrize(
    'name', ['BNext', 'os.system', 'torch.nn.Tanh', 'mmpretrain.ResNet', 'a.b.c']
)
def test_other_names_are_neither_built_nor_imported(name):
    for build in (build_sign, build_weight_binarizer):
        with pytest.raises(ValueError, match='the type must be one of'):
            build(name)


@pytest.mark.usefixtures('registered')
@pytest.mark.parametrize('binarizer', ['LargestWeight', 'SilentWeight'])
def test_train_count_check_pack(binarizer, tmp_path):
    torch.manual_seed(0)
    model = MODELS.build(dict(REACTNET, weight_binarizer=dict(type=binarizer)))
    own = MODELS.build(REACTNET)
    x, optimizer = torch.randn(2, 3, 16, 16), torch.optim.SGD(model.parameters(), 0.1)
    before = copy.deepcopy(model.state_dict())
    model(x)[-1].square().mean().backward()
    optimizer.step()
    name = next(iter(binary_layers(model)))
    assert not torch.equal(model.state_dict()[f'{name}.weight'], before[f'{name}.weight'])

    assert count_ops(model, (3, 16, 16)).total == count_ops(own, (3, 16, 16)).total
    assert check_binary(model, x) == []
    pack(model.eval(), tmp_path / 'net.safetensors')
    twin = load_packed(tmp_path / 'net.safetensors', MODELS.build(REACTNET))
    assert torch.equal(twin(x)[-1], model(x)[-1])


@pytest.mark.usefixtures('registered')
def test_three_values_are_counted_and_refused(tmp_path):
    conv = BinaryConv2d(8, 4, 3, padding=1, weight_binarizer='TernaryWeight')
    net = nn.Sequential(nn.Conv2d(3, 8, 1), conv).eval()
    report = count_ops(net, (3, 5, 5))
    layer = report.layers[1]
    assert (layer.kind, layer.bops) == ('1x2-bit', 2 * 4 * 25 * 8 * 9)
    assert (layer.bytes_packed, layer.capacity) == (2 * 8 * 4 * 9 / 8, None)
    (finding,) = check_binary(net, torch.randn(1, 3, 5, 5))
    assert 'take 3 values' in finding.message and 'TernaryWeight' in finding.message
    with pytest.raises(PackError, match='cannot pack 1: weights take 3 values'):
        pack(net, tmp_path / 'net.safetensors')
    with pytest.raises(PackError, match='cannot export 1: weights take 3 values'):
        with_constant_weights(net)


@pytest.mark.usefixtures('registered')
def test_reasons_of_the_binarizer(tmp_path):
    net = nn.Sequential(BinaryConv2d(8, 4, 3, weight_binarizer='LateWeight'))
    with pytest.raises(PackError, match='cannot pack 0: its training has just begun'):
        pack(net, tmp_path / 'net.safetensors')


@pytest.mark.usefixtures('registered')
def test_options_of_binarize(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 3))
    bare = copy.deepcopy(model)
    options = BinaryOptions(sign='CubeSign', weight_binarizer=dict(type='LargestWeight'))
    report = mmesbnn.binarize(model, options=options)
    assert [x.name for x in report.replaced] == ['1']
    pack(model.eval(), tmp_path / 'net.safetensors')
    with pytest.raises(PackError, match=r"sign='CubeSign'.*unknown file"):
        load_packed(tmp_path / 'net.safetensors', bare)
    twin = load_packed(tmp_path / 'net.safetensors', bare, trust_stored_config=True)
    x = torch.randn(1, 3, 9, 9)
    assert torch.equal(twin(x), model(x))


@pytest.mark.usefixtures('registered')
@pytest.mark.parametrize('spec', ['LargestWeight', dict(type='LargestWeight')])
def test_a_stored_config_names_entries_of_the_package_only(spec, tmp_path):
    config = dict(model=dict(REACTNET, weight_binarizer=spec))
    model = MODELS.build(config['model']).eval()
    pack(model, tmp_path / 'net.safetensors', config=config)
    with pytest.raises(PackError, match='LargestWeight') as caught:
        load_packed(tmp_path / 'net.safetensors')
    assert 'unknown file' in str(caught.value) or 'trust_stored_config' in str(caught.value)
    twin = load_packed(tmp_path / 'net.safetensors', trust_stored_config=True)
    x = torch.randn(1, 3, 16, 16)
    assert torch.equal(twin(x)[-1], model(x)[-1])
    json.dumps(config)  # the config is plain


@pytest.mark.parametrize(
    ('form', 'values'), [(InputForm(), 2), (InputForm(4, 0), 16), (InputForm(8, -1), 256)]
)
def test_forms_of_inputs(form, values):
    assert form.values == values
    assert form.is_sign == (form == InputForm())


@pytest.mark.parametrize(
    ('build', 'name'),
    [
        (lambda: InputForm(bits=0), 'bits=0'),
        (lambda: InputForm(low=1), 'low=1'),
        (lambda: WeightForm(values=1), 'values=1'),
        (lambda: WeightForm(scaled='no'), 'scaled='),
    ],
)
def test_wrong_forms(build, name):
    with pytest.raises(ValueError, match=name):
        build()


@pytest.mark.parametrize('name', sorted(set(OWN.own) - {'fixed', 'real'}))
def test_packed_files_of_all_weight_binarizers(name, tmp_path):
    torch.manual_seed(0)
    config = dict(model=dict(REACTNET, weight_binarizer=dict(type=name)))
    model = lifelike(MODELS.build(config['model']), torch.randn(4, 3, 16, 16))
    x = torch.randn(2, 3, 16, 16)
    assert check_binary(model, x) == []
    pack(model, tmp_path / 'net.safetensors', config=config)
    twin = load_packed(tmp_path / 'net.safetensors')  # its config is not trusted
    assert torch.equal(twin(x)[-1], model(x)[-1])
    assert count_ops(twin, (3, 16, 16)).total['ops'] == count_ops(model, (3, 16, 16)).total['ops']
