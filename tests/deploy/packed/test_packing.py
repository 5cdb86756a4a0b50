"""Packed files give the outputs of their original networks."""

import copy
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, DefaultScope
from torch import nn
from torch.utils._pytree import tree_leaves

import mmesbnn
from mmesbnn.analysis import InputError, build_model, check_binary, load_config
from mmesbnn.binary import (
    BinaryConv2d,
    BinaryLinear,
    BinaryMultiheadAttention,
    ESConv2d,
    Expansion,
    FixedWeight,
    ShrunkConv2d,
    TiledBatchNorm2d,
)
from mmesbnn.deploy import PackError, load_packed, pack, pack_checkpoint
from mmesbnn.deploy.packed.file import read_packed
from mmesbnn.deploy.packed.layout import checksum
from tests.analysis.digits import set_temperature, write_project
from tests.managers import forget_runners

pytest.importorskip('safetensors')

ROOT = Path(__file__).resolve().parents[3]

BINARIZERS = [
    dict(type='temperature'),
    dict(type='scaled_sign'),
    dict(type='scaled_sign', attached=True),
    dict(type='centred_sign'),
]


def shaken(model):
    """Return ``model``, binary and in eval mode, with random parameters and statistics."""
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            copies = getattr(module, 'copies', 1)
            small = module.num_features // copies
            module.running_mean.copy_(torch.randn(small).repeat(copies))
            module.running_var.copy_(torch.rand(small).add(0.5).repeat(copies))
    return set_temperature(model, 0.0).eval()


class Net(nn.Module):
    """One layer of each kind and a tiled norm."""

    def __init__(self, binarizer):
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3)
        self.grouped = ShrunkConv2d(
            3,
            12,
            3,
            stride=2,
            padding=1,
            expansion=Expansion(2, 2),
            pad_value=-1,
            weight_binarizer=binarizer,
        )
        self.norm = TiledBatchNorm2d(48, 8)
        self.wide = BinaryConv2d(48, 7, 3, dilation=2, weight_binarizer=binarizer)
        self.dense = ESConv2d(7, 8, 1, tau=2, weight_binarizer=binarizer)
        self.linear = BinaryLinear(8, 4, bias=True, weight_binarizer=binarizer)

    def forward(self, x):
        x = self.wide(self.norm(self.grouped(self.stem(x))))
        return self.linear(self.dense(x).mean((2, 3)) - 0.5)


def same_after_packing(model, fresh, x, path, **options):
    """Pack ``model``, load it into ``fresh``; return the outputs of both."""
    report = pack(model, path, **options)
    assert report.size == path.stat().st_size
    loaded = load_packed(path, fresh)
    assert loaded is fresh
    with torch.no_grad():
        return model(x), loaded(x)


@pytest.mark.parametrize('binarizer', BINARIZERS, ids=lambda b: '-'.join(map(str, b)))
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_outputs_are_equal_bit_for_bit(binarizer, dtype, tmp_path):
    model = shaken(Net(binarizer).to(dtype))
    x = torch.randn(2, 3, 16, 16, dtype=dtype)
    path = tmp_path / 'net.safetensors'
    ours, theirs = same_after_packing(model, Net(binarizer), x, path)
    assert theirs.dtype == dtype
    assert torch.equal(ours, theirs)
    assert ours.unique().numel() > 2


def test_equal_networks_are_equal_files(tmp_path):
    torch.manual_seed(0)
    model = shaken(Net(BINARIZERS[0]))
    meta = dict(classes=['"quoted"', 'back\\slash', 'tab\tline\n\x01\x7f', 'Übung', '鳥\u2028'])
    files = [tmp_path / f'{i}.safetensors' for i in range(6)]
    for file in files:
        pack(model, file, dataset_meta=meta)
    assert len({file.read_bytes() for file in files}) == 1
    assert json.loads(read_packed(files[0])[1]['dataset_meta']) == meta


