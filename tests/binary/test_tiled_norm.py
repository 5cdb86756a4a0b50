"""Batch norm of tiled maps."""

import time

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from mmesbnn.binary import (
    ESConv2d,
    Expansion,
    ShrunkConv2d,
    TiledBatchNorm2d,
    normalize_tiled,
    redraw_signs,
    tile,
    use_native,
)
from mmesbnn.binary.expansion import copy_signs
from mmesbnn.binary.unit_steps import normalized, normalized_tokens
from tests.binary.es_reference import assert_same, double, output_and_gradients


def tiled_and_plain_norm(features, copies, **options):
    """Return a tiled norm and torch's norm with the same random state."""
    plain = nn.BatchNorm2d(features, **options).double()
    with torch.no_grad():
        plain.weight.uniform_(-2, 2)
        plain.bias.uniform_(-2, 2)
        plain.running_mean.uniform_(-1, 1)
        plain.running_var.uniform_(0.5, 2)
    tiled = TiledBatchNorm2d(features, copies, **options).double()
    tiled.load_state_dict(plain.state_dict())
    return tiled, plain


@pytest.mark.parametrize('options', [dict(), dict(eps=0.1, momentum=0.3)])
@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('copies', [1, 2, 6])
def test_tiled_norm_is_torchs_norm_of_the_tiled_map(copies, training, options):
    tiled, plain = tiled_and_plain_norm(6, copies, **options)
    tiled.train(training)
    plain.train(training)
    for _ in range(2):
        x = (3 + 2 * double(4, 6 // copies, 3, 2)).requires_grad_()
        y, expected = tiled(x), plain(torch.cat([x] * copies, 1))
        assert_same(y, expected)
        upstream = torch.randn_like(y)
        got = torch.autograd.grad(y, (x, *tiled.parameters()), upstream)
        other = torch.autograd.grad(expected, (x, *plain.parameters()), upstream)
        assert_same(got, other)
    assert_same(tiled.state_dict(), plain.state_dict())
    assert tiled.num_batches_tracked == 2 * training


def laid_out(x, axis, last):
    """Return ``x`` as a map of one row or column, whose channels lie last in memory or not."""
    x = x.mT.contiguous().mT if last else x.contiguous()
    return x.unsqueeze(axis)


@pytest.mark.parametrize('upstream_last', [False, True])
@pytest.mark.parametrize('last', [False, True])
@pytest.mark.parametrize('axis', [2, 3])
@pytest.mark.parametrize('copies', [1, 2])
def test_gradients_of_maps_of_one_row_or_column(copies, axis, last, upstream_last):
    norm, _ = tiled_and_plain_norm(4 * copies, copies)
    x = double(3, 4, 5).requires_grad_()
    y = norm(laid_out(x, axis, last))
    upstream = laid_out(double(3, 4 * copies, 5), axis, upstream_last)
    got = torch.autograd.grad(y, (x, norm.weight), upstream)
    var, mean = torch.var_mean(x, (0, 2), correction=0, keepdim=True)
    z = ((x - mean) / (var + norm.eps).sqrt()).repeat(1, copies, 1)
    expected = (z * norm.weight[:, None] + norm.bias[:, None]).unsqueeze(axis)
    assert_same(y, expected)
    assert_same(got, torch.autograd.grad(expected, (x, norm.weight), upstream))


@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('copies', [1, 2])
def test_tokens_stay_tokens_in_memory(copies, training):
    norm, _ = tiled_and_plain_norm(4 * copies, copies)
    x = double(3, 5, 4)
    y = normalized_tokens(x, norm.train(training), copies)
    assert y.is_contiguous()
    assert_same(y.mT, norm(x.mT.contiguous().unsqueeze(2))[:, :, 0])


@pytest.mark.parametrize('copies', [1, 3])
def test_tiled_norm_exchanges_state_dicts_with_torchs(copies):
    tiled, plain = tiled_and_plain_norm(6, copies)
    tiled(double(4, 6 // copies, 3, 2))
    plain.load_state_dict(tiled.state_dict())
    assert plain.state_dict().keys() == tiled.state_dict().keys()
    means = plain.running_mean.view(copies, -1)
    assert means.unique(dim=0).shape[0] == copies, 'copies lost their own statistics'


@pytest.mark.parametrize('training', [True, False])
def test_norm_of_one_copy_is_torchs_bit_for_bit(training):
    tiled, plain = (TiledBatchNorm2d(5).train(training), nn.BatchNorm2d(5).train(training))
    x = torch.randn(3, 5, 4, 4)
    (y, grads), (expected, other) = (output_and_gradients(module, x) for module in (tiled, plain))
    assert torch.equal(y, expected)
    assert all(map(torch.equal, grads, other))
    for name, buffer in tiled.named_buffers():
        assert torch.equal(buffer, plain.get_buffer(name))


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('copies', [1, 4])
def test_tiled_norm_of_a_low_precision_map_keeps_its_dtype(copies, training):
    tiled = TiledBatchNorm2d(8, copies).train(training)
    plain = nn.BatchNorm2d(8).train(training)
    x = 3 + torch.randn(4, 8 // copies, 5, 5).bfloat16()
    y, expected = tiled(x), plain(torch.cat([x] * copies, 1))
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, expected, rtol=2**-6, atol=2**-6)
    assert tiled.running_mean.dtype == torch.float32
    torch.testing.assert_close(tiled.state_dict(), plain.state_dict())


def test_gradcheck_of_the_tiled_norm():
    norm = TiledBatchNorm2d(4, 2).double()
    assert torch.autograd.gradcheck(norm, double(3, 2, 2, 2).requires_grad_())


def test_copies_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r'copies=4 .*num_features=6'):
        TiledBatchNorm2d(6, 4)


@pytest.mark.parametrize('copies', [0, -1])
def test_there_is_at_least_one_copy(copies):
    with pytest.raises(ValueError, match=f'copies={copies} must be an integer >= 1'):
        TiledBatchNorm2d(6, copies)


@pytest.mark.parametrize('copies', [1, 2])
def test_a_cumulative_average_is_the_mean_of_all_batches(copies):
    norm = TiledBatchNorm2d(6, copies, momentum=None)
    reference = nn.BatchNorm2d(6, momentum=None)
    for _ in range(3):
        x = torch.randn(4, 6 // copies, 3, 3)
        norm(x)
        reference(tile(x, copies))
    for name in ('running_mean', 'running_var', 'num_batches_tracked'):
        torch.testing.assert_close(getattr(norm, name), getattr(reference, name))


@pytest.mark.parametrize('copies', [1, 2])
def test_torchs_update_bn_gives_the_mean_of_all_batches(copies):
    model = nn.Sequential(TiledBatchNorm2d(6, copies))
    reference = nn.Sequential(nn.BatchNorm2d(6))
    batches = [torch.randn(4, 6 // copies, 3, 3) for _ in range(3)]
    update_bn(batches, model)
    update_bn([tile(x, copies) for x in batches], reference)
    assert model[0].momentum == 0.1
    torch.testing.assert_close(model[0].running_mean, reference[0].running_mean)
    torch.testing.assert_close(model[0].running_var, reference[0].running_var)


@pytest.mark.parametrize('copies', [1, 2, 4])
@pytest.mark.parametrize('training', [False, True])
def test_channels_last_in_channels_last_out(copies, training):
    x = torch.randn(2, 8, 4, 4).contiguous(memory_format=torch.channels_last)
    layers = (
        TiledBatchNorm2d(8 * copies, copies),
        ShrunkConv2d(8, 8, 3, padding=1, expansion=Expansion()),
        ESConv2d(8, 8, 3, padding=1, tau=copies),
    )
    for layer in layers:
        y = layer.train(training)(x)
        assert y.is_contiguous(memory_format=torch.channels_last), layer
        torch.testing.assert_close(y, layer(x.contiguous()))
    assert tile(x, copies).is_contiguous(memory_format=torch.channels_last)


def test_inputs_that_do_not_fit_the_norm_are_refused():
    norm = TiledBatchNorm2d(6, 3)
    with pytest.raises(ValueError, match=r'\(N, 2, H, W\), not float32 of shape \(2, 6'):
        norm(torch.randn(2, 6, 4, 4))
    with pytest.raises(ValueError, match=r'shape \(N, 2, H, W\)'):
        norm(torch.randn(3, 2, 1))
    with pytest.raises(ValueError, match='more than 1 value per channel'):
        norm(torch.randn(1, 2, 1, 1))


def test_copies_and_sync_show_in_the_representation():
    assert 'copies=3, sync=True' in repr(TiledBatchNorm2d(6, 3, sync=True))


def test_synced_norm_of_a_single_value_stays_finite(tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / 'store'), 1)
    torch.distributed.init_process_group('gloo', store=store, rank=0, world_size=1)
    try:
        norm = TiledBatchNorm2d(4, 2, sync=True)
        y = norm(torch.full((1, 2, 1, 1), 3.0))
    finally:
        # torch 2.5 joins the group's thread without releasing the lock that this may still need
        # to free a tensor: the test hung once
        time.sleep(0.2)
        torch.distributed.destroy_process_group()
    assert torch.equal(y.flatten(), norm.bias)
    torch.testing.assert_close(norm.running_mean, torch.full((4,), 0.3))
    torch.testing.assert_close(norm.running_var, torch.full((4,), 0.9))


@pytest.mark.parametrize('training', [True, False])
def test_sync_without_processes_is_the_plain_norm(training):
    tiled, synced = (TiledBatchNorm2d(6, 3, sync=sync) for sync in (False, True))
    x = torch.randn(4, 2, 3, 3)
    assert torch.equal(synced.train(training)(x), tiled.train(training)(x))
    torch.testing.assert_close(synced.state_dict(), tiled.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize('kind', [TiledBatchNorm2d, nn.BatchNorm2d, nn.SyncBatchNorm])
@pytest.mark.parametrize('training', [True, False])
def test_normalize_tiled_takes_any_norm(kind, training):
    tiled, plain = tiled_and_plain_norm(6, 3)
    norm = {TiledBatchNorm2d: tiled, nn.BatchNorm2d: plain}.get(kind)
    if norm is None:
        norm = nn.SyncBatchNorm.convert_sync_batchnorm(tiled)
        assert type(norm) is nn.SyncBatchNorm
        assert norm.num_features == 6
    norm.train(training)
    reference = nn.BatchNorm2d(6).double()
    reference.load_state_dict(plain.state_dict())
    reference.train(training)
    x = double(4, 2, 3, 3)
    assert_same(normalize_tiled(x, norm, 3), reference(torch.cat([x] * 3, 1)))
    assert_same(norm.state_dict(), reference.state_dict())


# how copies start ------------------------------------------------------------------


def is_balanced(norm):
    """Return true if half of the copies of every channel have a negative gain."""
    return bool(((norm.weight < 0).view(norm.copies, -1).sum(0) == norm.copies // 2).all())


@pytest.mark.parametrize('copy_init', ['alike', 'signs', 'balanced'])
def test_gains_start_as_the_signs_of_the_copies(copy_init):
    torch.manual_seed(4)
    norm = TiledBatchNorm2d(24, 4, copy_init=copy_init)
    torch.manual_seed(4)
    assert torch.equal(norm.weight, copy_signs(6, 4, copy_init))
    assert norm.state_dict().keys() == nn.BatchNorm2d(24).state_dict().keys()
    assert norm.bias.eq(0).all() and norm.running_mean.eq(0).all()
    assert norm.weight.requires_grad and norm.weight.is_leaf


@pytest.mark.parametrize('training', [True, False])
def test_a_copy_of_gain_minus_one_starts_as_the_negative(training):
    norm = TiledBatchNorm2d(8, 4, copy_init='balanced').double().train(training)
    x = double(3, 2, 4, 5)
    copies = norm(x).unflatten(1, (4, 2))
    plain = TiledBatchNorm2d(2).double().train(training)(x)
    assert_same(copies, plain.unsqueeze(1) * norm.weight.view(1, 4, 2, 1, 1))
    assert len(copies.unique(dim=1)[0]) > 1


def test_resetting_draws_anew():
    norm = TiledBatchNorm2d(64, 4, copy_init='balanced')
    first = norm.weight.clone()
    norm.reset_parameters()
    assert is_balanced(norm) and not torch.equal(norm.weight, first)


def test_constant_initialisers_set_the_magnitude_only():
    norm = TiledBatchNorm2d(8, 4, copy_init='balanced')
    nn.init.constant_(norm.weight, 0.5)
    redraw_signs(nn.Sequential(nn.Sequential(norm)))
    assert is_balanced(norm) and norm.weight.abs().eq(0.5).all()


def test_gains_that_were_loaded_or_trained_are_left_alone():
    norm = TiledBatchNorm2d(8, 4, copy_init='balanced')
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
    trained = norm.weight.clone()
    norm.init_weights()
    assert torch.equal(norm.weight, trained)
    norm.load_state_dict(TiledBatchNorm2d(8, 4).state_dict())
    norm.init_weights()
    assert norm.weight.eq(1).all()


def test_unknown_ways_to_start_are_named():
    with pytest.raises(ValueError, match="copy_init='random' must be one of"):
        TiledBatchNorm2d(8, 4, copy_init='random')


def without_tracking(norm, how):
    """Let a norm use the statistics of each batch, as users of torch do it."""
    if how == 'torch.func':
        torch.func.replace_all_batch_norm_modules_(norm)
    norm.track_running_stats = False
    if how == 'no buffers':
        norm.running_mean = norm.running_var = None


@pytest.mark.parametrize('how', ['torch.func', 'no buffers', 'flag'])
@pytest.mark.parametrize('copies', [1, 2])
@pytest.mark.parametrize('native', [False, True])
def test_norms_without_tracking_are_those_of_torch(copies, how, native):
    tiled, plain = (norm.float() for norm in tiled_and_plain_norm(6, copies))
    without_tracking(tiled, how)
    without_tracking(plain, how)
    before = use_native(native)
    try:
        for training in (True, False):
            x = torch.randn(3, 6 // copies, 4, 5) + 2
            y = normalized(x, tiled.train(training), copies)
            torch.testing.assert_close(y, plain.train(training)(torch.cat([x] * copies, 1)))
    finally:
        use_native(before)
    torch.testing.assert_close(tiled.state_dict(), plain.state_dict())


def test_vmap_runs_a_norm_without_running_statistics():
    tiled, plain = tiled_and_plain_norm(6, 2)
    without_tracking(tiled, 'torch.func')
    without_tracking(plain, 'torch.func')
    x = double(4, 3, 3, 4, 4)
    expected = torch.stack([plain(torch.cat([one] * 2, 1)) for one in x])
    assert_same(torch.func.vmap(tiled)(x), expected)


@pytest.mark.parametrize('copies', [1, 2])
def test_an_empty_batch_leaves_the_statistics(copies):
    tiled = TiledBatchNorm2d(6, copies).double()
    tiled(double(4, 6 // copies, 3, 3))
    before = tiled.running_mean.clone(), tiled.running_var.clone()
    assert tiled(double(0, 6 // copies, 3, 3)).shape == (0, 6, 3, 3)
    assert_same((tiled.running_mean, tiled.running_var), before)
