"""Models of diffusers become binary while they are loaded, and are stored as bits."""

import copy
import json

import pytest
import torch

pytest.importorskip('diffusers')
pytest.importorskip('accelerate')

from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDPMPipeline,
    DDPMScheduler,
    DiTTransformer2DModel,
    PipelineQuantizationConfig,
    UNet2DConditionModel,
    UNet2DModel,
)
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file

import mmesbnn
from mmesbnn.analysis import check_binary
from mmesbnn.binary import ESConv2d, ESLinear, LearnedScaleWeight
from mmesbnn.binary.entries import SIGNS, WEIGHT_BINARIZERS
from mmesbnn.diffusion import BinaryConfig, SRDiffusionPipeline, binarize_unet
from tests.families import float_unet

COMMON = dict(block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1)
KINDS = dict(
    attention_head_dim=4,
    cross_attention_dim=8,
    down_block_types=('CrossAttnDownBlock2D', 'DownBlock2D'),
)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def conditional():
    return UNet2DConditionModel(
        in_channels=3,
        out_channels=3,
        **COMMON,
        **KINDS,
        up_block_types=('UpBlock2D', 'CrossAttnUpBlock2D'),
    )


def control():
    return ControlNetModel(
        in_channels=3, **COMMON, **KINDS, conditioning_embedding_out_channels=(4, 8)
    )


def autoencoder():
    return AutoencoderKL(
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=('DownEncoderBlock2D',) * 2,
        up_block_types=('UpDecoderBlock2D',) * 2,
    )


def transformer():
    return DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, num_layers=2, sample_size=8, out_channels=4
    )


SAMPLE = drawn(2, 3, 16, 16)
TIMES = torch.tensor([5, 900])
WORDS = drawn(2, 3, 8, seed=1)
#: Function that builds a model, its inputs, and options of its binary layers.
MODELS = {
    'UNet2DModel': (float_unet, (SAMPLE, TIMES), {}),
    'UNet2DConditionModel': (conditional, (SAMPLE, TIMES, WORDS), dict(attention=True)),
    'ControlNetModel': (control, (SAMPLE, TIMES, WORDS, drawn(2, 3, 32, 32)), {}),
    'AutoencoderKL': (autoencoder, (SAMPLE,), dict(attention=True, shortcuts=True)),
    'DiTTransformer2DModel': (
        transformer,
        (drawn(2, 4, 8, 8), TIMES, torch.tensor([1, 2])),
        dict(attention=True),
    ),
}


def shaken(model):
    """Give every parameter a random value, because a ControlNet's last layers start at 0."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture
def folder(tmp_path):
    """Folder of a float UNet."""
    torch.manual_seed(0)
    float_unet().save_pretrained(tmp_path / 'float')
    return tmp_path / 'float'


def run(model, *inputs):
    with torch.no_grad():
        result = model(*(inputs or (SAMPLE, TIMES)), return_dict=False)
    if isinstance(model, ControlNetModel):
        return [*result[0], result[1]]
    return list(result)


def equal(ours, theirs):
    return all(torch.equal(x, y) for x, y in zip(ours, theirs, strict=True))


def binary_names(model):
    return {
        name for name, module in model.named_modules() if isinstance(module, (ESConv2d, ESLinear))
    }


def stored(folder):
    """Return the options in a folder's config and its tensors."""
    config = json.loads((folder / 'config.json').read_text())
    return config['quantization_config'], load_file(folder / 'diffusion_pytorch_model.safetensors')


# ------------------------------------------------------------------------- loading


def test_a_float_model_becomes_binary_while_it_is_loaded(folder):
    unet = UNet2DModel.from_pretrained(folder, quantization_config=BinaryConfig(tau=2))
    expected = UNet2DModel.from_pretrained(folder)
    binarize_unet(expected, tau=2)
    assert type(unet) is UNet2DModel
    assert binary_names(unet) == binary_names(expected) != set()
    assert equal(run(unet), run(expected))
    report = unet.hf_quantizer.report
    assert {layer.name for layer in report.replaced} == binary_names(unet)
    assert not check_binary(unet, [SAMPLE, TIMES])


