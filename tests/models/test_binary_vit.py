"""BinaryViT: cost of ES, outputs, freezing, compiling and bad arguments."""

import copy

import pytest
import torch

from mmesbnn.analysis import check_binary, count_ops
from mmesbnn.binary import BinaryConv2d, BinaryLinear
from mmesbnn.models.backbones.binary_vit import BinaryViT
from mmesbnn.models.backbones.vit_archs import resolve_arch
from mmesbnn.models.backbones.vit_stages import Positions

NARROW = dict(dims=[8, 16], depths=[1, 1], heads=[1, 2], ffn_dims=[16, 32], sr_ratios=[2, 1])
SCOPES = ['ffn', 'all']


def narrow(**options):
    return BinaryViT(**{'arch': NARROW, 'img_size': 32, **options})


def images(count=2, size=32):
    return torch.randn(count, 3, size, size)


# ES -------------------------------------------------------------------------------


@pytest.mark.parametrize('scope', SCOPES)
@pytest.mark.parametrize('pool', ['adjacent', 'replica'])
def test_tau_1_is_the_baseline_bit_for_bit(scope, pool):
    torch.manual_seed(3)
    baseline = narrow(residual_pool=pool)
    torch.manual_seed(3)
    model = narrow(tau=1, es_scope=scope, residual_pool=pool, spread=0.7)
    state = baseline.state_dict()
    assert model.state_dict().keys() == state.keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])
    x = images()
    for mode in (True, False):
        (ours,), (theirs,) = model.train(mode)(x), baseline.train(mode)(x)
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize('some_fp', [False, True])
def test_cost_does_not_depend_on_tau(some_fp):
    totals = [
        count_ops(narrow(tau=tau, es_scope=scope, some_fp=some_fp), (3, 32, 32)).total
        for tau in (1, 2, 4)
        for scope in SCOPES
    ]
    for key in ('bops', 'fp_macs', 'binary_params'):
        assert len({total[key] for total in totals}) == 1, key


@pytest.mark.parametrize('some_fp, ops', [(False, 0.699e8), (True, 1.457e8)])
@pytest.mark.parametrize('tau, scope', [(1, 'ffn'), (2, 'ffn'), (2, 'all')])
def test_cost_of_the_published_size(tau, scope, some_fp, ops):
    with torch.device('meta'):
        model = BinaryViT(tau=tau, es_scope=scope, some_fp=some_fp)
    total = count_ops(model, (3, 224, 224)).total
    head = 512 * 1000
    assert total['ops'] + head == pytest.approx(ops, rel=0.001)
    real = sum(p.numel() for p in model.parameters()) - total['binary_params']
    real += head + 1000
    if not some_fp:
        assert total['fp_macs'] + head == pytest.approx(10.1e6, rel=0.01)
        assert total['bops'] == pytest.approx(3.822e9, rel=0.001)
        assert total['binary_params'] == pytest.approx(21.197e6, rel=0.001)
        expected = {(1, 'ffn'): 1_294_971, (2, 'ffn'): 1_294_971 + 136_896}
        assert real == expected.get((tau, scope), real)


@pytest.mark.parametrize('scope', SCOPES)
def test_copies_differ_at_the_start(scope):
    """Their affine parameters are equal, but the inputs of the next layers differ."""
    model = narrow(tau=2, es_scope=scope)
    hidden = {}

    def keep(module, args):
        hidden[module] = module.sign(args[0]).detach()

    for module in model.modules():
        if isinstance(module, (BinaryLinear, BinaryConv2d)):
            module.register_forward_pre_hook(keep)
    model(images())
    ffns = [stage[-1].ffn for stage in model.stages]
    layers = [layer for ffn in ffns for layer in (ffn.up.linear, ffn.down.linear)]
    if scope == 'all':
        attention = [stage[-1].attention for stage in model.stages]
        layers += [unit.linear for a in attention for unit in (a.query, a.output)]
        layers.append(model.stages[1][0].conv)
    for layer in layers:
        dim = -1 if isinstance(layer, BinaryLinear) else 1
        first, second = hidden[layer].chunk(2, dim)
        assert (first != second).double().mean() > 0.05


@pytest.mark.parametrize('scope', SCOPES)
@pytest.mark.parametrize('tau', [1, 2])
def test_it_is_binary(tau, scope):
    assert check_binary(narrow(tau=tau, es_scope=scope).eval(), images()) == []


# outputs --------------------------------------------------------------------------


