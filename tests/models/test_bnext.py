"""BNext: published sizes, ES, outputs, freezing, recomputation, bad arguments."""

import copy
import itertools

import pytest
import torch
from torch import nn

from mmesbnn.binary import BinaryConv2d, ShrunkConv2d, TiledBatchNorm2d
from mmesbnn.models.backbones.bnext import ARCHS, BNext, BNextBlock
from mmesbnn.models.backbones.pyramid import block_settings
from mmesbnn.models.layers import MinMaxConv2d, RecoupledConv
from tests.binary.operators import saved_bytes
from tests.models.backbones import binary_convs, spread, step

# three stages of widths 32, 64, 128 and strides 1, 2, 4
NARROW = dict(channels=[16, 32, 64, 64, 128])
TINY = dict(channels=[16, 16, 32])
TINY_18 = dict(channels=[16, 16, 32], depths=[1, 1])
FACTORS = [(1, 1), (2, 1), (1, 2), (2, 2)]
LAYOUTS = [
    pytest.param(dict(arch=TINY), id='tau1'),
    pytest.param(dict(arch=TINY, tau=2), id='tau2'),
    pytest.param(dict(arch=TINY_18, tau=2), id='18'),
]


def narrow(arch=NARROW, **options):
    return BNext(arch, **{'stem_stride': 1, **options})


def meta(arch, **options):
    with torch.device('meta'):
        return BNext(arch, **options)


def images(count=2, height=8, width=None):
    return torch.randn(count, 3, height, width or height)


def norms(model):
    return [m for m in model.modules() if isinstance(m, TiledBatchNorm2d)]


# published sizes ------------------------------------------------------------------


@pytest.mark.parametrize(
    ('arch', 'count', 'halved'),
    [
        ('tiny', 13, [2, 4, 6, 12]),
        ('small', 13, [2, 4, 6, 12]),
        ('middle', 21, [2, 6, 10, 18]),
        ('large', 29, [2, 6, 10, 26]),
    ],
)
def test_table_of_blocks(arch, count, halved):
    stages = block_settings(ARCHS[arch]['channels'])
    blocks = [block for stage in stages for block in stage]
    numbered = list(enumerate(blocks, start=1))
    assert len(blocks) == count
    assert [i for i, block in numbered if block['stride'] == 2] == halved
    assert {block['stride'] for block in blocks} == {1, 2}
    # blocks that halve the resolution, and the first block, double the width
    assert [i for i, block in numbered if block['double']] == [1, *halved]
    evens = list(range(2, count + 1, 2))
    assert [i for i, block in numbered if block['elementwise']] == evens
    # a stage begins where the resolution changes
    begins = [1, *halved]
    assert [len(stage) for stage in stages] == [
        end - begin for begin, end in zip(begins, [*halved, count + 1])
    ]


@pytest.mark.parametrize(
    ('arch', 'first', 'stages'),
    [
        ('tiny', 32, [64, 128, 256, 512, 1024]),
        ('small', 48, [96, 192, 384, 768, 1536]),
        ('middle', 48, [96, 192, 384, 768, 1536]),
        ('large', 64, [128, 256, 512, 1024, 2048]),
        ('18', 64, [64, 128, 256, 512]),
    ],
)
def test_widths_of_the_published_sizes(arch, first, stages):
    model = meta(arch, out_indices=range(len(stages)))
    assert model.stem.conv.out_channels == first
    assert model.out_channels == stages


def test_blocks_are_built_as_the_table_says():
    model = meta('tiny')
    settings = [s for stage in block_settings(ARCHS['tiny']['channels']) for s in stage]
    blocks = [block for stage in model.stages for block in stage]
    assert len(blocks) == len(settings)
    for block, setting in zip(blocks, settings):
        assert isinstance(block, BNextBlock)
        stride = setting['stride']
        assert block.spatial.conv.stride == (stride, stride)
        assert block.spatial.conv.kernel_size == (3, 3)
        assert block.spatial.elementwise is setting['elementwise']
        assert len(block.pointwise) == (2 if setting['double'] else 1)
        for unit in block.pointwise:
            assert unit.conv.kernel_size == (1, 1)
            assert not unit.elementwise


