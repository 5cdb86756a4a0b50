"""Wrong arguments of functions for networks, and of parts with optional packages.

As ``test_arguments.py``; paths may also be refused by what is wrong at their place.
"""

import copy
import os
import warnings

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope, Registry, root
from torch import nn

import mmesbnn
from mmesbnn import analysis, binary, conversion, datasets, deploy, diffusion, evaluation, models
from mmesbnn.engine import hooks, optim
from tests.campaigns.test_arguments import CALLS as LAYER_CALLS
from tests.campaigns.test_arguments import WRONG, arguments_of

#: Public names without arguments, or without arguments that they must check.
EXCEPTIONS = {
    'made by the package, for callers to read': {
        'BinarizeReport',
        'BinarizedLayer',
        'Conversion',
        'Family',
        'Finding',
        'LayerCapacity',
        'LayerOps',
        'OpsReport',
        'PackReport',
    },
    'arithmetic on tensors in every forward: the layers look first': {
        'balanced_weight',
        'binary_conv2d',
        'binary_linear',
        'binary_matmul',
        'centred_sign_weight',
        'dorefa',
        'ede_sign',
        'elastic_binarize',
        'fda_sign',
        'hard_tanh_sign',
        'heaviside',
        'identity_sign',
        'magnitude_aware_weight',
        'normalize_tiled',
        'quadratic_sign',
        'recompute_elementwise',
        'recu_weight',
        'reste_sign',
        'scaled_sign_weight',
        'sign',
        'sign_weight',
        'straight_through',
        'swish_sign',
        'temperature_weight',
        'tile',
    },
    'takes no argument': {
        'ClassCountHook',
        'CompileNetworkHook',
        'EpochSeedHook',
        'FittingCheckpointHook',
        'FixedWeight',
        'IterSeedHook',
        'ParameterBoundsHook',
        'RealWeight',
        'is_recomputing',
        'register_models',
    },
    'another class of the package, under the name it has in configs': {
        'BIDiffSRResidualUNet',
        'build_bi_diffsr_unet',
        'build_residual_unet',
        'build_distill_classifier',
        'build_minmax_linear_cls_head',
    },
    'all arguments are those of the class of OpenMMLab that it extends': {
        'BiDetRoIHead',
        'RoundedAnchorGenerator',
        'SeededConcatDataset',
        'SRDataPreprocessor',
    },
    'a base class: subclasses are attacked': {
        'BinaryLayer',
        'Scheduled',
        'Sign',
        'WeightBinarizer',
    },
    'made by diffusers, from a config that is attacked': {'BinaryQuantizer'},
    'fields are attacked one by one in tests/binary/test_options.py': {'BinaryOptions'},
    'fields are attacked one by one in tests/deploy/runtime/test_manifest_schema.py': {'Manifest'},
    'takes a flag, any value of which is true or false': {'use_native'},
    'tables': {'FAMILIES', 'VOC_CLASSES'},
    'a sentence for an error, in a with statement': {'explained'},
}
PACKAGES = [
    mmesbnn,
    analysis,
    binary,
    conversion,
    datasets,
    deploy,
    diffusion,
    evaluation,
    hooks,
    optim,
    models,
    models.backbones,
    models.classifiers,
    models.heads,
    models.layers,
    models.losses,
    models.restorers,
]

NETWORK = dict(type='BNext', arch=dict(channels=[8, 8, 16], depths=[1, 1]))
UNET = dict(base_channels=8, num_levels=2, blocks_per_level=1, norm_groups=2, banks=2)
LAYER = dict(expansion=binary.Expansion(), shrink=True)


