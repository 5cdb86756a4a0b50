"""UNets of diffusers become binary, train, and load with the saved values."""

import copy
import json

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

pytest.importorskip('diffusers')

from diffusers import ControlNetModel, UNet1DModel, UNet2DConditionModel, UNet2DModel
from diffusers.training_utils import EMAModel

from mmesbnn.analysis import check_binary, count_ops
from mmesbnn.binary import ESConv2d, ESLinear, binarize, binary_layers
from mmesbnn.binary.shrunk import shrunk_weight
from mmesbnn.diffusion import BIDiffSRUNet, SRDiffusionPipeline, binarize_unet, load_binarized
from mmesbnn.diffusion.binarized import BinarizedUNet2DConditionModel
from mmesbnn.diffusion.binarized import BinarizedUNet2DModel as Binarized
from tests.families import float_unet

COMMON = dict(
    in_channels=6, out_channels=3, block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1
)


def plain(**kwargs):
    torch.manual_seed(0)
    return float_unet(in_channels=6, out_channels=3, **kwargs).double().eval()


def conditional():
    torch.manual_seed(0)
    return (
        UNet2DConditionModel(
            **COMMON,
            attention_head_dim=4,
            cross_attention_dim=8,
            down_block_types=('CrossAttnDownBlock2D', 'DownBlock2D'),
            up_block_types=('UpBlock2D', 'CrossAttnUpBlock2D'),
        )
        .double()
        .eval()
    )


SAMPLE = torch.randn(2, 6, 16, 16, dtype=torch.double, generator=torch.Generator().manual_seed(0))
WORDS = torch.randn(2, 3, 8, dtype=torch.double, generator=torch.Generator().manual_seed(1))


def run(unet, *args):
    with torch.no_grad():
        return unet(SAMPLE, torch.tensor([5, 900]), *args).sample


def binary_names(unet):
    return {
        name for name, module in unet.named_modules() if isinstance(module, (ESConv2d, ESLinear))
    }


# ------------------------------------------------------------------ what is replaced


def test_convolutions_of_blocks_and_resamplers_are_replaced():
    unet = plain()
    expected = {
        name
        for name, module in unet.named_modules()
        if isinstance(module, nn.Conv2d) and name.rsplit('.', 1)[-1] in ('conv1', 'conv2', 'conv')
    }
    kept = {
        name
        for name, module in unet.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear)) and name not in expected
    }
    report = binarize_unet(unet)
    assert binary_names(unet) == expected
    assert any('downsamplers' in name for name in expected)
    assert any('upsamplers' in name for name in expected)
    assert {layer.name for layer in report.replaced} == expected
    assert {layer.name for layer in report.kept} == kept
    why = {layer.name: layer.why for layer in report.kept}
    assert why['conv_in'] == 'first layer'
    assert why['conv_out'] == 'last layer'
    assert why['time_embedding.linear_1'] == 'timestep embedding'
    assert why['mid_block.resnets.0.time_emb_proj'] == 'timestep embedding'
    assert why['up_blocks.0.resnets.0.conv_shortcut'].startswith('shortcut')
    assert why['mid_block.attentions.0.to_q'].startswith('attention')
    assert not check_binary(unet, dict(sample=SAMPLE, timestep=5))


def test_attention_and_shortcuts_on_request():
    unet = conditional()
    report = binarize_unet(unet, attention=True, shortcuts=True)
    why = {layer.name: layer.why for layer in report.kept}
    assert set(why) == {
        'conv_in',
        'conv_out',
        'time_embedding.linear_1',
        'time_embedding.linear_2',
        *(name for name in why if name.endswith('time_emb_proj')),
    }
    assert run(unet, WORDS).shape == (2, 3, 16, 16)


def test_keep_keeps_more():
    unet = plain()
    report = binarize_unet(unet, keep=['up_blocks', '*.1.resnets.*.conv1'])
    assert not any(name.startswith('up_blocks') for name in binary_names(unet))
    assert 'down_blocks.1.resnets.0.conv1' not in binary_names(unet)
    assert 'down_blocks.1.resnets.0.conv2' in binary_names(unet)
    why = {layer.name: layer.why for layer in report.kept}
    assert why['up_blocks.0.resnets.0.conv1'] == "keep='up_blocks'"


