"""BiDet's ResNet-18: formulas, sizes, ES, the stage after pooling, bad arguments."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS

import mmesbnn  # noqa: F401 (registers the backbone)
from mmesbnn.analysis import count_ops
from mmesbnn.binary import BinaryConv2d, ReCUWeight, TiledBatchNorm2d, binary_layers
from mmesbnn.models.backbones.bidet_resnet import BiDetResNet, BiDetResStage

NARROW = dict(widths=(8, 8, 16, 32), depths=(2, 1, 1))
FACTORS = [(1, 1), (2, 1), (1, 2), (2, 2)]


def sign(x):
    return torch.where(x > 0, 1.0, -1.0).to(x.dtype)


def norm(x, state, name):
    return F.batch_norm(
        x,
        *(state[f'{name}.{key}'] for key in ('running_mean', 'running_var')),
        state[f'{name}.weight'],
        state[f'{name}.bias'],
    )


def by_formula(state, x, tau, groups, stride):
    """Compute a unit's output in evaluation from its state dict."""
    weight = state['convs.0.weight']
    scale = weight.abs().mean((1, 2, 3), keepdim=True)
    padded = F.pad(sign(x), (1, 1, 1, 1), value=-1.0)
    y = F.conv2d(padded, scale * sign(weight), stride=stride, groups=groups)
    y = norm(torch.cat([y] * (tau * tau * groups), 1), state, 'norms.0')
    if 'shortcut.conv.weight' not in state:
        return y + x
    height, width = x.shape[2:]
    x = F.pad(x, (0, width % 2, 0, height % 2), mode='replicate')  # the last one twice
    pooled = F.avg_pool2d(x, 2)
    r = F.conv2d(pooled, state['shortcut.conv.weight'], groups=groups)
    return y + norm(torch.cat([r] * (tau * tau * groups), 1), state, 'shortcut.norm')


def spread(model):
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            tensor.data.add_(torch.rand_like(tensor), alpha=0.5)
    return model


@pytest.mark.parametrize('expansion', FACTORS)
@pytest.mark.parametrize('size', [(6, 8), (7, 5)])
def test_units_compute_their_formula(expansion, size):
    tau, groups = expansion
    model = BiDetResNet(**NARROW, tau=tau, groups=groups).double().eval()
    for index, stage in enumerate(spread(model).stages):
        for j, unit in enumerate(stage):
            width = unit.convs[0].in_channels
            x = torch.randn(2, width, *size, dtype=torch.double)
            stride = 2 if index and j == 0 else 1
            expected = by_formula(unit.state_dict(), x, tau, groups, stride)
            torch.testing.assert_close(unit(x), expected, rtol=1e-10, atol=1e-10)


def test_stem_has_no_activation_before_its_pooling():
    model = BiDetResNet(**NARROW).eval()
    assert (model.stem(torch.randn(2, 3, 32, 32)) < 0).any()