def test_one_config_serves_several_models(folder):
    config = BinaryConfig()
    first = UNet2DModel.from_pretrained(folder, quantization_config=config)
    assert config == BinaryConfig()
    assert first.config.quantization_config.layers == sorted(
        binary_names(first), key=list(dict(first.named_modules())).index
    )
    UNet2DModel.from_pretrained(folder, quantization_config=config)


def test_options_reach_the_layers(folder):
    config = BinaryConfig(
        tau=2,
        es_groups=2,
        keep='mid_block',
        spread=0.25,
        sign=dict(type='hard_tanh', clip=1.5),
        pad_value=-1,
        latent_clip=2.0,
        shortcuts=True,
    )
    unet = UNet2DModel.from_pretrained(folder, quantization_config=config)
    names = binary_names(unet)
    assert not any(name.startswith('mid_block') for name in names)
    assert any(name.endswith('conv_shortcut') for name in names)
    layer = unet.down_blocks[0].resnets[0].conv1
    assert layer.expansion.tau == layer.expansion.groups == 2
    assert layer.shift.min() == -0.5
    assert layer.conv.sign.clip == 1.5
    assert layer.conv.pad_value == -1
    assert layer.conv.parameter_bounds == {'weight': (-2.0, 2.0)}


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_weights_get_the_dtype_that_is_asked_for(folder, tmp_path, dtype):
    unet = UNet2DModel.from_pretrained(
        folder, torch_dtype=dtype, quantization_config=BinaryConfig()
    )
    unet.save_pretrained(tmp_path)
    again = UNet2DModel.from_pretrained(tmp_path, torch_dtype=dtype)
    for model in (unet, again):
        assert {x.dtype for x in model.parameters()} == {dtype}
    sample = SAMPLE.to(dtype)
    assert equal(run(again, sample, TIMES), run(unet, sample, TIMES))


# -------------------------------------------------------------------------- saving