@pytest.mark.parametrize('tau, groups', [(1, 1), (2, 1), (2, 2)])
def test_multiplications_become_binary_and_no_more(tau, groups):
    unet = plain()
    before = count_ops(unet, SAMPLE[:1], timestep=5).total
    report = binarize_unet(unet, tau, groups)
    after = count_ops(unet, SAMPLE[:1], timestep=5).total
    assert after['bops'] + after['fp_macs'] == before['fp_macs']
    assert after['binary_params'] == report.binary_weights
    assert after['bops'] > after['fp_macs']


@pytest.mark.parametrize('tau', [1, 2])
def test_it_starts_from_the_float_weights(tau):
    unet = plain()
    float_state = {k: v.clone() for k, v in unet.state_dict().items()}
    binarize_unet(unet, tau)
    state = unet.state_dict()
    for name in binary_names(unet):
        expected = shrunk_weight(float_state[f'{name}.weight'], tau)
        assert torch.equal(state[f'{name}.conv.weight'], expected)
        assert torch.equal(state[f'{name}.bias'], float_state[f'{name}.bias'])
    same = [key for key in state if key in float_state and 'conv1' not in key]
    assert len(same) > 50
    assert all(torch.equal(state[key], float_state[key]) for key in same)


def test_aliases_of_a_resampler_are_one_layer():
    # without an old name the convolution is the module's conv and its Conv2d_0
    unet = plain()
    block = unet.down_blocks[0].downsamplers[0]
    block.Conv2d_0 = block.conv
    binarize_unet(unet)
    assert block.Conv2d_0 is block.conv
    assert isinstance(block.conv, ESConv2d)


# ------------------------------------------------------------------ what it is for


def test_it_trains():
    unet = plain().train()
    binarize_unet(unet, tau=2)
    unet.enable_gradient_checkpointing()
    optimizer = torch.optim.Adam(unet.parameters(), 3e-3)
    target = SAMPLE[:, 3:]
    losses = []
    for _ in range(12):
        loss = (unet(SAMPLE, 5).sample - target).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    for name in binary_names(unet):
        for parameter in unet.get_submodule(name).parameters():
            assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize('load', [load_binarized, Binarized.from_pretrained])
def test_it_is_loaded_as_it_was_saved(tmp_path, load):
    unet = plain()
    options = dict(tau=2, es_groups=2, keep='mid_block', spread=0.3, pad_value=-1)
    binarize_unet(unet, **options, sign=dict(type='hard_tanh', clip=1.5))
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    unet.save_pretrained(tmp_path)
    loaded = load(tmp_path, torch_dtype=torch.double)
    assert type(loaded) is Binarized
    assert binary_names(loaded) == binary_names(unet)
    torch.testing.assert_close(run(loaded), run(unet), rtol=0, atol=1e-10)
    again = tmp_path / 'again'
    loaded.save_pretrained(again)
    one, two = (json.loads((path / 'config.json').read_text()) for path in (tmp_path, again))
    assert {**two, '_name_or_path': None} == {**one, '_name_or_path': None}


def test_a_conditional_one_is_loaded_as_it_was_saved(tmp_path):
    unet = conditional()
    binarize_unet(unet, attention=True, shortcuts=True)
    unet.save_pretrained(tmp_path)
    loaded = load_binarized(tmp_path, torch_dtype=torch.double)
    assert type(loaded) is BinarizedUNet2DConditionModel
    torch.testing.assert_close(run(loaded, WORDS), run(unet, WORDS), rtol=0, atol=1e-10)


def test_a_pipeline_with_it_is_loaded_whole(tmp_path):
    unet = plain()
    binarize_unet(unet)
    pipe = SRDiffusionPipeline(unet)
    pipe.save_pretrained(tmp_path)
    loaded = SRDiffusionPipeline.from_pretrained(tmp_path, torch_dtype=torch.double)
    assert binary_names(loaded.unet) == binary_names(unet)
    image = torch.rand(1, 3, 5, 6, dtype=torch.double)
    one, two = (
        p(image, num_inference_steps=2, seed=0, output_type='pt').images for p in (pipe, loaded)
    )
    assert one.shape == (1, 3, 10, 12)
    torch.testing.assert_close(one, two, rtol=0, atol=1e-6)