def test_attention(tmp_path):
    model = shaken(BinaryMultiheadAttention(16, 4, tau=2))
    x = torch.randn(2, 9, 32)
    fresh = BinaryMultiheadAttention(16, 4, tau=2)
    ours, theirs = same_after_packing(model, fresh, x, tmp_path / 'a.safetensors')
    assert torch.equal(ours, theirs)


def test_a_layer_alone(tmp_path):
    model = BinaryLinear(10, 3, weight_binarizer='centred_sign')
    path = tmp_path / 'layer.safetensors'
    x = torch.randn(5, 10)
    ours, theirs = same_after_packing(model, BinaryLinear(10, 3), x, path)
    assert torch.equal(ours, theirs)
    # three bytes and more of bits, three scales, nothing else
    content, _ = read_packed(path)
    assert {key: value.numel() for key, value in content.items()} == {
        'weight.bits': 4,
        'weight.scale': 3,
    }


def test_a_centred_weight_of_mostly_one_sign(tmp_path):
    model = BinaryLinear(8, 1, weight_binarizer='centred_sign')
    model.weight.data = torch.tensor([[0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, -3.3]])
    pack(model, tmp_path / 'layer.safetensors')
    loaded = load_packed(tmp_path / 'layer.safetensors', BinaryLinear(8, 1))
    expected = model.effective_weight()
    assert expected.sign().sum() == 6
    assert torch.equal(loaded.effective_weight(), expected)


def test_networks_made_binary(tmp_path):
    def make():
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.Conv2d(8, 8, 3, groups=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32, 8),
            nn.Linear(8, 2),
        )
        mmesbnn.binarize(net, tau=2)
        return net

    model = shaken(make())
    x = torch.randn(3, 3, 6, 6)
    ours, theirs = same_after_packing(model, make(), x, tmp_path / 'n.safetensors')
    assert torch.equal(ours, theirs)


def test_shared_layers_are_restored_in_both_places(tmp_path):
    layer = BinaryLinear(8, 8)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    other = BinaryLinear(8, 8)
    fresh = nn.Sequential(other, nn.ReLU(), other)
    x = torch.randn(2, 8)
    ours, theirs = same_after_packing(model, fresh, x, tmp_path / 's.safetensors')
    assert torch.equal(ours, theirs)


def test_loaded_networks_are_binary_and_frozen(tmp_path):
    model = shaken(Net('scaled_sign'))
    path = tmp_path / 'net.safetensors'
    pack(model, path)
    loaded = load_packed(path, Net('scaled_sign'))
    assert check_binary(loaded, torch.randn(1, 3, 16, 16)) == []
    assert not loaded.training
    assert isinstance(loaded.wide.weight_binarizer, FixedWeight)
    assert not loaded.wide.weight.requires_grad
    assert loaded.stem.weight.requires_grad
    # and can be packed again
    report = pack(loaded, tmp_path / 'again.safetensors')
    assert report.parts['bits of binary weights'] > 0
    assert (tmp_path / 'again.safetensors').stat().st_size == path.stat().st_size


def test_statistics_of_copies_are_stored_once(tmp_path):
    model = shaken(Net('temperature'))
    pack(model, tmp_path / 'net.safetensors')
    content, metadata = read_packed(tmp_path / 'net.safetensors')
    assert content['norm.running_mean'].numel() == 6
    assert content['norm.weight'].numel() == 48
    assert not [key for key in content if 'temperature' in key or 'tracked' in key]
    assert not [key for key in content if key.endswith('scale')]
    assert metadata['version'] == mmesbnn.__version__


def test_statistics_that_differ_are_stored_whole(tmp_path):
    model = shaken(Net('temperature'))
    model.norm.running_mean[-1] += 1
    x = torch.randn(1, 3, 16, 16)
    path = tmp_path / 'net.safetensors'
    ours, theirs = same_after_packing(model, Net('temperature'), x, path)
    assert read_packed(path)[0]['norm.running_mean'].numel() == 48
    assert torch.equal(ours, theirs)


