"""A small network of every family, and an input for it."""

import importlib.util
from typing import Any, NamedTuple

import torch

import mmesbnn
from mmesbnn.binary import TemperatureWeight
from mmesbnn.models.backbones import (
    BiDetResNet,
    BiDetResStage,
    BiDetVGG,
    BinaryViT,
    BNext,
    ReActNet,
)

BLOCKS, LAYERS = [16, 32, 32, 64], dict(channels=[16, 16, 32], depths=[1, 1])
VIT = dict(
    dims=[16, 32], depths=[1, 1], heads=[2, 2], ffn_dims=[32, 64], sr_ratios=[2, 1], patch_size=4
)


def image(channels=3, size=32):
    generator = torch.Generator().manual_seed(3)
    return (torch.randn(2, channels, size, size, generator=generator),)


class Backbone(NamedTuple):
    """A small backbone: its class, arguments, and the size of its images."""

    cls: type
    options: dict[str, Any]
    size: int = 32

    def build(self, **changes):
        return self.cls(**{**self.options, **changes})

    def images(self):
        return image(size=self.size)


TWO = dict(out_indices=(0, 1))
A = dict(arch=dict(channels=BLOCKS))
LAYERS_18 = dict(arch=LAYERS, **TWO)
VIT_32 = dict(arch=VIT, img_size=32, **TWO)
VGG = dict(arch=dict(channels=[8, 8, 16, 32], depths=[1, 2]), out_indices=(0, 2))
RESNET = dict(widths=[8, 16, 32], depths=[2, 2], **TWO)
#: Backbones that fulfil the contract in tests/models/test_backbone_contract.py.
BACKBONES = {
    'bnext': Backbone(BNext, A),
    'es-bnext': Backbone(BNext, dict(A, tau=2, se_ratio=4)),
    'es-bnext-groups': Backbone(BNext, dict(A, tau=2, groups=2, se_ratio=4)),
    'bnext-18': Backbone(BNext, LAYERS_18, size=64),
    'es-bnext-18': Backbone(BNext, dict(LAYERS_18, tau=2, se_ratio=4), size=64),
    'bnext-int8': Backbone(BNext, dict(A, stem_bits=8, se_bits=8)),
    'reactnet-a': Backbone(ReActNet, A),
    'es-reactnet-a': Backbone(ReActNet, dict(A, tau=2)),
    'es-reactnet-18': Backbone(ReActNet, dict(LAYERS_18, tau=2)),
    'birealnet-18': Backbone(ReActNet, dict(LAYERS_18, generalized=False)),
    'es-birealnet-18': Backbone(ReActNet, dict(LAYERS_18, generalized=False, tau=2)),
    'binary-vit': Backbone(BinaryViT, VIT_32),
    'es-binary-vit': Backbone(BinaryViT, dict(VIT_32, tau=2)),
    'es-all-binary-vit': Backbone(BinaryViT, dict(VIT_32, tau=2, es_scope='all')),
    'bidet-vgg': Backbone(BiDetVGG, VGG),
    'es-bidet-vgg': Backbone(BiDetVGG, dict(VGG, tau=2, groups=2)),
    'bidet-resnet': Backbone(BiDetResNet, RESNET),
    'es-bidet-resnet': Backbone(BiDetResNet, dict(RESNET, tau=2)),
}


def bi_diffsr(**options):
    from mmesbnn.diffusion import BIDiffSRUNet

    return BIDiffSRUNet(
        base_channels=8,
        num_levels=3,
        blocks_per_level=1,
        norm_groups=4,
        fp_levels=(0,),
        attn_levels=(1,),
        **options,
    )


def float_unet(**options):
    """Return a small UNet of diffusers with attention."""
    from diffusers import UNet2DModel

    return UNet2DModel(
        block_out_channels=(8, 16),
        norm_num_groups=4,
        layers_per_block=1,
        attention_head_dim=8,
        down_block_types=('DownBlock2D', 'AttnDownBlock2D'),
        up_block_types=('AttnUpBlock2D', 'UpBlock2D'),
        **options,
    )


def diffusers_unet():
    from mmesbnn.diffusion import binarize_unet

    unet = float_unet(in_channels=6, out_channels=3)
    binarize_unet(unet, tau=2)
    return unet


def hosted_vit():
    from mmengine.registry import MODELS

    host = dict(
        type='mmpretrain.VisionTransformer',
        img_size=32,
        patch_size=8,
        arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32),
    )
    return MODELS.build(dict(type='BinaryTransformer', backbone=host, tau=2, clip=0.1))


def binarized():
    from torchvision.models import resnet18

    model = resnet18(num_classes=10)
    mmesbnn.binarize(model, tau=2)
    return model


STEPS = torch.tensor([5, 1900])
#: For each family: a function that builds it, its inputs, and the packages it needs.
FAMILIES = {
    **{name: (row.build, row.images(), ()) for name, row in BACKBONES.items()},
    'bidet-res-stage': (lambda: BiDetResStage(8, 16, 2), image(8, 7), ()),
    'bi-diffsr': (bi_diffsr, (*image(6), STEPS), ('diffusers',)),
    'es-bi-diffsr': (lambda: bi_diffsr(tau=2), (*image(6), STEPS), ('diffusers',)),
    'diffusers-unet': (diffusers_unet, (*image(6), STEPS), ('diffusers',)),
    'hosted-vit': (hosted_vit, image(), ('mmpretrain',)),
    'binarized-resnet': (binarized, image(), ('torchvision',)),
}
#: Families whose packages are installed.
NAMES = [
    name
    for name, (_, _, packages) in FAMILIES.items()
    if all(map(importlib.util.find_spec, packages))
]


def build(name, hard=True):
    """Return a network, its statistics close to those of its input, and the input.

    Args:
        name: One of ``NAMES``.
        hard: Whether weights with a temperature are signs.
    """
    make, inputs, _ = FAMILIES[name]
    torch.manual_seed(0)
    model = make()
    for module in model.modules():
        if isinstance(module, TemperatureWeight) and hard:
            module.temperature.fill_(6.7e-10)
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(*inputs)
    model.eval()
    return model, inputs


def tensors(output):
    """Return the tensors in a network's output."""
    output = getattr(output, 'sample', output)
    return [output] if isinstance(output, torch.Tensor) else list(output)
