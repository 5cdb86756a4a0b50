"""Attention of every kind becomes binary with ``attention=True``, or is refused with a reason."""

import pytest
import torch

pytest.importorskip('diffusers')
pytest.importorskip('accelerate')

from diffusers import (
    FluxTransformer2DModel,
    SanaTransformer2DModel,
    UNet2DConditionModel,
    UNet3DConditionModel,
    WanTransformer3DModel,
)

from mmesbnn.diffusion import BinaryConfig, binarize_unet

#: Inputs of :func:`flux`.
LATENTS, WORDS, POOLED = torch.randn(1, 4, 4), torch.randn(1, 3, 8), torch.randn(1, 8)


def flux():
    return FluxTransformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=8,
        pooled_projection_dim=8,
        axes_dims_rope=(2, 2, 4),
    ).eval()


def wan():
    return WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=8,
        freq_dim=8,
        ffn_dim=8,
        num_layers=1,
    )


def conditional():
    return UNet2DConditionModel(
        block_out_channels=(8, 16),
        norm_num_groups=4,
        layers_per_block=1,
        attention_head_dim=4,
        cross_attention_dim=8,
        down_block_types=('CrossAttnDownBlock2D', 'DownBlock2D'),
        up_block_types=('UpBlock2D', 'CrossAttnUpBlock2D'),
    )


def run(model):
    ids = torch.zeros(4, 3), torch.zeros(3, 3)
    with torch.no_grad():
        return model(LATENTS, WORDS, POOLED, torch.tensor([0.5]), *ids).sample


@pytest.mark.parametrize('make', [flux, wan])
def test_attention_of_newer_models_becomes_binary(make):
    report = binarize_unet(make(), options=BinaryConfig(attention=True))
    kept = [layer.name for layer in report.kept]
    assert not [name for name in kept if '.to_' in name or '.add_' in name]
    assert any('to_q' in layer.name for layer in report.replaced)


def test_binary_attention_of_flux_is_loaded_as_it_was_saved(tmp_path):
    model = flux()
    before = run(model)
    binarize_unet(model, options=BinaryConfig(attention=True))
    binary = run(model)
    assert not torch.equal(binary, before)
    model.save_pretrained(tmp_path)
    assert torch.equal(run(FluxTransformer2DModel.from_pretrained(tmp_path)), binary)


@pytest.mark.parametrize('make', [flux, conditional])
def test_fused_attention_is_refused(make):
    model, config = make(), BinaryConfig(attention=True)
    model.fuse_qkv_projections()
    with pytest.raises(ValueError, match=r'one fused layer .*unfuse_qkv_projections\(\) first'):
        binarize_unet(model, options=config)
    model.unfuse_qkv_projections()
    assert any('to_q' in layer.name for layer in binarize_unet(model, options=config).replaced)


def test_fused_attention_may_stay_float():
    model = conditional()
    model.fuse_qkv_projections()
    assert binarize_unet(model).replaced


def test_binary_attention_cannot_be_fused():
    model = conditional()
    binarize_unet(model, attention=True)
    with pytest.raises(AttributeError, match=r'fuse_qkv_projections .* cannot fuse binary'):
        model.fuse_qkv_projections()


def video():
    return UNet3DConditionModel(
        block_out_channels=(32,),
        layers_per_block=1,
        attention_head_dim=16,
        cross_attention_dim=8,
        down_block_types=('CrossAttnDownBlock3D',),
        up_block_types=('CrossAttnUpBlock3D',),
    )


def test_report_names_an_option_for_the_layers_that_it_replaces():
    kept = {layer.name: layer.why for layer in binarize_unet(video(), options=BinaryConfig()).kept}
    every = BinaryConfig(attention=True, shortcuts=True)
    report = binarize_unet(video(), options=every)
    assert {name for name, why in kept.items() if 'True replaces it' in why} == {
        layer.name for layer in report.replaced if layer.name in kept
    }
    assert not [layer.name for layer in report.kept if 'True replaces it' in layer.why]


def test_report_calls_only_the_first_layer_so():
    model = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=1,
        num_cross_attention_heads=1,
        cross_attention_head_dim=8,
        cross_attention_dim=8,
        caption_channels=8,
        sample_size=8,
    )
    report = binarize_unet(model, options=BinaryConfig(attention=True))
    why = {layer.name: layer.why for layer in report.kept}
    assert why['transformer_blocks.0.ff.conv_inverted'] == 'other layer'
