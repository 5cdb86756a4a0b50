"""BIDiffSRUNet computes the published network; its ES variant follows the formulas."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.registry import MODELS
from safetensors.torch import load_file
from torch import nn

pytest.importorskip('diffusers')

from mmesbnn.analysis import check_binary, count_ops
from mmesbnn.binary import BalancedWeight, binary_layers
from mmesbnn.conversion.bi_diffsr import convert
from mmesbnn.diffusion import BIDiffSRUNet
from mmesbnn.diffusion.bi_diffsr import bank_of, encode_timesteps
from mmesbnn.diffusion.bi_layers import BIConv
from tests.defaults import torch_default, with_other_defaults
from tests.reference.published_bi_diffsr import Network, predict, random_state

NET = Network()
#: A timestep in each of the five banks, ends included.
TIMESTEPS = (0, 400, 1199, 1200, 1999)
TINY = dict(base_channels=8, num_levels=3, blocks_per_level=1, norm_groups=4)


def unet(**kwargs):
    return BIDiffSRUNet(**{**TINY, 'fp_levels': (0,), **kwargs})


def converted(net=NET, seed=0, **kwargs):
    """Return our network with the weights of a published file, and the file."""
    state = random_state(net, seed)
    result = convert(state)
    cfg = {**result.model_cfg['unet'], 'norm_groups': net.norm_groups, **kwargs}
    model = MODELS.build(cfg).double().eval()
    weights = {k.removeprefix('unet.'): v for k, v in result.state_dict.items()}
    model.load_state_dict(weights, strict=True)
    return model, state


def images(n=2, size=(8, 16)):
    """Return condition and noisy image."""
    options = dict(dtype=torch.double)
    return torch.rand(n, 3, *size, **options), torch.randn(n, 3, *size, **options)


def run(model, condition, noisy, t):
    with torch.no_grad():
        return model(torch.cat([condition, noisy], 1), t).sample


def assert_same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


# ------------------------------------------------------------------ as published


@pytest.mark.parametrize('t', TIMESTEPS)
def test_predicts_the_published_noise_in_every_bank(t):
    model, state = converted()
    condition, noisy = images()
    theirs = predict(state, NET, condition, noisy, torch.tensor([t, t]))
    assert_same(run(model, condition, noisy, t), theirs)
    assert theirs.std() > 0.1


@pytest.mark.parametrize(
    'net',
    [
        Network(8, (1, 2), 2, 8, attn=(0,), real=()),
        Network(8, (1, 2, 4), 1, 4, attn=(1,), real=(0, 1, 2), banks=3, steps=1000),
        Network(4, (1,), 3, 2, real=(), banks=1),
    ],
)
def test_predicts_the_published_noise_of_other_sizes(net):
    model, state = converted(net, total_steps=net.steps)
    condition, noisy = images()
    for t in (0, net.steps // 2, net.steps - 1):
        theirs = predict(state, net, condition, noisy, torch.tensor([t, t]))
        assert_same(run(model, condition, noisy, t), theirs)


def test_every_image_has_the_bank_of_its_timestep():
    model, state = converted()
    condition, noisy = images(len(TIMESTEPS))
    t = torch.tensor(TIMESTEPS)
    one_by_one = [
        predict(state, NET, condition[i : i + 1], noisy[i : i + 1], t[i : i + 1])
        for i in range(len(t))
    ]
    assert_same(run(model, condition, noisy, t), torch.cat(one_by_one))


def test_bank_from_first_is_the_published_batch():
    model, state = converted(bank_from='first')
    each, _ = converted()
    condition, noisy = images(3)
    t = torch.tensor([1700, 3, 900])
    theirs = predict(state, NET, condition, noisy, t)
    assert_same(run(model, condition, noisy, t), theirs)
    assert (run(each, condition, noisy, t) - theirs).abs().max() > 1e-3


@given(t=st.integers(0, 1999))
def test_banks_divide_the_schedule_evenly(t):
    assert bank_of(torch.tensor([t]), 5, 2000).item() == t // 400
    assert bank_of(torch.tensor([t + 0.5]), 5, 2000).item() == t // 400


def test_timesteps_between_two_are_encoded_between_them():
    low, mid, high = encode_timesteps(torch.tensor([7.0, 7.5, 8.0]), 64)
    assert ((low - mid) * (high - mid) < 0)[-8:].all()


def test_published_size_has_the_published_operations():
    ops = count_ops(BIDiffSRUNet(), (6, 256, 256), timestep=5).total
    assert ops['fp_macs'] == pytest.approx(34.70e9, rel=1e-3)
    assert ops['bops'] == pytest.approx(98.65e9, rel=1e-3)
    assert ops['ops'] == pytest.approx(36.24e9, rel=1e-3)
    stored = ops['fp_params'] + ops['binary_params'] / 32
    assert stored == pytest.approx(4.575e6, rel=1e-3)


# ------------------------------------------------------------------ expand and shrink


@pytest.mark.parametrize('tau, groups', [(4, 1), (2, 2)])
def test_expansion_costs_no_multiplication_and_no_weight(tau, groups):
    plain = count_ops(unet(), (6, 16, 16), timestep=5).total
    ops = count_ops(unet(tau=tau, groups=groups), (6, 16, 16), timestep=5).total
    assert ops['fp_macs'] == plain['fp_macs']
    assert ops['bops'] == plain['bops']
    assert ops['binary_params'] == plain['binary_params']


def copies_of(x, factor):
    return x.unflatten(1, (factor, -1)).unbind(1)


def test_copies_start_apart_and_learn_apart():
    model = unet(tau=2, groups=2, dropout=0.0).double()
    seen = {}
    for name, module in model.named_modules():
        if isinstance(module, BIConv):
            module.register_forward_hook(lambda module, args, y, name=name: seen.update({name: y}))
    condition, noisy = images()
    y = model(torch.cat([condition, noisy], 1), torch.tensor([7, 1900])).sample
    assert len(seen) == sum(isinstance(m, BIConv) for m in model.modules())
    for name, features in seen.items():
        copies = copies_of(features, 4)
        for i in range(4):
            for j in range(i):
                assert (copies[i] - copies[j]).std() > 1e-2, (name, i, j)
    y.square().mean().backward()
    shift = model.encoder[0].blocks[0].conv1.act.shift_in.grad[0]
    spread = shift.view(model.expansion.copies, -1).std(0)
    assert (spread > 1e-3 * shift.abs().max()).all()


def test_without_spread_copies_start_equal():
    model = unet(tau=2, spread=0.0).double().eval()
    features = {}
    block = model.encoder[0].blocks[0]
    block.register_forward_hook(lambda module, args, y: features.update(y=y))
    run(model, *images(), 5)
    assert_same(*copies_of(features['y'], 2))


@pytest.mark.parametrize('copy_init', ['signs', 'balanced'])
def test_slopes_of_negative_copies_start_at_minus_one(copy_init):
    alike, model = unet(tau=2), unet(tau=2, copy_init=copy_init)
    assert model.state_dict().keys() == alike.state_dict().keys()
    acts = [m.act for m in model.modules() if isinstance(m, BIConv)]
    assert acts
    for act in acts:
        slopes = act.slope.detach().unflatten(1, (act.copies, -1))
        assert (slopes == slopes[:1]).all(), 'banks start alike'
        negative = slopes[0] == -1
        assert torch.equal(~negative, slopes[0] == 0.25)
        if copy_init == 'balanced':
            assert (negative.sum(0) == act.copies // 2).all()
        # 0 is still mapped to 0
        zero = torch.zeros(1, act.slope.shape[1] // act.copies, 1, 1)
        assert act(zero, torch.tensor([1])).abs().max() < 1e-7
    assert any((act.slope == -1).any() for act in acts)
    condition, noisy = images()
    model.double()(
        torch.cat([condition, noisy], 1), torch.tensor([7, 1900])
    ).sample.sum().backward()
    assert acts[0].slope.grad is not None


def test_without_copies_no_way_to_start_changes_anything():
    torch.manual_seed(3)
    alike = unet().state_dict()
    torch.manual_seed(3)
    assert all(map(torch.equal, unet(copy_init='balanced').state_dict().values(), alike.values()))


def test_baseline_is_the_default():
    torch.manual_seed(3)
    default = BIDiffSRUNet(**TINY).state_dict()
    torch.manual_seed(3)
    baseline = BIDiffSRUNet(**TINY, tau=1, groups=1).state_dict()
    assert default.keys() == baseline.keys()
    assert all(torch.equal(default[key], baseline[key]) for key in default)
    assert not any(default[key].any() for key in default if 'shift' in key)


def test_every_binary_layer_is_binary():
    batch = dict(sample=torch.cat(images(), 1).float(), timestep=torch.tensor([5, 9]))
    assert not check_binary(unet(tau=2), batch)
    published = unet(sign_zero=0)
    for parameter in published.conv_in.parameters():
        nn.init.zeros_(parameter)  # all features are zero
    finding = check_binary(published, batch)[0]
    assert 'inputs take values other than +-1' in str(finding)


# ------------------------------------------------------------------ a diffusers model


@pytest.mark.parametrize('dtype', [torch.float64, torch.float16])
def test_saved_and_loaded_it_predicts_the_same(tmp_path, dtype):
    model = unet(tau=2, groups=2, bank_from='first').eval()
    model.save_pretrained(tmp_path)
    assert set(load_file(tmp_path / 'diffusion_pytorch_model.safetensors')) == set(
        model.state_dict()
    )
    saved = json.loads((tmp_path / 'config.json').read_text())
    assert saved['_class_name'] == 'BIDiffSRUNet'
    assert (saved['tau'], saved['groups'], saved['bank_from']) == (2, 2, 'first')
    loaded = BIDiffSRUNet.from_pretrained(tmp_path, torch_dtype=dtype)
    assert {p.dtype for p in loaded.parameters()} == {dtype}
    assert not loaded.training
    mine, theirs = model.to(dtype).state_dict(), loaded.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    if dtype == torch.float64:
        condition, noisy = images()
        ours, loadeds = (run(m, condition, noisy, 900) for m in (model, loaded))
        assert_same(ours, loadeds)


def test_sign_and_weight_binarizer_are_options_that_a_folder_stores(tmp_path):
    kinds = dict(sign=dict(type='reste', power=2.0), weight_binarizer='balanced')
    model = unet(tau=2, **kinds).eval()
    layers = list(binary_layers(model).values())
    assert all(layer.sign.power == 2 for layer in layers)
    assert {type(layer.weight_binarizer) for layer in layers} == {BalancedWeight}
    sample, own = torch.cat(images(), 1).float(), unet(tau=2).eval()
    own.load_state_dict(model.state_dict())
    model.save_pretrained(tmp_path)
    loaded = BIDiffSRUNet.from_pretrained(tmp_path)
    assert torch.equal(loaded(sample, 9).sample, model(sample, 9).sample)
    assert not torch.equal(own(sample, 9).sample, model(sample, 9).sample)


@pytest.mark.parametrize('tau', [1, 2])
def test_gradient_checkpointing_changes_no_gradient(tau):
    model = unet(tau=tau, dropout=0.3).double().train()
    sample = torch.cat(images(), 1)
    runs = []
    model.middle[0].norm1.register_forward_hook(lambda *args: runs.append(1))

    def gradients():
        model.zero_grad()
        torch.manual_seed(1)
        model(sample, torch.tensor([3, 1700])).sample.square().mean().backward()
        return [p.grad.clone() for p in model.parameters()]

    plain = gradients()
    assert len(runs) == 1
    model.enable_gradient_checkpointing()
    again = gradients()
    assert len(runs) == 3  # computed again in the backward pass
    model.disable_gradient_checkpointing()
    gradients()
    assert len(runs) == 4
    for a, b in zip(plain, again):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert all(gradient.abs().max() > 0 for gradient in plain)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_low_dtypes_compute_and_tell_timesteps_apart(dtype):
    model = unet(tau=2).to(dtype).eval()
    condition, noisy = (x.to(dtype) for x in images(1))
    y = run(model, condition, noisy, 1998)
    assert y.dtype == dtype
    assert y.isfinite().all()
    # both round to the same number in bfloat16, and 0.5 steps do in float16
    near, far = (model._embed(torch.tensor([t])) for t in (1997.5, 1998.0))
    assert not torch.equal(near, far)


def test_autocast_predicts_nearly_the_same():
    model = unet().eval()
    sample = torch.cat(images(), 1).float()
    with torch.no_grad():
        plain = model(sample, 700).sample
        with torch.autocast('cpu', torch.bfloat16):
            low = model(sample, 700).sample
    assert (
        torch.nn.functional.cosine_similarity(plain.flatten(), low.flatten().float(), 0) > 0.9
    )  # signs near 0 flip


@pytest.mark.parametrize('training', [True, False])
def test_compiles_as_one_graph(training):
    options = dict(num_levels=2, fp_levels=(0,), dropout=0.0)
    model = unet(tau=2, groups=2, **options).double().train(training)
    compiled = torch.compile(model, fullgraph=True, backend='eager')
    sample, t = torch.cat(images(), 1), torch.tensor([3, 1700])
    with torch.set_grad_enabled(training):
        y = compiled(sample, t).sample
        assert_same(y, model(sample, t).sample)
    if training:
        y.mean().backward()
        assert model.conv_in.weight.grad.abs().max() > 0


def test_equal_blocks_share_a_compiled_graph():
    torch._dynamo.reset()
    options = dict(num_levels=2, fp_levels=(), blocks_per_level=4, dropout=0.0)
    model = unet(tau=2, **options).double()
    model.enable_gradient_checkpointing()
    sample, t = torch.cat(images(), 1), torch.tensor([3, 1700])
    expected = model(sample, t).sample
    expected.square().mean().backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    model.compile_repeated_blocks(backend=count)
    y = model(sample, t).sample
    assert_same(y, expected)
    y.square().mean().backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, grads[name], msg=name)
    blocks = [m for m in model.modules() if type(m).__name__ in model._repeated_blocks]
    assert len(blocks) == 32 and len(graphs) <= 8


def test_returns_a_tuple_on_request():
    model = unet().eval()
    sample = torch.cat(images(), 1).float()
    with torch.no_grad():
        (y,) = model(sample, 5, return_dict=False)
        assert torch.equal(y, model(sample, 5).sample)


def test_a_number_a_tensor_and_a_tensor_per_image_are_the_same():
    model = unet().double().eval()
    condition, noisy = images()
    y = run(model, condition, noisy, 1300)
    for t in (torch.tensor(1300), torch.tensor([1300]), torch.tensor([1300, 1300])):
        assert torch.equal(run(model, condition, noisy, t), y)


def test_it_is_registered_and_its_dropout_drops():
    model = MODELS.build(dict(type='BIDiffSRUNet', **TINY, dropout=0.9))
    assert isinstance(model, BIDiffSRUNet)
    assert {m.p for m in model.modules() if isinstance(m, nn.Dropout)} == {0.9}
    sample = torch.cat(images(), 1).float()
    with torch.no_grad():
        assert not torch.equal(model(sample, 5).sample, model(sample, 5).sample)


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(tau=3), 'tau=3 does not divide out_channels=8'),
        (dict(tau=0), 'tau=0 must be an integer >= 1'),
        (dict(groups=3), 'groups=3 does not divide'),
        (dict(norm_groups=3), 'base_channels=8 must be even and divisible by norm_g'),
        (dict(base_channels=7, norm_groups=7), 'base_channels=7 must be even'),
        (dict(banks=0), 'banks=0 must be an integer >= 1'),
        (dict(total_steps=2.5), 'total_steps=2.5 must be an integer >= 1'),
        (dict(num_levels=True), 'num_levels=True must be an integer from 1 to 16'),
        (dict(num_levels=2**40), 'num_levels=1099511627776 must be an integer from 1 to 16'),
        (dict(fp_levels=(3,)), r'fp_levels=\[3\]: with num_levels=3 levels are 0 to 2'),
        (dict(attn_levels=(-1,)), r'attn_levels=\(-1,\) must be a list'),
        (dict(bank_from='last'), "bank_from='last' must be 'each' or 'first'"),
        (dict(spread=-1.0), 'spread=-1.0 must be a finite number >= 0'),
        (dict(copy_init='both'), "copy_init='both' must be"),
        (dict(sign_zero=1), 'sign_zero=1 must be -1 or 0'),
        (dict(sign='none'), "sign='none': the type must be one of"),
        (dict(weight_binarizer=3), 'weight_binarizer=3 must be a name or a dict'),
        (dict(sign=nn.Identity()), 'sign=.* must be a name or a dict with type, which the config'),
        (dict(sign='dorefa', weight_binarizer='real', sign_zero=0), 'sign_zero=0 has no effect'),
    ],
)
def test_bad_arguments_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        unet(**kwargs)


@pytest.mark.parametrize(
    'shape, message',
    [
        ((1, 6, 10, 8), 'sample is 10 x 8 pixels, which must be multiples of 4'),
        ((1, 6, 8, 6), 'sample is 8 x 6 pixels, which must be multiples of 4'),
        ((1, 6, 0, 8), 'sample is 0 x 8 pixels'),
        ((1, 3, 8, 8), r'sample has shape \(1, 3, 8, 8\), not \(N, 6, H, W\)'),
        ((6, 8, 8), r'sample has shape \(6, 8, 8\), not'),
    ],
)
def test_bad_shapes_are_named(shape, message):
    with pytest.raises(ValueError, match=message):
        unet()(torch.zeros(shape), 5)


@pytest.mark.parametrize(
    't, message',
    [
        (-1, 'timestep=-1 is outside the schedule of total_steps=2000: 0 to 1999'),
        (2000, 'timestep=2000 is outside the schedule'),
        (torch.tensor([5, 2400]), 'timestep=2400 is outside the schedule'),
        (float('nan'), 'timestep=nan is outside the schedule'),
        (None, 'timestep=None must be a number, or one for each image'),
        ('5', "timestep='5' must be a number"),
        (torch.tensor(5j), r'timestep=tensor.* must be a number'),
        (torch.tensor([5, 6, 7]), 'timestep has 3 entries, .* batch has 2'),
    ],
)
def test_bad_timesteps_are_named(t, message):
    with pytest.raises(ValueError, match=message):
        unet()(torch.zeros(2, 6, 8, 8), t)


def test_a_sample_that_is_no_tensor_is_named():
    with pytest.raises(ValueError, match='sample is a NoneType, not a tensor'):
        unet()(None, 5)


@with_other_defaults
@pytest.mark.parametrize('t', [999, 999.0, torch.tensor([1199.0, 999.0])])
def test_timesteps_are_not_rounded_to_the_default_dtype_of_torch(t, default):
    model, x = unet(total_steps=1200).eval(), torch.randn(2, 6, 8, 8)
    expected = model(x, t).sample
    with torch_default(default):
        assert torch.equal(model(x, t).sample, expected)