def test_half_rounds_by_at_most_the_stated_amount(tmp_path):
    model = shaken(Net('scaled_sign'))
    model.stem.bias.data[0] = 1e5  # outside of half precision
    model.norm.running_var[:] = 1e-6  # its ratio to eps matters
    model.wide.weight.data[0] *= 1e-5
    path = tmp_path / 'net.safetensors'
    report = pack(model, path, half=True)
    loaded = load_packed(path, Net('scaled_sign'))
    assert set(report.kept_full) == {'stem.bias', 'norm.running_var', 'wide.weight.scale'}
    assert 0 < report.rounding <= 2**-11
    for name, value in model.named_parameters():
        if 'weight' in name and 'norm' not in name and 'stem' not in name:
            continue
        error = (loaded.get_parameter(name) - value).abs()
        assert (error <= (value.abs() * 2**-11).clamp(min=2**-25)).all(), name
    for layer in ('grouped', 'wide'):
        ours = model.get_submodule(layer).effective_weight()
        theirs = loaded.get_submodule(layer).effective_weight()
        assert torch.equal(ours.sign(), theirs.sign())
        assert ((theirs - ours).abs() <= ours.abs() * 2**-11).all()
    assert 'kept at full precision: ' in report.table()
    assert pack(model, path).size > report.size
    assert 'nothing is rounded' in pack(model, path).table()


def test_large_networks_show_how_far_they_are(tmp_path, monkeypatch, capsys):
    pack(shaken(Net('scaled_sign')), tmp_path / 'net.safetensors')
    assert capsys.readouterr().err == ''
    monkeypatch.setattr('mmesbnn.deploy.packed.collecting._LARGE', 10)
    pack(shaken(Net('scaled_sign')), tmp_path / 'net.safetensors')
    shown = capsys.readouterr().err
    assert 'packing' in shown
    assert 'checking' in shown
    assert '100%' in shown


# what cannot be packed ------------------------------------------------------------


def soft(model):
    set_temperature(model, 0.25)


def nan(model):
    model.wide.weight.data[0, 0, 0, 0] = float('nan')


def infinite(model):
    model.wide.weight.data[0, 0, 0, 0] = float('inf')


def broken_bias(model):
    model.linear.bias.data[0] = float('nan')


@pytest.mark.parametrize(
    ('binarizer', 'spoil', 'words'),
    [
        ('temperature', soft, r'grouped: its temperature is 0\.25.*3 more'),
        ('scaled_sign', nan, 'wide: its weights hold NaN'),
        ('temperature', infinite, 'wide: its weights hold NaN or infinity'),
        ('real', lambda model: None, 'grouped: its weights are real'),
        ('scaled_sign', broken_bias, r'linear\.bias: it holds NaN'),
    ],
)
def test_names_what_cannot_be_packed(binarizer, spoil, words, tmp_path):
    model = shaken(Net(binarizer))
    spoil(model)
    path = tmp_path / 'net.safetensors'
    path.write_text('before')
    with pytest.raises(PackError, match=words):
        pack(model, path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == 'before'


def test_a_weight_of_three_values(tmp_path):
    model = BinaryLinear(4, 2, weight_binarizer=dict(type='scaled_sign', zero=0))
    model.weight.data[1, 2] = 0
    with pytest.raises(PackError, match='take 3 values in output channel 1'):
        pack(model, tmp_path / 'x.safetensors')


def test_nothing_binary(tmp_path):
    with pytest.raises(PackError, match='Linear has no binary layer'):
        pack(nn.Linear(3, 3), tmp_path / 'x.safetensors')


def test_targets_that_cannot_be_written(tmp_path):
    with pytest.raises(IsADirectoryError):
        pack(BinaryLinear(3, 3), tmp_path)
    with pytest.raises(FileNotFoundError, match='nowhere'):
        pack(BinaryLinear(3, 3), tmp_path / 'nowhere' / 'x.safetensors')


# what binarize() replaced ------------------------------------------------------------


class Plain(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 8, 3),
            nn.Conv2d(8, 8, 3),
            nn.Flatten(),
            nn.Linear(8 * 16, 8),
            nn.Linear(8, 2),
        )


