"""Every public class refuses wrong arguments at construction, by their name.

One argument of a call that works is replaced at a time. A value that is accepted must
work: what comes after construction must not fail.
"""

import dataclasses
import inspect
import math
import warnings

import numpy as np
import torch
from torch import nn

from mmesbnn import binary, datasets, evaluation
from mmesbnn.engine import hooks
from mmesbnn.models import backbones, layers, losses
from mmesbnn.models.backbones.base import BackboneOptions, ESBackbone

WRONG = [
    None,
    True,
    False,
    -1,
    0,
    1,
    2,
    3,
    7,
    1.5,
    -0.5,
    math.nan,
    math.inf,
    -math.inf,
    '',
    'x',
    '2',
    b'x',
    (),
    (1,),
    (2, 2),
    (1, 2, 3),
    (-1, 1),
    [],
    ['x'],
    [None],
    [0],
    {},
    {'x': 1},
    {'type': 'x'},
    {'type': 3},
    {'eps': 0.1},
    {'type': 'BN', 'eps': 'x'},
    {'type': 'BN', 'momentum': None},
    {'type': 'quadratic', 'zero': 5},
    {1: 2},
    {1, 2},
    object,
    object(),
    len,
    nn.Identity,
    torch.zeros(2),
    torch.tensor(1),
    np.int64(0),
    np.float64(-1),
    np.zeros(2),
    np.array(['a', 'b']),
    'n' * 10_000,
]

TOKENS, MAPS = torch.randn(2, 4, 8), torch.randn(2, 8, 6, 6)


def tokens(module):
    module(torch.randn(2, 4, first_width(module)))


def maps(module):
    module(torch.randn(2, first_width(module), 48, 48))


def recoupled(block):
    block(torch.randn(2, block.shift.bias.shape[1], 6, 6))


def images(module):
    conv = next(m for m in module.modules() if isinstance(m, nn.Conv2d))
    module.eval()(torch.randn(2, conv.in_channels, 32, 32))


def first_width(module):
    """Return the number of channels that the module's first layer reads."""
    for name in ('in_channels', 'in_features', 'num_features'):
        if hasattr(module, name):
            return getattr(module, name)
    if hasattr(module, 'bias'):
        return max(module.bias.shape)
    return next(first_width(m) for m in module.children() if list(m.parameters()))


def residual(unit):
    width = unit.shift.bias.shape[0] // unit.expand
    unit(torch.randn(2, 4, width), torch.randn(2, 4, unit.norm.num_features))


def attend(module):
    width = module.embed_dims * module.tau
    module(torch.randn(2, 16, width), size=(4, 4))