def test_copies_and_configs_rebuild_it():
    unet = plain()
    binarize_unet(unet)
    twin = Binarized.from_config(unet.config).double()
    twin.load_state_dict(unet.state_dict())
    torch.testing.assert_close(run(twin), run(unet), rtol=0, atol=1e-10)


def test_configs_of_openmmlab_build_it(tmp_path):
    kinds = dict(
        down_block_types=('DownBlock2D', 'AttnDownBlock2D'),
        attention_head_dim=8,
        up_block_types=('AttnUpBlock2D', 'UpBlock2D'),
    )
    cfg = dict(type='BinarizedUNet2DModel', **COMMON, **kinds, binarize=dict(tau=1))
    built = MODELS.build(cfg)
    reference = plain()
    binarize_unet(reference, tau=1)
    assert binary_names(built) == binary_names(reference)
    plain().save_pretrained(tmp_path)
    cfg = dict(type=cfg['type'], pretrained=str(tmp_path), binarize=dict(tau=1))
    started = MODELS.build(cfg).double()
    torch.testing.assert_close(run(started), run(reference), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match=r"own config: remove \['in_channels'\]"):
        MODELS.build(dict(**cfg, in_channels=6))


# ------------------------------------------------------------------ what is refused


def test_other_networks_are_refused():
    with pytest.raises(ValueError, match='unet is a Linear, not a UNet2DModel or a'):
        binarize_unet(nn.Linear(2, 2))
    with pytest.raises(ValueError, match='unet is a BIDiffSRUNet, not a UNet2DModel'):
        binarize_unet(BIDiffSRUNet(8, 3, 8, num_levels=1, fp_levels=(), norm_groups=4))
    with pytest.raises(ValueError, match='unet is a UNet1DModel'):
        binarize_unet(UNet1DModel(block_out_channels=(8, 8, 8)))
    unet = plain()
    binarize_unet(unet)
    with pytest.raises(ValueError, match=r'unet is a Binarized.*: it is already binary'):
        binarize_unet(unet)


def test_nothing_to_binarize_is_refused_and_changes_nothing():
    unet = plain()
    with pytest.raises(ValueError, match='nothing to binarize in UNet2DModel'):
        binarize_unet(unet, keep=['down_blocks', 'up_blocks', 'mid_block'])
    with pytest.raises(ValueError, match="keep='conv_inn' matches no convolution"):
        binarize_unet(unet, keep='conv_inn')
    with pytest.raises(ValueError, match='tau=0 must be an integer >= 1'):
        binarize_unet(unet, tau=0)
    with pytest.raises(ValueError, match=r'sign=Identity.*must be a name or a dict'):
        binarize_unet(unet, sign=nn.Identity())
    assert type(unet) is UNet2DModel
    assert not binary_names(unet)
    for block in (*unet.down_blocks, *unet.up_blocks, unet.mid_block):
        block.resnets = nn.ModuleList()
        block.downsamplers = block.upsamplers = None
    with pytest.raises(ValueError, match='this UNet2DModel has no layer to binarize'):
        binarize_unet(unet)


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'config\.json: no such file'):
        load_binarized(tmp_path)
    plain().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match='describes a UNet2DModel, which binarize_un'):
        load_binarized(tmp_path)
    with pytest.raises(ValueError, match='describes a UNet2DModel; known are Binarized'):
        Binarized.from_pretrained(tmp_path)


def control():
    torch.manual_seed(0)
    return ControlNetModel.from_unet(conditional(), 'rgb', (4, 8)).double().eval()


def run_control(net):
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2)).double()
    with torch.no_grad():
        result = net(SAMPLE, torch.tensor([5, 900]), WORDS, image, return_dict=False)
    return [*result[0], result[1]]