BINARIZED = dict(
    tau=2, es_groups=2, spread=0.25, sign=dict(type='hard_tanh', clip=1.5), pad_value=1
)


def binarized(**options):
    model = Plain()
    mmesbnn.binarize(model, keep='3', **options)
    return shaken(model)


def test_a_float_network_is_binarized_as_the_packed_one_was(tmp_path):
    model, image = binarized(**BINARIZED), torch.randn(2, 3, 8, 8)
    pack(model, tmp_path / 'net.safetensors')
    loaded = load_packed(tmp_path / 'net.safetensors', Plain())
    assert type(loaded[1]) is ESConv2d and type(loaded[3]) is nn.Linear
    assert loaded[1].conv.sign.clip == 1.5 and loaded[1].conv.pad_value == 1
    assert torch.equal(loaded(image), model(image))
    # a second time, and into a network that is already binary
    pack(loaded, tmp_path / 'again.safetensors')
    again = load_packed(tmp_path / 'again.safetensors', binarized(**BINARIZED))
    assert torch.equal(again(image), model(image))


def test_a_part_that_was_binarized_is_named(tmp_path):
    model, plain = (nn.ModuleDict(dict(body=Plain(), head=nn.Linear(2, 2))) for _ in range(2))
    mmesbnn.binarize(model['body'])
    pack(shaken(model), tmp_path / 'net.safetensors')
    loaded = load_packed(tmp_path / 'net.safetensors', plain)
    assert type(loaded['body'][1]) is ESConv2d and type(loaded['head']) is nn.Linear
    image = torch.randn(1, 3, 8, 8)
    assert torch.equal(loaded['body'](image), model['body'](image))


def test_a_network_of_a_config_that_was_binarized_is_built(tmp_path):
    pytest.importorskip('mmpretrain')
    cfg = dict(
        default_scope='mmpretrain',
        model=dict(
            type='ImageClassifier',
            backbone=dict(type='ResNet_CIFAR', depth=18, base_channels=8, stem_channels=8),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=3, in_channels=64),
        ),
    )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = build_model(Config(cfg))
    mmesbnn.binarize(model.backbone, tau=2, keep='*downsample*')
    pack(shaken(model), tmp_path / 'net.safetensors', config=cfg)
    loaded = load_packed(tmp_path / 'net.safetensors')
    image = torch.randn(1, 3, 16, 16)
    assert torch.equal(loaded(image), model(image))


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        ('{', 'JSON'),
        ('{"parts":3}', 'parts=3'),
        ('{"parts":[{"module":"","layers":["1"]}]}', 'options'),
        ('{"parts":[{"module":"x","layers":["1"],"options":{}}]}', 'no module x'),
        ('{"parts":[{"module":"","layers":["9"],"options":{}}]}', 'no layer 9'),
        ('{"parts":[{"module":"","layers":["2"],"options":{}}]}', 'nothing to binarize'),
        ('{"parts":[{"module":"","layers":["1"],"options":{"tau":0}}]}', 'tau=0'),
        ('{"parts":[{"module":"","layers":["1"],"options":{"sign":"os.system"}}]}', 'os.system'),
    ],
)
def test_a_file_that_names_other_layers_or_options(content, words, tmp_path):
    from safetensors.torch import load_file, save_file

    path = tmp_path / 'net.safetensors'
    pack(binarized(), path)
    tensors, metadata = load_file(path), {**read_packed(path)[1], 'binarized': content}
    metadata['sha256'] = checksum(tensors, metadata)  # as an attacker would
    save_file(tensors, path, metadata)
    with pytest.raises(PackError, match=words):
        load_packed(path, Plain())