def layer_calls():
    layers, losses = models.layers, models.losses
    return {
        layers.PooledProjection: dict(LAYER, in_channels=8, out_channels=8, stride=1, norm={}),
        layers.SqueezeExcite: dict(LAYER, channels=8, ratio=2),
        layers.Stem: dict(
            in_channels=3,
            out_channels=8,
            kernel_size=3,
            stride=1,
            max_pool=True,
            expansion=binary.Expansion(),
            norm={},
        ),
        losses.BottleneckTerm: dict(loss_weight=0.1),
        hooks.CopyDiversityHook: dict(interval=1),
        hooks.CopyInitHook: dict(copy_init='signs'),
        hooks.SaveImagesHook: dict(out_dir='images'),
        hooks.RequireCheckpointHook: dict(new=('head.',)),
        hooks.WholeCheckpointHook: dict(interval=1, save_best='auto', rule='less'),
        hooks.CompileBlocksHook: dict(blocks=['BasicBlock'], backend='eager', mode='default'),
        hooks.EstimatorProgressHook: dict(by_epoch=True),
        optim.Bop: dict(params=parameters(), lr=0.1, gamma=1e-3, threshold=1e-8),
        optim.BopOptimWrapperConstructor: dict(
            optim_wrapper_cfg=dict(optimizer=dict(type='Bop', lr=0.1)), paramwise_cfg=None
        ),
        optim.BinaryOptimWrapperConstructor: dict(
            optim_wrapper_cfg=dict(optimizer=dict(type='SGD', lr=0.1)), paramwise_cfg=None
        ),
        evaluation.LPIPS: dict(net='none'),
        evaluation.luma: dict(image=torch.zeros(3, 8, 8, dtype=torch.uint8)),
        evaluation.psnr: dict(image=picture(), reference=picture(), crop_border=1),
        evaluation.ssim: dict(image=picture(), reference=picture(), crop_border=1),
        binary.redraw_signs: dict(module=network()),
        binary.start_copies: dict(model=network(), copy_init='signs', run=nothing),
        binary.build_sign: dict(spec='quadratic'),
        binary.build_weight_binarizer: dict(spec='real'),
    }


def nothing():
    """Run no network."""


def parameters():
    return [nn.Parameter(torch.ones(2))]


def picture():
    return torch.zeros(3, 16, 16, dtype=torch.uint8)


def network():
    return nn.Sequential(nn.Conv2d(3, 8, 3), binary.BinaryConv2d(8, 8, 3), nn.Conv2d(8, 2, 1))


def file_calls():
    config = Config(dict(model=NETWORK))
    return {
        analysis.load_config: dict(path='config.py', options={}),
        analysis.build_model: dict(cfg=config),
        analysis.deployed_config: dict(cfg=config),
        analysis.image_size: dict(cfg=config),
        analysis.input_shape: dict(cfg=config, size=(32, 32)),
        analysis.real_batch: dict(cfg=config, batch_size=1),
        analysis.read_checkpoint: dict(path='weights.pth', max_bytes=10**8),
        analysis.load_state: dict(model=network(), content=network().state_dict(), name='x'),
        analysis.load_weights: dict(model=network(), path='weights.pth'),
        analysis.check_binary: dict(model=network(), batch=torch.randn(1, 3, 9, 9)),
        analysis.check_input: dict(x=torch.ones(2)),
        analysis.check_weight: dict(weight=torch.ones(2, 2)),
        mmesbnn.binary.binary_layers: dict(model=network()),
        analysis.count_ops: dict(model=network()),
        analysis.measure_capacity: dict(model=network(), run=nothing, positions=64),
        analysis.most_regions: dict(model=network(), shape=(3, 9, 9)),
        analysis.representation_capacity: dict(taps=3),
        analysis.save_json: dict(path='x.json', content={}),
        conversion.convert: dict(source='weights.pth'),
        conversion.convert_file: dict(source='weights.pth', target='new.pth'),
        conversion.load_published: dict(source='weights.pth', se_bits=8),
        conversion.load_sr_pipeline: dict(source='weights.pth'),
        datasets.MiniVOC: dict(),
        datasets.write_mini_voc: dict(root='filled'),
        datasets.write_digits: dict(root='filled'),
        datasets.write_photographs: dict(root='filled'),
        datasets.PairedSRDataset: dict(scale=2, hr='images'),
        models.classifiers.student_config: dict(model_cfg=dict(type='x')),
    }


def deploy_calls():
    return {
        deploy.Runner: dict(folder='filled'),
        deploy.export: dict(task=None, out='out'),
        deploy.load_packed: dict(path='weights.pth'),
        deploy.make_task: dict(cfg=Config(dict(model=NETWORK)), model=network(), count=1),
        deploy.pack: dict(model=network(), path='x.safetensors'),
        deploy.pack_checkpoint: dict(checkpoint='weights.pth', path='x.safetensors'),
        deploy.read_manifest: dict(folder='filled'),
        deploy.to_openvino: dict(model=network(), example=()),
        deploy.write_manifest: dict(folder='filled', manifest=None),
    }