@pytest.mark.parametrize('double', [True, False])
def test_block_is_a_spatial_unit_and_pointwise_units_side_by_side(double):
    stage = spread(narrow(tau=2)).eval().stages[1]
    block = stage[0] if double else stage[1]
    x = torch.randn(2, 2 * (32 if double else 64), 4, 4)
    y = block.spatial(x)
    expected = torch.cat([unit(y) for unit in block.pointwise], 1)
    assert expected.shape[1] == x.shape[1] * (2 if double else 1)
    assert torch.equal(block(x), expected)


def test_blocks_of_18_are_two_spatial_units():
    for stage in meta('18').stages:
        for block in stage:
            first, second = block
            assert (first.elementwise, second.elementwise) == (True, False)
            assert first.conv.kernel_size == second.conv.kernel_size == (3, 3)
            assert second.conv.stride == (1, 1)
    strides = [stage[0][0].conv.stride[0] for stage in meta('18').stages]
    assert strides == [1, 2, 2, 2]


BINARY_PARAMETERS = {
    'tiny': 28_253_184,
    'small': 63_569_664,
    'middle': 126_238_464,
    'large': 308_310_016,
    '18': 10_985_472,
}


@pytest.mark.parametrize('tau', [1, 2])
@pytest.mark.parametrize('arch', BINARY_PARAMETERS)
def test_binary_parameters_of_the_published_sizes(arch, tau):
    convs = binary_convs(meta(arch, tau=tau))
    total = sum(conv.weight.numel() for conv in convs)
    assert total == BINARY_PARAMETERS[arch]
    assert all(conv.bias is None for conv in convs)


@pytest.mark.parametrize('arch', ['tiny', 'small', 'middle', 'large'])
def test_binary_parameters_follow_from_the_channels(arch):
    channels = ARCHS[arch]['channels']
    expected = 0
    for width, out in itertools.pairwise(channels):
        expected += 9 * width**2 + out * width
    assert expected == BINARY_PARAMETERS[arch]


@pytest.mark.parametrize(
    ('arch', 'options', 'millions'),
    [
        ('tiny', {}, 30.862),
        ('small', {}, 68.59),
        ('middle', {}, 134.50),
        ('large', {}, 326.55),
        ('tiny', dict(tau=2), 30.943),
        ('tiny', dict(tau=4), 31.115),
        ('tiny', dict(tau=2, es_mode='full'), 33.468),
    ],
)
def test_parameters_of_the_published_sizes(arch, options, millions):
    model = meta(arch, **options)
    classes = 1000
    total = sum(p.numel() for p in model.parameters())
    total += (model.out_channels[-1] + 1) * classes
    # the published files also hold PReLUs that nothing uses
    total += model.stem.norm.num_features
    for unit in model.modules():
        if isinstance(unit, RecoupledConv) and not unit.elementwise:
            total += unit.shift.bias.numel()
    digits = len(str(millions).partition('.')[2])
    tolerance = 0.5 * 10**-digits if digits > 2 else 0.005
    assert total / 1e6 == pytest.approx(millions, abs=tolerance, rel=0)


# ES -------------------------------------------------------------------------------


