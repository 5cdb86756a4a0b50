"""Small trained networks for the tests of this folder."""

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from tests.analysis.digits import CONFIG, set_temperature

#: Config of a backbone that needs no optional package.
BACKBONE = dict(type='BNext', arch=dict(channels=[16, 32, 64]), tau=2, stem_stride=1)
SHAPE = (3, 16, 16)


def trained(model):
    """Return ``model``, binary and in eval mode, with random parameters and statistics."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                small = module.num_features // getattr(module, 'copies', 1)
                copies = module.num_features // small
                module.running_mean.copy_(torch.randn(small).repeat(copies))
                module.running_var.copy_(torch.rand(small).add(0.5).repeat(copies))
    return set_temperature(model, 0.0).eval()


def backbone(**options):
    return trained(MODELS.build(dict(BACKBONE, **options)))


def classifier_config():
    """Return the config of a classifier of mmpretrain for three classes."""
    return Config.fromstring(CONFIG.format(root='data/digits'), '.py')


def classifier(config=None):
    config = config or classifier_config()
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return trained(MODELS.build(dict(config.model, data_preprocessor=config.data_preprocessor)))


def outputs(model, count=4):
    """Return the outputs for fixed images, as a list of tensors."""
    images = torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = model(images)
    return [found] if isinstance(found, torch.Tensor) else list(found)


def equal(model, other):
    """Return True if two networks have the same outputs, bit for bit."""
    pairs = list(zip(outputs(model), outputs(other), strict=True))
    return all(torch.equal(a, b) for a, b in pairs)