@pytest.mark.parametrize('size', [(64, 96), (65, 90), (600, 1000)])
@pytest.mark.parametrize('tau', [1, 2])
def test_output_has_stride_16_and_all_copies(size, tau):
    with torch.device('meta'):
        model = BiDetResNet(tau=tau).eval()
        (out,) = model(torch.empty(1, 3, *size))
    assert out.shape == (1, 256 * tau, *(-(-length // 16) for length in size))
    assert model.out_channels == [256 * tau]


def test_gradients_flow_through_the_scale():
    conv = next(m for m in BiDetResNet(**NARROW).modules() if type(m).__name__ == 'ShrunkConv2d')
    with torch.no_grad():
        conv.weight.uniform_(-2, 2)
    gradient = torch.randn_like(conv.weight)
    conv.effective_weight().backward(gradient)
    signs = sign(conv.weight)
    axes = dict(dim=(1, 2, 3), keepdim=True)
    expected = conv.weight.abs().mean(**axes) * gradient
    expected = expected + signs * (gradient * signs).mean(**axes)
    torch.testing.assert_close(conv.weight.grad, expected)


def test_published_sizes_and_es_at_equal_cost():
    baseline, es = (count_ops(BiDetResNet(tau=t), (3, 224, 224)).total for t in (1, 2))
    for key in ('fp_macs', 'bops', 'binary_params'):
        assert es[key] == baseline[key]
    stage, es_stage = (count_ops(BiDetResStage(tau=t), (256 * t, 7, 7)).total for t in (1, 2))
    for key in ('fp_macs', 'bops', 'binary_params'):
        assert es_stage[key] == stage[key]
    # Bi-Real-18 without its classifier, and the RPN's 3x3 kernel (spec: 12.17 M)
    binary = baseline['binary_params'] + stage['binary_params']
    assert binary + 9 * 256 * 512 == 12165120


def test_stage_is_the_last_of_four():
    four = spread(BiDetResNet((8, 8, 16), (1, 2), tau=2, out_copies='first')).eval()
    stage = BiDetResStage(8, 16, 2, tau=2).eval()
    prefix = 'stages.1.'
    state = {k[len(prefix) :]: v for k, v in four.state_dict().items() if k.startswith(prefix)}
    stage.load_state_dict(state, strict=True)
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(stage(four.stages[0](four.stem(x))), four(x)[0])


def test_stage_begins_with_the_weights_of_a_classifier(tmp_path):
    four = spread(BiDetResNet((8, 8, 16), (1, 2)))
    path = tmp_path / 'classifier.pth'
    state = {f'backbone.{key}': value for key, value in four.state_dict().items()}
    torch.save(dict(state_dict=state), path)
    pretrained = dict(type='Pretrained', checkpoint=str(path))
    stage = BiDetResStage(8, 16, 2, init_cfg=dict(pretrained, prefix='backbone.stages.1'))
    c4 = BiDetResNet((8, 8), (1,), init_cfg=dict(pretrained, prefix='backbone.'))
    for module in (stage, c4):
        module.init_weights()
    assert all(map(torch.equal, stage.parameters(), four.stages[1].parameters()))
    assert all(map(torch.equal, c4.stem.parameters(), four.stem.parameters()))


@pytest.mark.parametrize('count', [0, 1, 3])
def test_stage_takes_any_number_of_regions(count):
    stage = BiDetResStage(8, 16, 2, tau=2).train()
    out = stage(torch.randn(count, 16, 7, 7))
    assert out.shape == (count, 16, 4, 4)
    out.sum().backward()


@pytest.mark.parametrize(
    ('kind', 'options', 'message'),
    [
        ('BiDetResNet', dict(widths=(8, 8)), 'must be one for the stem and one for'),
        ('BiDetResNet', dict(widths=(8, 0, 8, 8)), 'each an integer >= 1'),
        ('BiDetResNet', dict(tau=3), 'tau=3 does not divide'),
        ('BiDetResStage', dict(stride=3), 'stride=3 must be 1 or 2'),
        ('BiDetResStage', dict(depth=0), 'depth=0 must be an integer >= 1'),
        ('BiDetResStage', dict(tau=3), 'tau=3 does not divide'),
        ('BiDetResStage', dict(sign='dorefa'), "sign='dorefa' gives 4 values from 0 to 1: BiDet"),
    ],
)
def test_bad_arguments_are_named(kind, options, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(dict(type=kind, **options))


def test_every_convolution_pads_minus_one():
    modules = [*BiDetResNet(**NARROW).modules(), *BiDetResStage(8, 16, 2).modules()]
    convs = [m for m in modules if isinstance(m, BinaryConv2d)]
    assert len(convs) == 6
    assert {conv.pad_value for conv in convs} == {-1}


def test_copies_of_the_stage_start_as_copy_init_says():
    init_cfg = dict(type='Constant', layer='TiledBatchNorm2d', val=0.5)
    stage = BiDetResStage(8, 16, 2, tau=2, copy_init='balanced', init_cfg=init_cfg)
    stage.init_weights()
    tiled = [m for m in stage.modules() if isinstance(m, TiledBatchNorm2d)]
    assert len(tiled) == 3  # a projection also has one
    for m in tiled:
        assert m.weight.abs().eq(0.5).all()
        assert ((m.weight < 0).view(4, -1).sum(0) == 2).all()


def test_sign_and_weight_binarizer_of_the_stage_are_options():
    stage = BiDetResStage(8, 16, 2, sign=dict(type='swish', beta=2.0), weight_binarizer='recu')
    assert {unit.sign.beta for unit in stage} == {2.0}
    assert {type(layer.weight_binarizer) for layer in binary_layers(stage).values()} == {ReCUWeight}