def test_options_that_are_modules_are_not_stored(tmp_path):
    model = binarized(sign=mmesbnn.binary.QuadraticSign())
    pack(model, tmp_path / 'net.safetensors')
    with pytest.raises(PackError, match='no binary layer'):
        load_packed(tmp_path / 'net.safetensors', Plain())


# what cannot be unpacked ----------------------------------------------------------


@pytest.fixture
def packed(tmp_path):
    path = tmp_path / 'net.safetensors'
    pack(shaken(Net('scaled_sign')), path)
    return path


def test_no_config_and_no_model(packed):
    with pytest.raises(PackError, match='holds no config: pass the model'):
        load_packed(packed)


@pytest.mark.skipif(os.name == 'nt', reason='names are text there')
def test_a_path_that_is_no_text(packed, tmp_path):
    folder = tmp_path / os.fsdecode(b'a\xff')
    folder.mkdir()
    path = shutil.copy(packed, folder / os.fsdecode(b'n\xfe.safetensors'))
    with pytest.raises(PackError, match=r'holds no config: pass the model'):
        load_packed(path)
    with pytest.raises(FileNotFoundError, match='no such file'):
        load_packed(f'{path}x')
    path.write_bytes(packed.read_bytes()[:50])
    with pytest.raises(PackError, match=r'truncated'):
        load_packed(path)


def test_truncated_file(packed):
    packed.write_bytes(packed.read_bytes()[:-10])
    with pytest.raises(PackError, match=r'(do not fit the file|truncated|no JSON)'):
        load_packed(packed, Net('scaled_sign'))


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='no such file'):
        load_packed(tmp_path / 'x.safetensors')


def test_another_safetensors_file(tmp_path):
    from safetensors.torch import save_file

    save_file({'x': torch.zeros(1)}, tmp_path / 'x.safetensors')
    with pytest.raises(PackError, match='not a packed network'):
        load_packed(tmp_path / 'x.safetensors')


@pytest.mark.parametrize(
    ('key', 'value', 'words'),
    [
        ('format', 'mmesbnn-packed-9', 'of a later format'),
        ('dtype', 'int32', "dtype 'int32'"),
        ('layout', 'AAAA', 'damaged'),
    ],
)
def test_spoiled_metadata(packed, key, value, words):
    from safetensors.torch import load_file, save_file

    tensors, (_, metadata) = load_file(packed), read_packed(packed)
    save_file(tensors, packed, {**metadata, key: value})
    with pytest.raises(PackError, match=words):
        load_packed(packed, Net('scaled_sign'))


def test_another_network(packed):
    narrow = Net('scaled_sign')
    narrow.wide = BinaryConv2d(24, 7, 3)
    with pytest.raises(PackError, match='wide does not fit the network'):
        load_packed(packed, narrow)
    larger = Net('scaled_sign')
    larger.more = BinaryLinear(3, 3)
    with pytest.raises(PackError, match='no bits for the layer more'):
        load_packed(packed, larger)
    other = Net('scaled_sign')
    other.extra = nn.Linear(1, 1)
    del other.wide
    message = r'are missing \(extra\.weight.*are unknown \(wide\.weight\.bits'
    with pytest.raises(PackError, match=message):
        load_packed(packed, other)


# networks of configs --------------------------------------------------------------


@pytest.fixture
def classifier(tmp_path):
    pytest.importorskip('mmpretrain')
    cfg = load_config(write_project(tmp_path))
    return cfg, shaken(build_model(cfg))