@pytest.mark.parametrize('tau', [1, 2])
def test_it_is_saved_as_bits_and_loaded_with_equal_outputs(folder, tmp_path, tau):
    unet = UNet2DModel.from_pretrained(folder, quantization_config=BinaryConfig(tau=tau))
    shaken(unet).save_pretrained(tmp_path)
    config, tensors = stored(tmp_path)
    assert config['quant_method'] == 'mmesbnn'
    assert config['tau'] == tau
    assert set(config['layers']) == binary_names(unet)
    for name in binary_names(unet):
        weight = unet.get_submodule(name).conv.effective_weight()
        assert f'{name}.conv.weight' not in tensors
        assert tensors[f'{name}.conv.weight.bits'].numel() == -(-weight.numel() // 8)
        assert torch.equal(tensors[f'{name}.conv.weight.scale'], weight.abs()[:, 0, 0, 0])
    again = UNet2DModel.from_pretrained(tmp_path)
    assert type(again) is UNet2DModel
    assert binary_names(again) == binary_names(unet)
    assert equal(run(again), run(unet))
    # and once more
    again.save_pretrained(tmp_path / 'again')
    more, same = stored(tmp_path / 'again')
    assert more == {**config, 'weight_binarizer': 'learned_scale'}
    assert same.keys() == tensors.keys()
    assert all(torch.equal(same[key], tensors[key]) for key in tensors)


@pytest.mark.parametrize('name', MODELS)
def test_all_classes_are_saved_and_loaded_with_equal_outputs(tmp_path, name):
    make, inputs, options = MODELS[name]
    torch.manual_seed(0)
    model = shaken(make())
    kind = type(model)
    assert kind.__name__ == name
    model.save_pretrained(tmp_path / 'float')
    config = BinaryConfig(tau=2, **options)
    binary = kind.from_pretrained(tmp_path / 'float', quantization_config=config)
    names = binary_names(binary)
    assert names and type(binary) is kind
    assert not equal(run(binary, *inputs), run(model.eval(), *inputs))
    binary.save_pretrained(tmp_path / 'binary')
    again = kind.from_pretrained(tmp_path / 'binary')
    assert binary_names(again) == names
    assert equal(run(again, *inputs), run(binary, *inputs))


def test_files_of_a_large_model_are_small(tmp_path):
    torch.manual_seed(0)
    unet = UNet2DModel(
        block_out_channels=(64, 128),
        down_block_types=('DownBlock2D',) * 2,
        up_block_types=('UpBlock2D',) * 2,
    )
    unet.save_pretrained(tmp_path / 'float')
    binarize_unet(unet, options=BinaryConfig(tau=2))
    weights = unet.hf_quantizer.report.binary_weights
    unet.save_pretrained(tmp_path / 'binary')
    floats, bits = (
        (tmp_path / x / 'diffusion_pytorch_model.safetensors').stat().st_size
        for x in ('float', 'binary')
    )
    saved = 4 * weights - weights / 8
    assert floats - bits == pytest.approx(saved, rel=0.02)


def test_shards_are_read_one_by_one(folder, tmp_path):
    unet = UNet2DModel.from_pretrained(folder, quantization_config=BinaryConfig())
    unet.save_pretrained(tmp_path, max_shard_size='5KB')
    assert len(list(tmp_path.glob('*.safetensors'))) > 2
    assert equal(run(UNet2DModel.from_pretrained(tmp_path)), run(unet))


def test_latent_weights_are_saved_on_request(folder, tmp_path):
    unet = UNet2DModel.from_pretrained(folder, quantization_config=BinaryConfig(packed=False))
    shaken(unet).save_pretrained(tmp_path)
    again = UNet2DModel.from_pretrained(tmp_path)
    assert equal(run(again), run(unet))
    ours, theirs = unet.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    # the choice can change before a model is saved
    again.config.quantization_config.packed = True
    again.save_pretrained(tmp_path / 'packed')
    assert stored(tmp_path / 'packed')[0]['packed'] is True
    assert equal(run(UNet2DModel.from_pretrained(tmp_path / 'packed')), run(unet))


@pytest.mark.parametrize('packed', [False, True])
@pytest.mark.parametrize('name', SIGNS.own)
def test_a_model_with_any_sign_is_loaded_again(folder, tmp_path, name, packed):
    config = BinaryConfig(sign=name, packed=packed)
    unet = UNet2DModel.from_pretrained(folder, quantization_config=config)
    shaken(unet).save_pretrained(tmp_path)
    assert equal(run(UNet2DModel.from_pretrained(tmp_path)), run(unet))


@pytest.mark.parametrize('name', WEIGHT_BINARIZERS.own)
def test_a_model_with_any_weight_binarizer_is_loaded_again(folder, tmp_path, name):
    config = BinaryConfig(weight_binarizer=name, packed=False)
    unet = UNet2DModel.from_pretrained(folder, quantization_config=config)
    shaken(unet).save_pretrained(tmp_path)
    assert equal(run(UNet2DModel.from_pretrained(tmp_path)), run(unet))


def test_small_latent_weights_keep_their_signs_in_half_precision(folder, tmp_path):
    unet = UNet2DModel.from_pretrained(folder, quantization_config=BinaryConfig(packed=False))
    layer = unet.down_blocks[0].resnets[0].conv1.conv
    with torch.no_grad():
        layer.weight.fill_(1e-12)
    unet.save_pretrained(tmp_path)
    again = UNet2DModel.from_pretrained(tmp_path, torch_dtype=torch.float16)
    assert (again.down_blocks[0].resnets[0].conv1.conv.weight > 0).all()


def test_weights_that_are_not_binary_yet_are_not_packed(folder, tmp_path):
    config = BinaryConfig(weight_binarizer='temperature')
    unet = UNet2DModel.from_pretrained(folder, quantization_config=config)
    with pytest.raises(ValueError, match=r'cannot pack .*conv: .*packed = False'):
        unet.save_pretrained(tmp_path / 'out')
    assert not (tmp_path / 'out').exists()
    unet.config.quantization_config.packed = False
    unet.save_pretrained(tmp_path / 'out')
    assert equal(run(UNet2DModel.from_pretrained(tmp_path / 'out')), run(unet))
    # once they are, their scales are 1 and are not stored
    for name, buffer in unet.named_buffers():
        if name.endswith('temperature'):
            buffer.fill_(1e-9)
    unet.config.quantization_config.packed = True
    unet.save_pretrained(tmp_path / 'hard')
    assert not any(key.endswith('scale') for key in stored(tmp_path / 'hard')[1])
    assert equal(run(UNet2DModel.from_pretrained(tmp_path / 'hard')), run(unet))


# ------------------------------------------------------------------------ training


def trained(unet, steps=8):
    """Train a UNet and return its losses."""
    unet.train()
    optimizer = torch.optim.Adam(unet.parameters(), 3e-3)
    target = drawn(2, 3, 16, 16, seed=7)
    losses = []
    for _ in range(steps):
        loss = (unet(SAMPLE, TIMES).sample - target).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_it_trains_and_is_saved_and_trains_on(folder, tmp_path):
    unet = UNet2DModel.from_pretrained(folder, quantization_config=BinaryConfig())
    assert unet.hf_quantizer.is_trainable
    losses = trained(unet)
    assert losses[-1] < 0.95 * losses[0]
    unet.eval().save_pretrained(tmp_path)
    again = UNet2DModel.from_pretrained(tmp_path)
    assert equal(run(again), run(unet))
    before = {name: x.clone() for name, x in again.named_parameters()}
    more = trained(again)
    assert more[0] == pytest.approx(losses[-1], rel=0.1)
    assert more[-1] < more[0]
    for name in binary_names(again):
        layer = again.get_submodule(name)
        assert isinstance(layer.conv.weight_binarizer, LearnedScaleWeight)
        for part, parameter in layer.named_parameters():
            assert parameter.grad.abs().max() > 0, part
            assert not torch.equal(parameter, before[f'{name}.{part}']), part
    again.eval().save_pretrained(tmp_path / 'again')
    assert equal(run(UNet2DModel.from_pretrained(tmp_path / 'again')), run(again))


def test_latent_weights_let_a_training_continue_exactly(folder, tmp_path):
    unet = UNet2DModel.from_pretrained(folder, quantization_config=BinaryConfig(packed=False))
    trained(unet, 2)
    unet.save_pretrained(tmp_path)
    assert trained(UNet2DModel.from_pretrained(tmp_path), 3) == trained(unet, 3)


# ----------------------------------------------------------------------- pipelines


def test_a_pipeline_becomes_binary_by_a_mapping(folder, tmp_path):
    whole = DDPMPipeline(UNet2DModel.from_pretrained(folder), DDPMScheduler(4))
    whole.save_pretrained(tmp_path / 'float')
    mapping = PipelineQuantizationConfig(quant_mapping={'unet': BinaryConfig(tau=2)})
    binary = DDPMPipeline.from_pretrained(tmp_path / 'float', quantization_config=mapping)
    assert binary_names(binary.unet)
    binary.save_pretrained(tmp_path / 'binary')
    again = DDPMPipeline.from_pretrained(tmp_path / 'binary')
    assert equal(run(again.unet), run(binary.unet))


def test_a_binary_super_resolution_pipeline_is_loaded(tmp_path):
    torch.manual_seed(0)
    unet = UNet2DModel(
        in_channels=6,
        **COMMON,
        down_block_types=('DownBlock2D',) * 2,
        up_block_types=('UpBlock2D',) * 2,
    )
    binarize_unet(unet, options=BinaryConfig())
    pipeline = SRDiffusionPipeline(unet.eval())
    pipeline.save_pretrained(tmp_path)
    again = SRDiffusionPipeline.from_pretrained(tmp_path)
    assert binary_names(again.unet) == binary_names(unet) != set()
    image = torch.rand(1, 3, 5, 6)
    options = dict(num_inference_steps=2, seed=0, output_type='pt')
    assert torch.equal(again(image, **options).images, pipeline(image, **options).images)


# ----------------------------------------------------------------------- in memory


def test_a_built_model_becomes_binary_by_the_short_form(folder, tmp_path):
    unet = UNet2DModel.from_pretrained(folder)
    config = BinaryConfig(tau=4, keep='mid_block')
    report = binarize_unet(unet, options=config)
    expected = UNet2DModel.from_pretrained(folder, quantization_config=config)
    assert str(report) == str(expected.hf_quantizer.report)
    assert equal(run(unet), run(expected))
    unet.save_pretrained(tmp_path)
    assert equal(run(UNet2DModel.from_pretrained(tmp_path)), run(unet))
    with pytest.raises(ValueError, match='already binary'):
        binarize_unet(unet, options=config)
    with pytest.raises(ValueError, match='options and keep, attention are both given'):
        binarize_unet(float_unet(), options=config, keep='mid_block', attention=True)


def test_a_copy_is_saved_with_its_own_weights(folder, tmp_path):
    unet = UNet2DModel.from_pretrained(folder, quantization_config=BinaryConfig())
    twin = copy.deepcopy(unet)
    shaken(twin).save_pretrained(tmp_path)
    again = UNet2DModel.from_pretrained(tmp_path)
    assert equal(run(again), run(twin))
    assert not equal(run(again), run(unet))


def test_an_older_folder_is_still_loaded(folder, tmp_path):
    unet = UNet2DModel.from_pretrained(folder)
    binarize_unet(unet, tau=2)
    unet.save_pretrained(tmp_path)
    assert '_mmesbnn_binarized' in json.loads((tmp_path / 'config.json').read_text())
    again = UNet2DModel.from_pretrained(tmp_path)
    assert equal(run(again), run(unet))
    with pytest.raises(ValueError, match='already binary'):
        UNet2DModel.from_pretrained(tmp_path, quantization_config=BinaryConfig())


def test_the_package_exports_the_config():
    assert mmesbnn.BinaryConfig is BinaryConfig


def test_a_moving_average_is_saved_as_training_scripts_do(folder, tmp_path):
    unet = UNet2DModel.from_pretrained(folder, quantization_config=BinaryConfig())
    average = EMAModel(unet.parameters(), model_cls=UNet2DModel, model_config=unet.config)
    average.save_pretrained(tmp_path)
    assert equal(run(UNet2DModel.from_pretrained(tmp_path)), run(unet))


def test_a_moving_average_of_latent_weights_is_continued(folder, tmp_path):
    config = BinaryConfig(packed=False)  # docs/diffusers.md says why
    unet = UNet2DModel.from_pretrained(folder, quantization_config=config)
    average = EMAModel(unet.parameters(), model_cls=UNet2DModel, model_config=unet.config)
    average.save_pretrained(tmp_path)
    restored = EMAModel.from_pretrained(tmp_path, UNet2DModel)
    assert len(restored.shadow_params) == len(average.shadow_params)
    restored.step(unet.parameters())


def test_a_binary_unet_gets_a_binary_controlnet(tmp_path):
    unet = shaken(conditional())
    binarize_unet(unet, options=BinaryConfig())
    net = ControlNetModel.from_unet(unet, 'rgb', (4, 8))
    names = {name for name in binary_names(unet) if not name.startswith('up')}
    assert binary_names(net) == names != set()
    own, state = net.state_dict(), unet.state_dict()
    shared = [key for key in own if key.startswith(('conv_in', 'down', 'mid', 'time'))]
    assert all(torch.equal(own[key], state[key]) for key in shared)
    net.eval().save_pretrained(tmp_path)
    inputs = MODELS['ControlNetModel'][1]
    assert equal(run(ControlNetModel.from_pretrained(tmp_path), *inputs), run(net, *inputs))