def test_maps_of_the_stages():
    model = narrow(tau=2, es_scope='all', out_indices=(0, 1), norm_eval=True)
    assert model.out_channels == [8, 16]
    assert [out.shape for out in model(images())] == [(2, 8, 8, 8), (2, 16, 4, 4)]
    every = narrow(tau=2, es_scope='all', out_copies='all')
    assert every.out_channels == [32]
    assert every(images())[0].shape == (2, 32, 4, 4)
    # the stream of es_scope='ffn' has no copies
    assert narrow(tau=2, out_copies='all').out_channels == [16]


def test_final_norm_only_where_the_last_stage_is_returned():
    assert narrow(out_indices=(0,)).norm is None
    assert narrow(final_norm=False).norm is None
    model = narrow().train()
    (out,) = model(images(4))
    means = out.detach().mean((0, 2, 3))
    torch.testing.assert_close(means, torch.zeros(16), atol=1e-4, rtol=0)


def test_images_of_another_size_and_shape():
    model = narrow().eval()
    with torch.no_grad():
        (out,) = model(torch.randn(1, 3, 16, 40))
    assert out.shape == (1, 16, 2, 5)


def test_positions_are_interpolated():
    positions = Positions(3, (4, 4)).double()
    same = positions(torch.zeros(1, 3, 4, 4, dtype=torch.double))
    assert torch.equal(same, positions.bias)
    positions.bias.data.fill_(0.3)
    torch.testing.assert_close(
        positions(torch.zeros(1, 3, 6, 2, dtype=torch.double)),
        torch.full((1, 3, 6, 2), 0.3, dtype=torch.double),
    )


# training -------------------------------------------------------------------------


def test_torchs_sync_batch_norm_can_replace_the_norms():
    model = narrow(tau=2).double().eval()
    converted = torch.nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    x = images().double()
    with torch.no_grad():
        torch.testing.assert_close(converted(x)[0], model(x)[0])


# variants -------------------------------------------------------------------------


def test_plain_binary_deit():
    deit = resolve_arch('deit-small')
    assert deit['patch_size'] == 16 and deit['stem_norm'] is False
    arch = {**deit, 'dims': [16], 'heads': [2], 'ffn_dims': [32], 'depths': [2]}
    model = BinaryViT(arch, img_size=64, layer_scale=False, pool_sizes=())
    assert model(images(size=64))[0].shape == (2, 16, 4, 4)
    assert not any('scale' in name for name, _ in model.named_parameters())


# bad input ------------------------------------------------------------------------


def changed(**entries):
    return dict(arch={**NARROW, **entries})


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(arch=3), 'arch=3 must be'),
        (dict(arch=dict(dims=[8])), 'arch has the keys'),
        (changed(width=3), 'arch has the keys'),
        (changed(depths=[1]), r'depths=\[1\] must be one positive number per stage'),
        (changed(heads=[1, 0]), r'heads=\[1, 0\]'),
        (changed(heads=[1, 3]), 'num_heads=3 does not divide embed_dims=16'),
        (changed(dims=[8, 12]), '8 does not divide 12'),
        (changed(ffn_dims=[16, 24]), 'embed_dims=16 does not divide'),
        (changed(patch_size=0), 'patch_size=0'),
        (dict(tau=3), 'tau=3 does not divide'),
        (dict(es_scope='attention'), "es_scope='attention'"),
        (dict(residual_pool='max'), "residual_pool='max'"),
        (dict(pool_sizes=(3, 4)), 'pool_sizes='),
        (dict(img_size=36), r'img_size=\(36, 36\): .* stride 8'),
        (dict(img_size=(32, 32, 3)), 'an integer >= 1, or a pair of them'),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        narrow(**options)


def test_images_of_a_wrong_size_are_refused():
    with pytest.raises(ValueError, match=r"images' size=\(32, 30\).*stride 8"):
        narrow()(torch.randn(1, 3, 32, 30))


def test_groups_cost_nothing_and_train():
    plain, grouped = (narrow(groups=groups) for groups in (1, 2))
    one, two = (count_ops(model, (3, 32, 32)).total for model in (plain, grouped))
    for key in ('bops', 'fp_macs', 'binary_params'):
        assert one[key] == two[key], key
    assert check_binary(grouped.eval(), images()) == []
    assert two['fp_params'] > one['fp_params']  # thresholds, slopes and norms of the copies
    grouped.train()(images())[-1].square().sum().backward()
    assert all(p.grad is not None for p in grouped.parameters())


def test_groups_need_the_scope_of_feed_forwards():
    with pytest.raises(ValueError, match=r"groups=2 .*es_scope='all'"):
        narrow(groups=2, es_scope='all')