def test_a_classifier_comes_back_whole(classifier, tmp_path, monkeypatch):
    from mmpretrain import ImageClassificationInferencer

    cfg, model = classifier
    meta = {'classes': ('null', 'eins', 'zwei')}
    path = tmp_path / 'net.safetensors'
    pack(model, path, config=cfg, dataset_meta=meta)
    # for any current scope
    forget_runners(monkeypatch)
    loaded = load_packed(path)
    images = [str(file) for file in sorted(tmp_path.glob('val/*/*.png'))[:4]]
    model._config, model._dataset_meta = cfg, meta
    ours = ImageClassificationInferencer(model)(images)
    theirs = ImageClassificationInferencer(loaded)(images)
    for one, other in zip(ours, theirs):
        np.testing.assert_array_equal(one['pred_scores'], other['pred_scores'])
        assert one['pred_class'] == other['pred_class']
        assert other['pred_class'] in meta['classes']


def test_names_that_the_data_set_knows_are_left_out(classifier, tmp_path):
    cfg, model = classifier
    cfg.test_dataloader.dataset = dict(type='ImageNet', pipeline=[])
    with DATASETS.switch_scope_and_registry('mmpretrain') as registry:
        meta = registry.get('ImageNet').METAINFO
    path = tmp_path / 'net.safetensors'
    pack(model, path, config=cfg, dataset_meta=meta)
    assert 'dataset_meta' not in read_packed(path)[1]
    assert load_packed(path)._dataset_meta == meta


def test_what_a_config_may_not_build(classifier, tmp_path):
    from safetensors.torch import load_file, save_file

    cfg, model = classifier
    path, trace = tmp_path / 'net.safetensors', tmp_path / 'trace'
    pack(model, path, config=cfg)
    evil = {'model': {'type': 'os.mkdir', 'path': str(trace)}}
    metadata = {**read_packed(path)[1], 'config': json.dumps(evil)}
    tensors = load_file(path)
    metadata['sha256'] = checksum(tensors, metadata)  # as an attacker would
    save_file(tensors, path, metadata)
    with pytest.raises(PackError, match=r"type='os\.mkdir' .* is not a component"):
        load_packed(path)
    assert not trace.exists()
    # such a config is not packed either
    cfg.model.head = dict(type='os.mkdir')
    with pytest.raises(PackError, match=r"type='os\.mkdir'"):
        pack(model, path, config=cfg)


def test_a_network_that_is_too_large_for_the_weights(classifier, tmp_path):
    from safetensors.torch import load_file, save_file

    cfg, model = classifier
    path, large = tmp_path / 'net.safetensors', tmp_path / 'large.safetensors'
    pack(model, path, config=cfg)
    metadata, tensors = read_packed(path)[1], load_file(path)
    config = json.loads(metadata['config'])
    config['model']['head'] = dict(type='LinearClsHead', num_classes=2**22, in_channels=24)
    metadata['config'] = json.dumps(config)
    metadata['sha256'] = checksum(tensors, metadata)  # as an attacker would
    save_file(tensors, large, metadata)
    words = r'large\.safetensors: .*a network of more than \d+ bytes, but its weights are \d+'
    with pytest.raises(PackError, match=words):
        load_packed(large)
    with pytest.raises(PackError, match='is not of this network'):
        load_packed(large, max_bytes=2**30)  # a user who allows it gets the other reason
    state = dict(state_dict=model.state_dict())
    large = tmp_path / 'large.pth'
    torch.save({**state, 'meta': dict(model=config['model'])}, large)
    with pytest.raises(InputError, match=r'large\.pth.*a network of more than \d+ bytes'):
        pack_checkpoint(large, tmp_path / 'out.safetensors')


def test_a_type_that_is_not_registered(classifier, tmp_path):
    cfg, model = classifier
    cfg.model.neck = dict(type='MyOwnNeck')
    pack(model, tmp_path / 'net.safetensors', config=cfg)
    with pytest.raises(PackError, match=r'MyOwnNeck.*trust_stored_config=True'):
        load_packed(tmp_path / 'net.safetensors')
    with pytest.raises(PackError, match=r'cannot build the network: .*MyOwnNeck'):
        load_packed(tmp_path / 'net.safetensors', trust_stored_config=True)