def pretrained_calls():
    return {
        mmesbnn.create_model: dict(name='bnext-18_b512_cifar10'),
        mmesbnn.list_models: dict(pattern='*'),
        mmesbnn.from_pretrained: dict(source='filled'),
        mmesbnn.push_to_hub: dict(
            model=network(), repo_id='me/net', endpoint='http://127.0.0.1:1', input_shape=(3, 9, 9)
        ),
        mmesbnn.save_pretrained: dict(
            model=network(), folder='new', config=NETWORK, input_shape=(3, 9, 9)
        ),
    }


def diffusion_calls():
    unet = diffusion.BIDiffSRUNet(**UNET)
    small = dict(
        block_out_channels=(8, 8),
        down_block_types=('DownBlock2D',) * 2,
        up_block_types=('UpBlock2D',) * 2,
        norm_num_groups=2,
        layers_per_block=1,
    )
    return {
        mmesbnn.BinaryConfig: dict(tau=2, es_groups=1, layers=['conv'], keep=['x'], spread=0.5),
        diffusion.BIDiffSRUNet: UNET,
        diffusion.SRDiffusionPipeline: dict(unet=unet),
        diffusion.make_scheduler: dict(total_steps=10),
        diffusion.build_binarized_unet: small,
        diffusion.binarize_unet: dict(unet=diffusion.build_binarized_unet(**small)),
        diffusion.load_binarized: dict(folder='filled'),
        models.restorers.SRDiffusion: dict(unet=dict(UNET, type='BIDiffSRUNet'), scale=2),
    }


def openmmlab_calls():
    from mmesbnn.datasets.checked_voc import CheckedVOCDataset
    from mmesbnn.models.classifiers.distill import DistillClassifier
    from mmesbnn.models.heads.bidet_roi import BiDetBBoxHead
    from mmesbnn.models.heads.bidet_rpn import BiDetRPNHead
    from mmesbnn.models.heads.bidet_ssd import BiDetSSDHead
    from mmesbnn.models.heads.minmax_linear import MinMaxLinearClsHead
    from mmesbnn.models.necks.bidet_ssd import BiDetSSDNeck
    from mmesbnn.models.task_modules.clipped_ssd_anchors import ClippedSSDAnchorGenerator

    anchors = dict(strides=[8], ratios=[[2]], min_sizes=[30], max_sizes=[60])
    return {
        CheckedVOCDataset: dict(use_difficult=True, lazy_init=True, ann_file=''),
        DistillClassifier: dict(
            backbone=NETWORK, head=dict(type='LinearClsHead', num_classes=2, in_channels=16)
        ),
        BiDetBBoxHead: dict(num_classes=2),
        BiDetRPNHead: dict(in_channels=8, feat_channels=8),
        BiDetSSDHead: dict(num_classes=2),
        MinMaxLinearClsHead: dict(num_classes=2, in_channels=8),
        BiDetSSDNeck: dict(
            in_channels=(8, 8),
            out_channels=(8, 8, 8),
            level_strides=(2,),
            level_paddings=(1,),
            l2_norm_scale=20,
        ),
        ClippedSSDAnchorGenerator: anchors,
        models.backbones.binary_transformer: dict(
            backbone=dict(type='mmpretrain.VisionTransformer', arch='deit-tiny', img_size=32)
        ),
    }