@pytest.mark.parametrize('es_mode', ['shrunk', 'full'])
@pytest.mark.parametrize('arch', [NARROW, TINY_18], ids=['narrow', '18'])
@pytest.mark.parametrize(('tau', 'groups'), FACTORS)
def test_binary_weights_of_es(tau, groups, arch, es_mode):
    options = dict(arch=arch, se_ratio=4, es_mode=es_mode)
    plain = binary_convs(narrow(**options))
    expanded = binary_convs(narrow(**options, tau=tau, groups=groups))
    assert len(plain) == len(expanded) > 0
    for conv, wide in zip(plain, expanded):
        out, width, *kernel = conv.weight.shape
        assert wide.weight.shape == (out // tau, width * tau, *kernel)
        assert wide.groups == groups
        assert wide.weight.numel() == conv.weight.numel()


@pytest.mark.parametrize('arch', [NARROW, TINY_18], ids=['narrow', '18'])
def test_tau_1_is_a_network_of_plain_binary_convolutions(arch):
    model = spread(narrow(arch, tau=1))
    plain = copy.deepcopy(model)
    for unit in plain.modules():
        if not isinstance(unit, RecoupledConv):
            continue
        old = unit.conv
        unit.conv = BinaryConv2d(
            old.in_channels,
            old.out_channels,
            old.kernel_size,
            old.stride,
            old.padding,
            bias=False,
            sign=dict(type='hard_tanh', clip=1.5),
            weight_binarizer='temperature',
        )
        unit.conv.load_state_dict(old.state_dict())
    assert not any(isinstance(m, ShrunkConv2d) for m in plain.modules())
    x = images()
    for training in (True, False):
        (ours,), (theirs,) = model.train(training)(x), plain.train(training)(x)
        assert torch.equal(ours, theirs)
    assert torch.isfinite(ours).all()
    assert all(norm.num_features == norm.running_mean.numel() for norm in norms(model))
    assert all(norm.copies == 1 for norm in norms(model))


# outputs --------------------------------------------------------------------------


@pytest.mark.parametrize('out_copies', ['first', 'all'])
@pytest.mark.parametrize('es_mode', ['shrunk', 'full'])
@pytest.mark.parametrize(('tau', 'groups'), FACTORS)
def test_out_channels_are_those_of_the_outputs(tau, groups, es_mode, out_copies):
    model = narrow(
        tau=tau,
        groups=groups,
        se_ratio=4,
        es_mode=es_mode,
        out_copies=out_copies,
        out_indices=(0, 1, 2),
    )
    factor = tau * groups if out_copies == 'all' else 1
    assert model.out_channels == [32 * factor, 64 * factor, 128 * factor]
    shapes = [out.shape for out in model(images())]
    assert shapes == [
        (2, channels, size, size) for channels, size in zip(model.out_channels, (8, 4, 2))
    ]


def test_what_is_returned_of_the_copies_by_default():
    assert narrow(tau=2).out_copies == 'first'
    assert narrow(tau=2, es_mode='full').out_copies == 'all'
    assert narrow(tau=2, es_mode='full', out_copies='first').out_channels == [128]


@pytest.mark.parametrize(
    ('channels', 'stem_stride', 'strides'),
    [
        ([8, 16, 32, 64, 128, 256], None, [2, 4, 8, 16, 32]),
        ([8, 16, 32, 64, 128, 256], 2, [2, 4, 8, 16, 32]),
        ([8, 16, 32, 64, 128, 256], 1, [1, 2, 4, 8, 16]),
    ],
)
def test_strides(channels, stem_stride, strides):
    indices = range(len(strides))
    model = BNext(dict(channels=channels), stem_stride=stem_stride, out_indices=indices)
    sizes = [tuple(out.shape[2:]) for out in model.eval()(images(1, 64))]
    assert sizes == [(64 // stride, 64 // stride) for stride in strides]


@pytest.mark.parametrize(('stem_stride', 'strides'), [(None, [4, 8, 16, 32]), (1, [1, 2, 4, 8])])
def test_strides_of_18(stem_stride, strides):
    arch = dict(channels=[8, 8, 16, 32, 64], depths=[1, 2, 1, 1])
    model = BNext(arch, stem_stride=stem_stride, out_indices=range(4))
    assert [len(stage) for stage in model.stages] == [1, 2, 1, 1]
    kernel = 3 if stem_stride == 1 else 7
    assert model.stem.conv.kernel_size == (kernel, kernel)
    sizes = [tuple(out.shape[2:]) for out in model.eval()(images(1, 64))]
    assert sizes == [(64 // stride, 64 // stride) for stride in strides]


def test_images_of_another_number_of_channels():
    model = narrow(in_channels=1)
    assert model(torch.randn(2, 1, 8, 8))[0].shape == (2, 128, 2, 2)


@pytest.mark.parametrize('out_copies', ['first', 'all'])
def test_final_act_is_a_prelu_on_the_last_output(out_copies):
    options = dict(tau=2, out_copies=out_copies, out_indices=(1, 2))
    model = spread(narrow(**options)).eval()
    bare = narrow(**options, final_act=False).eval()
    assert model.act.weight.shape == (model.out_channels[-1],)
    assert bare.act is None
    state = model.state_dict()
    slope = state.pop('act.weight')
    bare.load_state_dict(state)
    x = images()
    (middle, last), (bare_middle, bare_last) = model(x), bare(x)
    assert torch.equal(middle, bare_middle)
    assert torch.equal(last, nn.functional.prelu(bare_last, slope))
    assert not torch.equal(last, bare_last)


def test_no_final_act_where_the_last_stage_is_not_returned():
    model = narrow(out_indices=(0, 1))
    assert model.act is None
    assert len(model(images())) == 2


# freezing and norms ---------------------------------------------------------------


def test_sync_norms_of_one_process_are_local():
    local = spread(narrow(tau=2))
    synced = narrow(tau=2, norm_cfg=dict(type='SyncBN'))
    synced.load_state_dict(local.state_dict())
    x = images()
    assert torch.equal(synced(x)[0], local(x)[0])


# recomputation --------------------------------------------------------------------


@pytest.mark.parametrize('tau', [1, 2])
def test_recomputation_saves_fewer_bytes(tau):
    x = images(2, 32)
    models = (narrow(tau=tau, with_cp=with_cp) for with_cp in (False, True))
    plain, saving = (saved_bytes(lambda m=m: m(x)[0], m, m.with_cp) for m in models)
    assert saving < plain / 2


# compiling and autocast -----------------------------------------------------------


@pytest.mark.slow
def test_inductor_computes_the_same():
    """Outputs and statistics in training; compiling the backward too takes 50 s."""
    torch._dynamo.reset()
    model = spread(narrow(dict(channels=[16, 16]), tau=2)).double().train()
    eager = copy.deepcopy(model)
    x = images().double()
    with torch.no_grad():
        got = torch.compile(model, fullgraph=True)(x)
        torch.testing.assert_close(got, eager(x))
    torch.testing.assert_close(model.state_dict(), eager.state_dict())
    assert model.stages[0][0].spatial.norm1.num_batches_tracked == 1


# what reaches the layers ----------------------------------------------------------


@pytest.mark.parametrize('arch', [NARROW, TINY_18], ids=['narrow', '18'])
@pytest.mark.parametrize(('options', 'bound'), [({}, 1.5), (dict(latent_clip=0.25), 0.25)])
def test_latent_clip_reaches_the_parameter_bounds(options, bound, arch):
    for conv in binary_convs(narrow(arch, **options)):
        assert conv.parameter_bounds == {'weight': (-bound, bound)}


@pytest.mark.parametrize('arch', [NARROW, TINY_18], ids=['narrow', '18'])
def test_gradients_of_signs_end_at_one_and_a_half(arch):
    for conv in binary_convs(narrow(arch)):
        x = torch.tensor([-2.0, -1.4, 0.3, 1.4, 1.6], requires_grad=True)
        conv.sign(x).sum().backward()
        assert x.grad.tolist() == [0, 1, 1, 1, 0]


@pytest.mark.parametrize(('arch', 'below'), [(NARROW, 1e-7), (TINY_18, 1e-5)])
def test_temperature_of_binary_weights(arch, below):
    for conv in binary_convs(narrow(arch)):
        with torch.no_grad():
            conv.weight.fill_(below / 4)
        conv.weight_binarizer.temperature.fill_(below / 2)
        assert (conv.effective_weight() == 1).all()
        conv.weight_binarizer.temperature.fill_(below * 2)
        assert (conv.effective_weight() < 0.5).all()


def test_only_18_mixes_the_residual():
    for arch, mixes in ((NARROW, False), (TINY_18, True)):
        units = [m for m in narrow(arch).modules() if isinstance(m, RecoupledConv)]
        assert units
        assert all(unit.mix_residual is mixes for unit in units)


def test_bits_of_stem_and_squeeze_excite():
    model = narrow(tau=2, stem_bits=8, se_bits=4)
    assert isinstance(model.stem.conv, MinMaxConv2d)
    assert model.stem.conv.mac_bits == 8
    assert not model.stem.conv.quantize_input
    for unit in model.modules():
        if isinstance(unit, RecoupledConv):
            assert unit.se.squeeze.mac_bits == unit.se.excite.mac_bits == 4
    step(model, images())
    plain = narrow(tau=2)
    assert not any(isinstance(m, MinMaxConv2d) for m in plain.modules())


@pytest.mark.parametrize('ratio', [2, 4, 8])
def test_se_ratio_reaches_every_gate(ratio):
    for unit in narrow(se_ratio=ratio).modules():
        if isinstance(unit, RecoupledConv):
            assert unit.se.squeeze.out_channels == unit.conv.out_channels // ratio


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('temperature', [1.0, 0.0])
@pytest.mark.parametrize('arch', [TINY, TINY_18], ids=['tiny', '18'])
def test_nan_in_a_latent_weight_shows(arch, temperature, training):
    clean = narrow(arch, tau=2, out_copies='all').train(training)
    for conv in binary_convs(clean):
        conv.weight_binarizer.temperature.fill_(temperature)
    assert torch.isfinite(copy.deepcopy(clean)(images())[0]).all()
    for i in range(len(binary_convs(clean))):
        model = copy.deepcopy(clean)
        conv = binary_convs(model)[i]
        with torch.no_grad():
            conv.weight.view(-1)[0] = torch.nan
        assert model(images())[0].isnan().any(), i


def test_a_nan_pixel_shows():
    x = images()
    x[0, 0, 0, 0] = torch.nan
    out = narrow().eval()(x)[0]
    assert out[0].isnan().any()
    assert out[1].isfinite().all()


# bad input ------------------------------------------------------------------------


def test_an_arch_may_be_a_number_and_stays_as_it_is():
    assert len(meta(18).stages) == 4
    arch = copy.deepcopy(TINY_18)
    model = narrow(arch)
    model.arch['channels'][0] = 1
    assert arch == TINY_18


def channels(*widths, **entries):
    return dict(arch=dict(channels=list(widths), **entries))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(arch=5), 'arch=5 must be one of'),
        (dict(arch=None), 'arch=None must be'),
        (dict(arch=dict(depths=[1])), r"arch={'depths': \[1\]} must be .*channels"),
        (channels(16, 32, widths=[3]), r"arch has the unknown keys \['widths'\]"),
        (channels(16), r'arch: channels=\[16\] must be'),
        (channels(16, 0), r'arch: channels=\[16, 0\] must be'),
        (channels(16, -32), r'arch: channels=\[16, -32\] must be'),
        (channels(16, 32.0), r'arch: channels=\[16, 32.0\] must be'),
        (channels(True, 2), r'arch: channels=\[True, 2\] must be'),
        (channels(16, 24), r'arch: channels=\[16, 24\]: .* 16 -> 24'),
        (channels(16, 32, 16), r'arch: channels=\[16, 32, 16\]: .* 32 -> 16'),
        (channels(16, 24, depths=[1, 1]), r'arch: depths=\[1, 1\] must be .*\[16, 24'),
        (channels(16, 24, depths=[0]), r'arch: depths=\[0\] must be'),
        (channels(16, 24, depths=[1.5]), r'arch: depths=\[1.5\] must be'),
        (dict(es_mode='wide'), "es_mode='wide' must be 'shrunk' or 'full'"),
        (dict(stem_stride=3), r'stem_stride=3 must be one of \(2, 1\)'),
        (dict(stem_stride=0), r'stem_stride=0 must be one of'),
        (dict(stem_stride=4), r'stem_stride=4 must be one of \(2, 1\)'),
        (dict(arch=TINY_18, stem_stride=2), r'stem_stride=2 must be one of \(4, 1\)'),
        (dict(tau=3), 'tau=3 does not divide'),
        (dict(tau=4), r'tau=4 does not divide .*se_ratio = 16 // 8=2'),
        (dict(groups=3), 'groups=3 does not divide'),
        (dict(tau=2, groups=2), r'groups=2 does not divide .*se_ratio = 16 // 8'),
        (dict(se_ratio=32), 'se_ratio=32 leaves no channel'),
        (dict(se_ratio=0), 'se_ratio=0'),
        (dict(se_ratio=-8), 'se_ratio=-8'),
        (dict(latent_clip=0), 'latent_clip=0 must be a finite number > 0'),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        narrow(**options)