def fed(module):
    unit = module.up
    module(torch.randn(2, 4, unit.shift.bias.shape[0] // unit.expand))


def signs(module):
    module(TOKENS.clone().requires_grad_())


def norms(module):
    module(torch.randn(2, module.num_features // module.copies, 3, 3))


BACKBONE = dict(in_channels=3, out_indices=(0,), norm_cfg=dict(type='BN'))
ARCH = dict(dims=[8, 16], depths=[1, 1], heads=[1, 2], ffn_dims=[16, 32], sr_ratios=[2, 1])

#: For every class a call that works, and a use of the result.
CALLS = {
    binary.BinaryConv2d: (dict(in_channels=8, out_channels=4, kernel_size=3), maps),
    binary.BinaryLinear: (dict(in_features=8, out_features=4), tokens),
    binary.ShrunkConv2d: (
        dict(in_channels=8, out_channels=4, kernel_size=3, expansion=binary.Expansion(2)),
        None,
    ),
    binary.ShrunkLinear: (dict(in_features=8, out_features=4, expansion=binary.Expansion(2)), None),
    binary.ESConv2d: (dict(in_channels=8, out_channels=8, kernel_size=3, tau=2), maps),
    binary.ESLinear: (dict(in_features=8, out_features=8, tau=2), tokens),
    binary.TiledBatchNorm2d: (dict(num_features=8, copies=2), norms),
    binary.LearnableShift: (dict(channels=8), None),
    binary.RSign: (dict(channels=8), None),
    binary.RPReLU: (dict(channels=8), None),
    binary.HardTanhSign: (dict(clip=1.0), signs),
    binary.QuadraticSign: (dict(zero=-1), signs),
    binary.IdentitySign: (dict(zero=0), signs),
    binary.ScaledSignWeight: (dict(attached=True), signs),
    binary.CentredSignWeight: (dict(zero=0), signs),
    binary.TemperatureWeight: (dict(binary_below=1e-7), signs),
    binary.SwishSign: (dict(beta=5.0), signs),
    binary.EDESign: (dict(start=0.1, end=10.0), signs),
    binary.ReSTESign: (dict(power=3.0, near=0.1, clip=1.5), signs),
    binary.FDASign: (dict(first_terms=9, last_terms=18, frequency=0.1), signs),
    binary.Heaviside: (dict(clip=1.0), signs),
    binary.DoReFa: (dict(bits=2), signs),
    binary.SignWeight: (dict(clip=1.0, zero=0), signs),
    binary.MagnitudeAwareWeight: (dict(clip=1.0), signs),
    binary.LearnedScaleWeight: (dict(channels=8, clip=1.0), None),
    binary.BalancedWeight: (dict(start=0.1, end=10.0), signs),
    binary.ReCUWeight: (dict(start=0.85, end=0.99), signs),
    binary.RankOneScale: (dict(channels=8, height=9, width=9), None),
    binary.InputForm: (dict(bits=2, low=0), None),
    binary.WeightForm: (dict(values=2, scaled=True), None),
    binary.Expansion: (dict(tau=2, groups=1), None),
    binary.ResidualBinaryLinear: (
        dict(in_features=8, out_features=8, norm=dict(eps=0.1)),
        residual,
    ),
    binary.BinaryMultiheadAttention: (
        dict(embed_dims=8, num_heads=2, norm=dict(momentum=0.1)),
        attend,
    ),
    binary.BinaryFeedForward: (dict(embed_dims=8, feedforward_dims=16), fed),
    backbones.BNext: (
        dict(BACKBONE, arch=dict(channels=[8, 8, 16], depths=[1, 1]), se_ratio=4),
        images,
    ),
    backbones.ReActNet: (dict(BACKBONE, arch=dict(channels=[8, 8, 16], depths=[1, 1])), images),
    backbones.BiDetResNet: (dict(BACKBONE, widths=(8, 8, 16), depths=(1, 1)), images),
    backbones.BiDetResStage: (
        dict(in_channels=8, out_channels=8, depth=1, norm_cfg=dict(type='BN')),
        maps,
    ),
    backbones.BiDetVGG: (dict(BACKBONE, arch=dict(channels=[8, 8, 16, 16], depths=[1, 1])), images),
    backbones.BinaryViT: (dict(BACKBONE, arch=ARCH, img_size=32), images),
    layers.RecoupledConv: (
        dict(
            channels=8,
            kernel_size=3,
            expansion=binary.Expansion(),
            shrink=True,
            se_ratio=4,
            se_bits=None,
            conv={},
            norm={},
        ),
        recoupled,
    ),
    layers.MinMaxConv2d: (dict(in_channels=8, out_channels=4, kernel_size=1, bits=8), None),
    layers.MinMaxLinear: (dict(in_features=8, out_features=4, bits=8), tokens),
    layers.es_conv2d: (dict(in_channels=8, out_channels=8, kernel_size=3, es_groups=1), maps),
    losses.VariationalBoxes: (dict(sigma=0.1), None),
    losses.FeatureEnergyLoss: (dict(loss_weight=0.1), lambda loss: loss(MAPS)),
    losses.SparseObjectLoss: (dict(loss_weight=0.1), None),
    losses.HardnessWeightedKDLoss: (
        dict(weighting='batch'),
        lambda loss: loss(TOKENS[0], [TOKENS[0]]),
    ),
    hooks.BottleneckHook: (dict(begin=1), None),
    hooks.NaNGuardHook: (dict(interval=5), None),
    hooks.SignFlipHook: (dict(interval=1), None),
    hooks.TeacherScheduleHook: (dict(by_epoch=True), None),
    hooks.TemperatureHook: (dict(decay=0.5, initial=1.0), lambda hook: hook.initial * hook.decay),
    evaluation.PSNR: (dict(crop_border=1), None),
    evaluation.SSIM: (dict(crop_border=1), None),
    datasets.SeededInfiniteSampler: (
        dict(dataset=[1, 2, 3], seed=0),
        lambda sampler: next(iter(sampler)),
    ),
    binary.binarize: (dict(model=nn.Sequential(*(nn.Linear(8, 8) for _ in range(4)))), None),
}


#: Arguments that mmengine reads, so they are not checked here.
FOREIGN = {'init_cfg', 'example', 'args', 'kwargs', 'device', 'dtype', 'padding_mode'}


def arguments_of(kind, given):
    names = [
        name
        for name, parameter in inspect.signature(kind).parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if isinstance(kind, type) and issubclass(kind, ESBackbone):
        names += [field.name for field in dataclasses.fields(BackboneOptions)]
    return sorted({*names, *given} - FOREIGN)


def attack(kind, name, value):
    given, use = CALLS[kind]
    if kind is binary.binarize:
        given = dict(model=nn.Sequential(*(nn.Linear(8, 8) for _ in range(4))))
    try:
        result = kind(**{**given, name: value})
    except (TypeError, ValueError) as error:
        text = str(error)
        assert name in text, f'does not name {name}: {type(error).__name__}: {text}'
        assert len(text) < 2000, f'a message of {len(text)} characters'
        assert '\n' not in text or 'nothing to binarize' in text, text
        return
    if use is not None:
        use(result)


def test_wrong_arguments_are_named(campaign):
    for rng in campaign.draws(least=1500):
        kind = rng.choice(list(CALLS))
        name = rng.choice(arguments_of(kind, CALLS[kind][0]))
        value = rng.choice(WRONG)
        with campaign.attempt(f'{kind.__name__}.{name}'), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            try:
                attack(kind, name, value)
            except Exception as error:
                raise AssertionError(f'{name}={value!r}'[:80] + f': {error!r}') from error