class MyOwnHead(nn.Identity):
    """A component of a user's project."""


def test_own_components_need_trust_or_the_model(classifier, tmp_path):
    cfg, model = classifier
    path = tmp_path / 'net.safetensors'
    own = copy.deepcopy(cfg)
    own.model.neck = dict(type='MyOwnHead')
    pack(model, path, config=own)
    MODELS.register_module(module=MyOwnHead)
    try:
        with pytest.raises(PackError, match=r'MyOwnHead.*is not a component'):
            load_packed(path)
        loaded = load_packed(path, trust_stored_config=True)
    finally:
        MODELS.module_dict.pop('MyOwnHead')
    assert isinstance(loaded.neck, MyOwnHead)
    assert 'data_root' in loaded._config.test_dataloader.dataset
    load_packed(path, build_model(cfg))


def narrow_unet():
    return dict(
        type='BIDiffSRUNet',
        base_channels=8,
        num_levels=3,
        blocks_per_level=1,
        norm_groups=2,
        fp_levels=(0,),
        tau=2,
    )


@pytest.mark.parametrize('alone', [True, False])
def test_super_resolution(alone, tmp_path):
    pytest.importorskip('diffusers')
    path = tmp_path / 'net.safetensors'
    if alone:  # a model of diffusers knows its own config
        model = shaken(MODELS.build(narrow_unet()))
        pack(model, path)
        unet, loaded = model, load_packed(path)
    else:
        options = {'model.unet': dict(narrow_unet(), _delete_=True)}
        name = 'es-bi-diffsr-x2_4xb4_df2k.py'
        cfg = load_config(ROOT / 'configs' / 'bi_diffsr' / name, options)
        model = shaken(build_model(cfg))
        pack(model, path, config=cfg)
        unet, loaded = model.unet, load_packed(path).unet
    sample, timestep = torch.randn(2, 6, 16, 16), torch.tensor([3, 1500])
    with torch.no_grad():
        expected = unet(sample, timestep).sample
        assert torch.equal(loaded(sample, timestep).sample, expected)
    assert loaded.config.fp_levels == (0,)


@pytest.mark.slow
def test_detectors(tmp_path):
    pytest.importorskip('mmdet')
    pytest.importorskip('mmcv.ops')
    from tests.deploy.runtime.test_detection import FCOS, make_config

    cfg = make_config(FCOS)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = shaken(build_model(cfg))
    path = tmp_path / 'net.safetensors'
    pack(model, path, config=cfg)
    loaded = load_packed(path)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        ours, theirs = model(x, mode='tensor'), loaded(x, mode='tensor')
    for one, other in zip(tree_leaves(ours), tree_leaves(theirs), strict=True):
        assert torch.equal(one, other)
    assert loaded._dataset_meta['classes'] == ('cat', 'dog', 'eel')


def two_stage(name):
    """Return a narrow two-stage detector's config, of this repository or of mmdet."""
    from mmengine.config import Config

    if name == 'stock':
        import mmdet

        base = Path(mmdet.__file__).parent / '.mim' / 'configs' / 'faster_rcnn'
        cfg = Config.fromfile(base / 'faster-rcnn_r50_fpn_1x_coco.py')
        conv = dict(type='ESConv2d', tau=2)
        cfg.merge_from_dict(
            {
                'model.backbone.base_channels': 4,
                'model.backbone.init_cfg': None,
                'model.backbone.depth': 18,
                'model.backbone.conv_cfg': conv,
                'model.neck.in_channels': [4, 8, 16, 32],
            }
        )
    else:
        cfg = load_config(
            ROOT / 'configs' / name,
            {
                'model.backbone.widths': (8, 8, 16, 256),
                'model.backbone.init_cfg': None,
                'model.roi_head.shared_head.init_cfg': None,
            },
        )
    cfg.model.test_cfg.rpn.update(nms_pre=100, max_per_img=20)
    cfg.model.test_cfg.rcnn.score_thr = 0.0
    return cfg