@pytest.fixture(scope='module')
def calls():
    return {
        **layer_calls(),
        **file_calls(),
        **deploy_calls(),
        **pretrained_calls(),
        **diffusion_calls(),
        **openmmlab_calls(),
    }


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder; names that an attack may use exist already."""
    for name in ('filled', 'images', 'x', '2', 'out'):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'file').write_text('')
    (tmp_path / 'config.py').write_text('model = dict(type="x")\n')
    torch.save(network().state_dict(), tmp_path / 'weights.pth')
    monkeypatch.chdir(tmp_path)
    return tmp_path


#: Allowed errors of a call in which only the attacked argument is wrong.
RIGHT = (OSError, ValueError, TypeError, ImportError, NotImplementedError)
#: Arguments that other packages check: mmengine, mmdet, mmpretrain, diffusers, lpips. Without
#: an endpoint the public hub is asked.
FOREIGN = {
    'endpoint',
    'content',
    'batch',
    'device',
    'optim_wrapper_cfg',
    'data_preprocessor',
    'init_cfg',
    'params',
    'published_keys',
    'lazy_init',
    'ann_file',
    'lr',
    *('l2_norm_scale', 'strides', 'ratios'),
    *('min_sizes', 'max_sizes', 'basesize_ratio_range', 'num_classes'),
    *('block_out_channels', 'down_block_types', 'up_block_types', 'norm_num_groups'),
    'layers_per_block',
}


def spec_of(kind, name):
    """Return the argument's name in the caller's code."""
    said = {'build_sign': 'sign', 'build_weight_binarizer': 'weight_binarizer'}
    said.update(dict.fromkeys(('convert', 'load_published'), 'the given'))
    return said.get(kind.__name__, name)


def scope_of(kind):
    """Return the package whose registry builds the parts of the class."""
    bases = {base.__module__.partition('.')[0] for base in getattr(kind, '__mro__', ())}
    return next(iter(bases & {'mmdet', 'mmpretrain'}), 'mmengine')


def attack(kind, given, name, value):
    given = {key: x if key in ('cfg',) else copy.deepcopy(x) for key, x in given.items()}
    try:
        with DefaultScope.overwrite_default_scope(scope_of(kind)):
            kind(**{**given, name: value})
    except Exception as error:
        text = str(error)
        shown = str(value)[:20] if isinstance(value, (str, os.PathLike)) and value else name
        named = spec_of(kind, name) in text or shown in text
        if not named:  # is another argument wrong in the original call?
            try:
                with DefaultScope.overwrite_default_scope(scope_of(kind)):
                    kind(**given)
            except Exception as without:
                named = type(without) is type(error) and str(without) == text
        assert named, f'does not name {name}: {type(error).__name__}: {text[:300]}'
        assert isinstance(error, RIGHT), repr(error)[:300]
        if not isinstance(value, str):  # errors of the operating system contain the whole path
            assert len(text) < 2500, f'a message of {len(text)} characters'


def test_wrong_arguments_of_functions_are_named(campaign, calls, folder):
    for rng in campaign.draws(least=250):
        kind = rng.choice(list(calls))
        names = [n for n in arguments_of(kind, calls[kind]) if n not in FOREIGN]
        if not names:
            continue
        name, value = rng.choice(names), rng.choice(WRONG)
        with campaign.attempt(f'{kind.__name__}.{name}'), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            try:
                attack(kind, calls[kind], name, value)
            except Exception as error:
                raise AssertionError(f'{name}={value!r}'[:80] + f': {error!r}'[:500]) from error


def registered():
    """Yield all names that the package put into mmengine's registries."""
    registries = [x for x in vars(root).values() if isinstance(x, Registry)]
    for registry in registries:
        for name, kind in registry.module_dict.items():
            if getattr(kind, '__module__', '').startswith('mmesbnn'):
                yield name, kind


def test_no_public_name_is_left_out(calls):
    attacked = {kind.__name__ for kind in (*calls, *LAYER_CALLS)}
    attacked |= set().union(*EXCEPTIONS.values())
    public = {}
    for package in PACKAGES:
        for name in package.__all__:
            member = getattr(package, name)
            is_module = type(member) is type(mmesbnn)
            is_error = isinstance(member, type) and issubclass(member, Exception)
            if not (is_module or is_error or name.startswith('__')):
                public[name] = member
    public.update(registered())
    left = [
        name
        for name, member in public.items()
        if name not in attacked and getattr(member, '__name__', name) not in attacked
    ]
    assert not left, f'attacked nowhere, and no exception: {left}'
    names = {*public, *(getattr(x, '__name__', '') for x in public.values())}
    stale = set().union(*EXCEPTIONS.values()) - names
    assert not stale, f'exceptions that are not public: {stale}'
