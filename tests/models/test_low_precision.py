"""Every family in float16 and bfloat16: finite outputs, and the same binary network."""

import copy

import pytest
import torch

from mmesbnn.binary import BinaryConv2d, TiledBatchNorm2d, binary_layers
from tests import families

DTYPES = (torch.float16, torch.bfloat16)


def lowered(inputs, dtype):
    return [x.to(dtype) if x.is_floating_point() else x for x in inputs]


def signs(layer):
    return layer.effective_weight().sign()


@torch.no_grad()
@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('hard', [True, False])
@pytest.mark.parametrize('name', families.NAMES)
def test_a_model_of_low_precision(name, hard, dtype):
    model, inputs = families.build(name, hard)
    low = copy.deepcopy(model).to(dtype)
    outputs = families.tensors(low(*lowered(inputs, dtype)))
    assert {y.dtype for y in outputs} == {dtype}
    assert all(y.isfinite().all() for y in outputs)
    layers = binary_layers(low)
    for key, layer in binary_layers(model).items():
        found = layers[key].effective_weight()
        assert found.dtype == dtype
        expected = layer.effective_weight()
        # a centred weight is close to its mean, so rounding may flip its sign
        certain = layer.weight.abs() > 0
        if type(layer.weight_binarizer).__name__ == 'CentredSignWeight':
            centred = layer.weight - layer.weight.mean(1, keepdim=True)
            certain = centred.abs() > layer.weight.abs() * torch.finfo(dtype).eps
            assert certain.float().mean() > 0.9
        assert torch.equal(found.sign()[certain].float(), expected.sign()[certain])


@torch.no_grad()
@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('name', families.NAMES)
def test_autocast(name, dtype):
    model, inputs = families.build(name)
    with torch.autocast('cpu', dtype):
        outputs = families.tensors(model(*inputs))
    assert all(y.isfinite().all() for y in outputs)


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('name', families.NAMES)
def test_every_parameter_has_a_finite_gradient(name, dtype):
    model, inputs = families.build(name, hard=False)
    model.train()
    with torch.autocast('cpu', dtype):
        outputs = families.tensors(model(*inputs))
    sum(y.float().mean() for y in outputs).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert not [k for k, g in gradients.items() if g is None or not g.isfinite().all()]


def test_latents_below_float16_keep_their_signs():
    torch.manual_seed(0)
    layer = BinaryConv2d(8, 8, 3, weight_binarizer='temperature')
    with torch.no_grad():
        layer.weight.mul_(1e-9)
        layer.weight[0, 0, 0, 0] = 0
    layer.weight_binarizer.temperature.fill_(1e-9)
    expected = layer.effective_weight().detach()
    assert torch.equal(copy.deepcopy(layer).half().effective_weight(), expected.half())
    assert torch.equal(layer.bfloat16().float().effective_weight(), expected)


@pytest.mark.parametrize('dtype', [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_latents_keep_their_signs_in_eight_bits(dtype):
    layer = BinaryConv2d(8, 8, 3)
    with torch.no_grad():
        layer.weight.mul_(1e-3)
        layer.weight[0, 0, 0, 0] = 0
        layer.weight[1] *= 1e3
    before = layer.weight.detach().clone()
    after = layer.to(dtype).weight.detach().float()
    assert torch.equal(after.sign(), before.sign())
    assert torch.equal(after[1], before[1].to(dtype).float())


def test_hardness_and_statistics_survive_a_round_trip():
    layer = BinaryConv2d(8, 8, 3, weight_binarizer='temperature')
    layer.weight_binarizer.temperature.fill_(6.7e-10)
    norm = TiledBatchNorm2d(8)
    norm.running_var.fill_(1e5)  # more than the largest float16
    for module in (layer, norm):
        module.half().float()
    assert layer.weight_binarizer.temperature.item() == pytest.approx(6.7e-10)
    assert set(norm.running_var.tolist()) == {1e5}


def test_a_large_variance_is_normalised_in_float16():
    norm = TiledBatchNorm2d(8, 2)
    norm.running_var.fill_(1e5)
    x = torch.full((1, 4, 2, 2), 320.0)
    expected = norm.eval()(x)
    got = norm.half()(x.half())
    torch.testing.assert_close(got.float(), expected, rtol=2e-3, atol=0)


@torch.no_grad()
def test_the_unet_of_diffusers_loads_in_float16(tmp_path):
    pytest.importorskip('diffusers')
    from mmesbnn.diffusion import BIDiffSRUNet

    model, inputs = families.build('es-bi-diffsr')
    model.save_pretrained(tmp_path)
    low = BIDiffSRUNet.from_pretrained(tmp_path, torch_dtype=torch.float16).eval()
    assert low.dtype == torch.float16
    assert low(*lowered(inputs, torch.float16)).sample.isfinite().all()
    for ours, theirs in zip(binary_layers(model).values(), binary_layers(low).values()):
        assert torch.equal(signs(ours), signs(theirs).float())


@torch.no_grad()
@pytest.mark.parametrize('name', ['es-bi-diffsr', 'diffusers-unet'])
def test_layerwise_casting_of_diffusers_keeps_signs(name):
    pytest.importorskip('diffusers')
    model, inputs = families.build(name)
    expected = {name: signs(layer) for name, layer in binary_layers(model).items()}
    model.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
    assert model(*inputs).sample.isfinite().all()
    for name, layer in binary_layers(model).items():
        assert layer.weight.dtype == torch.float8_e4m3fn
        assert torch.equal(signs(layer.float()), expected[name])


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_banks_of_low_precision_timesteps(dtype):
    pytest.importorskip('diffusers')
    from mmesbnn.diffusion.bi_diffsr import bank_of

    t = torch.arange(2000).to(dtype)
    assert torch.equal(bank_of(t, 5, 2000), bank_of(t.double(), 5, 2000))