@pytest.mark.slow
@pytest.mark.parametrize('name', ['bidet/bidet-faster-rcnn_r18-c4_8xb4-50e_voc0712.py', 'stock'])
def test_two_stage_detectors(name, tmp_path):
    pytest.importorskip('mmdet')
    pytest.importorskip('mmcv.ops')
    from mmdet.structures import DetDataSample

    cfg = two_stage(name)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = shaken(build_model(cfg))
    path = tmp_path / 'net.safetensors'
    pack(model, path, config=cfg)
    loaded = load_packed(path)
    x = torch.randn(1, 3, 64, 96)
    meta = dict(img_shape=(64, 96), ori_shape=(64, 96), scale_factor=(1.0, 1.0))
    sample = DetDataSample(metainfo=meta)
    with torch.no_grad():
        ours = model.predict(x, [sample.clone()])[0].pred_instances
        theirs = loaded.predict(x, [sample.clone()])[0].pred_instances
    assert len(ours) > 5
    for key in ('bboxes', 'scores', 'labels'):
        assert torch.equal(ours[key], theirs[key])


@pytest.mark.slow
def test_es_bnext_tiny_takes_at_most_nine_megabytes(tmp_path):
    pytest.importorskip('mmpretrain')
    cfg = load_config(ROOT / 'configs' / 'es_bnext_tiny.py')
    model = shaken(build_model(cfg))
    report = pack(model, tmp_path / 'net.safetensors', config=cfg, half=True)
    assert report.parts['bits of binary weights'] == 28_253_184 / 8
    assert report.kept_full == []
    assert report.size <= 9_000_000


#: mmdet's own components, with options that make large ones small.
DETECTORS = {
    'tood/tood_r50_fpn_1x_coco': dict(depth=18),
    'mask_rcnn/mask-rcnn_r50_fpn_1x_coco': dict(depth=18),
    'centernet/centernet_r18_8xb16-crop512-140e_coco': {},
}


def binarized_detector(name):
    """A stock detector made binary, ready to find boxes whatever their scores; its config."""
    import mmdet

    cfg = load_config(Path(mmdet.__file__).parent / '.mim' / 'configs' / f'{name}.py')
    cfg.model.backbone.update(DETECTORS[name], init_cfg=None)
    if DETECTORS[name]:
        cfg.model.neck.in_channels = [64, 128, 256, 512]
    test = cfg.model.test_cfg
    test.get('rcnn', test).score_thr = 0.0
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = build_model(cfg)
    mmesbnn.binarize(model, tau=2)
    return model.eval(), cfg


@pytest.mark.slow
@pytest.mark.parametrize('name', DETECTORS)
def test_binarized_detectors(name, tmp_path):
    pytest.importorskip('mmdet')
    pytest.importorskip('mmcv.ops')
    from mmdet.structures import DetDataSample

    model, cfg = binarized_detector(name)
    shaken(model)
    path = tmp_path / 'net.safetensors'
    pack(model, path, config=cfg)
    x, size = torch.randn(1, 3, 96, 128), (96, 128)
    meta = dict(img_shape=size, ori_shape=size, batch_input_shape=size, scale_factor=(1.0, 1.0))
    sample = DetDataSample(metainfo=dict(meta, border=[0, 96, 0, 128]))
    with torch.no_grad():
        ours = model.predict(x, [sample.clone()])[0].pred_instances
    assert len(ours) > 5
    # into a network that is binary, and into one that the stored config and options make
    for target in (binarized_detector(name)[0], None):
        with torch.no_grad():
            loaded = load_packed(path, target).predict(x, [sample.clone()])[0].pred_instances
        for key, value in ours.items():
            assert torch.equal(loaded[key], value)