def shaken(net):
    """Change the initial weights, because a ControlNet's last layers start at 0."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


def equal(ours, theirs):
    return all(torch.equal(x, y) for x, y in zip(ours, theirs, strict=True))


def test_a_controlnet_is_loaded_as_it_was_saved(tmp_path):
    net = control()
    report = binarize_unet(net, tau=2)
    assert report.replaced
    expected = run_control(shaken(net))
    net.save_pretrained(tmp_path)
    for load in (load_binarized, ControlNetModel.from_pretrained):
        again = load(tmp_path, torch_dtype=torch.double)
        assert type(again).__name__ == 'BinarizedControlNetModel'
        assert equal(run_control(again), expected)


@pytest.mark.parametrize('load_weights', [True, False])
def test_a_binary_unet_gets_a_binary_controlnet(load_weights):
    unet = conditional()
    binarize_unet(unet, tau=2)
    shaken(unet)
    net = ControlNetModel.from_unet(unet, 'rgb', (4, 8), load_weights_from_unet=load_weights)
    names = {name for name in binary_names(unet) if not name.startswith('up')}
    assert binary_names(net) == names and names
    own, state = unet.state_dict(), net.state_dict()
    shared = [k for k in state if k.startswith(('conv_in', 'down', 'mid', 'time'))]
    same = all(torch.equal(state[k], own[k].float()) for k in shared)
    assert same == load_weights
    assert not check_binary(net.double(), [SAMPLE, 5, WORDS, torch.rand(2, 3, 32, 32).double()])


@pytest.mark.parametrize('make', [plain, conditional])
def test_the_float_class_loads_it(tmp_path, make):
    """Earlier it gave a float UNet with random weights and a warning."""
    unet = make()
    words = () if make is plain else (WORDS,)
    kind = type(unet)
    binarize_unet(unet, tau=2)
    unet.save_pretrained(tmp_path)
    again = kind.from_pretrained(tmp_path, torch_dtype=torch.double)
    assert type(again) is type(unet)
    assert torch.equal(run(again, *words), run(unet, *words))
    assert type(kind.from_config(make().config)) is kind


def test_the_float_class_keeps_signs_in_half_precision(tmp_path):
    """Half of the smallest weights had another sign in float16."""
    unet = plain()
    binarize_unet(unet)
    for layer in binary_layers(unet).values():
        layer.weight.data.mul_(1e-9)
    unet.save_pretrained(tmp_path / 'unet')
    again, info = UNet2DModel.from_pretrained(
        tmp_path, subfolder='unet', torch_dtype=torch.half, output_loading_info=True
    )
    assert again.dtype == torch.half and not info['missing_keys']
    for name, layer in binary_layers(again).items():
        assert torch.equal(layer.weight.sign().double(), binary_layers(unet)[name].weight.sign())
    float_unet().save_pretrained(tmp_path / 'float')
    assert UNet2DModel.from_pretrained(tmp_path / 'float', dtype=torch.half).dtype == torch.half


def test_a_moving_average_is_saved_as_training_scripts_do(tmp_path):
    unet = conditional()
    binarize_unet(unet, tau=2)
    average = EMAModel(unet.parameters(), model_cls=UNet2DConditionModel, model_config=unet.config)
    average.save_pretrained(tmp_path)
    again = load_binarized(tmp_path, torch_dtype=torch.double)
    torch.testing.assert_close(run(again, WORDS), run(unet, WORDS))
    restored = EMAModel.from_pretrained(tmp_path, UNet2DConditionModel)
    assert len(restored.shadow_params) == len(list(unet.parameters()))


def test_a_part_of_a_pipeline_is_found_in_its_folder(tmp_path):
    unet = plain()
    binarize_unet(unet)
    unet.save_pretrained(tmp_path / 'unet')
    again = load_binarized(tmp_path, subfolder='unet', torch_dtype=torch.double)
    assert torch.equal(run(again), run(unet))


@pytest.mark.parametrize('make', [plain, control])
def test_what_binarize_made_refuses_to_be_saved_without_its_layers(tmp_path, make):
    """Earlier it was saved, and loading it gave random weights."""
    net = make()
    binarize(net)
    for model in (net, copy.deepcopy(net)):
        with pytest.raises(ValueError, match=r'save_pretrained: .*binarize_unet'):
            model.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


class Adapter(nn.Module):
    """Wraps a layer like peft's adapters."""

    def __init__(self, layer):
        super().__init__()
        self.base_layer, self.extra = layer, nn.Linear(layer.in_features, 2)

    def forward(self, x):
        return self.base_layer(x)


def test_adapters_around_what_shall_become_binary_are_refused():
    unet = conditional()
    for module in list(unet.modules()):
        if type(module).__name__ == 'Attention':
            module.to_q = Adapter(module.to_q)
    before = run(unet, WORDS)
    with pytest.raises(ValueError, match=r'unet: .*to_q is a Adapter .*LoRA'):
        binarize_unet(unet, attention=True)
    assert torch.equal(run(unet, WORDS), before)
    assert binarize_unet(unet).replaced
