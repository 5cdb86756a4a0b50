"""Hostile configs in files run nothing, open nothing, and are refused in one line.

Python's audit events tell of every file that is opened, every module that is imported
and every process or connection that is started while a file is loaded.
"""

import contextlib
import copy
import gc
import inspect
import json
import os
import pickle
import resource
import sys
from importlib.util import find_spec

import pytest
import torch
from mmengine.config import Config

import mmesbnn  # noqa: F401
from mmesbnn.analysis import build_model, load_config
from mmesbnn.conversion import load_sr_pipeline
from mmesbnn.deploy import load_packed, pack, pack_checkpoint
from mmesbnn.deploy.packed.checked_config import NO_WORDS, names_only
from mmesbnn.deploy.packed.file import read_packed
from mmesbnn.deploy.packed.stored_components import LISTED, SCOPES, listed_components
from mmesbnn.deploy.tasks.trained import load_trained
from mmesbnn.errors import MmesbnnError
from mmesbnn.project import scope_of
from tests.analysis.digits import set_temperature
from tests.deploy.packed.test_checked_config import PLAIN

pytest.importorskip('mmpretrain')
safetensors = pytest.importorskip('safetensors.torch')

#: Events that a file must never cause, for any path.
FORBIDDEN = {
    'os.system',
    'os.exec',
    'os.posix_spawn',
    'subprocess.Popen',
    'socket.connect',
    'socket.getaddrinfo',
    'pty.spawn',
}

_watch = {'bait': None, 'seen': []}


def _hook(event, args):
    bait = _watch['bait']
    if bait is None:
        return
    if event in FORBIDDEN:
        _watch['seen'].append(f'{event} {args!r}'[:200])
    elif event in ('open', 'import', 'os.mkdir') and args:
        named = os.fspath(args[0]) if isinstance(args[0], (str, os.PathLike)) else ''
        if str(bait) in named or named.partition('.')[0].startswith('bait_'):
            _watch['seen'].append(f'{event} {named}')


sys.addaudithook(_hook)


@contextlib.contextmanager
def watched(bait):
    """Fail if the block opens, imports or starts anything that is forbidden."""
    _watch.update(bait=bait, seen=[])
    try:
        yield
    finally:
        _watch['bait'] = None
    assert not _watch['seen'], _watch['seen']


class Bomb:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (self.trace,)


@pytest.fixture(scope='module')
def bait(tmp_path_factory):
    """Write a folder of files that leave a trace when they are read."""
    folder = tmp_path_factory.mktemp('bait')
    trace = str(folder / 'trace')
    for name in ('bait.pkl', 'bait.pth', 'bait_answers'):
        (folder / name).write_bytes(pickle.dumps(Bomb(trace)))
    code = f'import os; os.makedirs({trace!r}, exist_ok=True)\n'
    for name in (
        'bait_module.py',
        'FPN.py',
        'bait_scope/__init__.py',
        'bait_scope/registry.py',
        'bait_config.py',
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(code)
    return folder


@pytest.fixture
def here(bait, monkeypatch):
    """Make the bait the current folder and add it to the path, as a careless user might."""
    monkeypatch.chdir(bait)
    monkeypatch.syspath_prepend(bait)
    return bait


@pytest.fixture(scope='module')
def network(tmp_path_factory):
    """Write a small classifier's config and its packed file."""
    config = copy.deepcopy(PLAIN)
    config['model']['backbone'] = dict(
        type='BNext', arch=dict(channels=[16, 32]), tau=2, stem_stride=1
    )
    config['model']['head']['in_channels'] = 32
    cfg = Config(config)
    path = tmp_path_factory.mktemp('network') / 'net.safetensors'
    with scope_of(cfg):
        model = build_model(cfg)
    set_temperature(model, 1e-8)
    pack(model, path, config=cfg)
    return config, model.state_dict(), path


def attacks(bait):
    """Return values that do harm if something builds or reads them."""
    path, trace = str(bait / 'bait.pkl'), str(bait / 'trace')
    url = 'http://127.0.0.1:9/bait.pkl'
    calls = [
        dict(type='os.system', command=f'mkdir {trace}'),
        dict(type='subprocess.check_output', args=['mkdir', trace]),
        dict(type='os.mkdir', path=trace),
        dict(type='mmengine.fileio.load', file=path),
        dict(type='torch.load', f=path, weights_only=False),
        dict(type='bait_module'),
        dict(type='bait_module.Thing'),
        dict(type='FPN'),
        dict(type='builtins.eval', source='1'),
        dict(type='VQAGenerationHead', answer_list_path=path),
        dict(type='mmpretrain.VQAGenerationHead', answer_list_path=url),
        dict(type='HuggingFaceClassifier', model_name=str(bait), trust_remote_code=True),
        dict(type='TimmClassifier', model_name=f'local-dir:{bait}', pretrained=True),
        dict(type='TIMMBackbone', model_name=f'hf-hub:{url}', pretrained=True),
        dict(type='ArcFaceClsHead', num_classes=3, in_channels=8, margins=path),
        dict(type='ImageToImageRetriever', prototype=path, image_encoder=[]),
        dict(type='BinarizedUNet2DModel', pretrained=str(bait)),
        dict(type='BlipTokenizer', name_or_path=str(bait)),
        dict(type='mmdet.KnowledgeDistillationSingleStageDetector', teacher_config=path),
        dict(type='mmdet.LAD', teacher_ckpt=path),
        dict(type='LoadImageFromFile', backend_args=dict(backend='http')),
        dict(type='torchvision/ConvertImageDtype', dtype='float or exit()'),
        dict(type='breakpoint'),
        dict(type='DistillClassifier', teachers=dict(main=dict(checkpoint=path))),
        dict(type='BNext', _scope_='bait_scope'),
        dict(type='bait_scope.BNext'),
    ]
    words = [
        path,
        url,
        'bait_answers',
        '~/bait',
        '../bait.pkl',
        '__import__("os")',
        'bait_module.Thing',
        's3://bait',
        '\x00',
        'a' * 10_000,
    ]
    wholes = [
        None,
        [],
        {},
        [[]],
        -1,
        10**30,
        1e400,
        True,
        [None] * 3,
        {'type': None},
        {'type': ['os.system']},
        {'type': {}},
        {'': 1},
    ]
    return calls, words, wholes


KEYS = [
    'answer_list_path',
    'pretrained',
    'checkpoint',
    'teacher_config',
    'model_name',
    'trust_remote_code',
    'custom_imports',
    '_delete_',
    '_base_',
    '_scope_',
    'init_cfg',
    'ann_file',
    'data_root',
    'backend_args',
    'file_client_args',
    'norm_cfg',
    'act_cfg',
    'loss',
    'type',
    'topk',
    'cal_acc',
    'arch',
    'metainfo',
    'pipeline',
    'train_cfg',
]


def places(config, path=()):
    """Yield every dict and list in a config."""
    if isinstance(config, dict):
        yield config
        for value in config.values():
            yield from places(value)
    elif isinstance(config, (list, tuple)):
        if isinstance(config, list):
            yield config
        for value in config:
            yield from places(value)


def hostile(rng, config, bait):
    """Return a config with one to three attacks."""
    config = copy.deepcopy(config)
    calls, words, wholes = attacks(bait)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        value = rng.choice(rng.choice([calls, calls, words, wholes]))
        if rng.random() < 0.2:
            value = dict(type='Pretrained', checkpoint=rng.choice(words))
        for _ in range(rng.choice([0, 0, 1, 2, 60])):
            value = rng.choice([[value], (value,), dict(a=value)])
        value = copy.deepcopy(value)  # it may already be there
        place = rng.choice(list(places(config)))
        if isinstance(place, list):
            place.insert(rng.randrange(len(place) + 1), value)
        else:
            place[rng.choice([*KEYS, *place])] = value
    if rng.random() < 0.5:  # a place where components are always built
        owner, key = (
            rng.choice(
                [
                    (config, 'data_preprocessor'),
                    (config, 'model'),
                    (config['model'], 'neck'),
                    (config['model'], 'head'),
                ]
            )
            if isinstance(config.get('model'), dict)
            else (config, 'model')
        )
        owner[key] = copy.deepcopy(rng.choice(calls))
    if rng.random() < 0.2:
        config['default_scope'] = rng.choice(['bait_scope', 'bait_module', '', 3, []])
    if rng.random() < 0.1:
        config[rng.choice(['test_evaluator', 'custom_imports'])] = rng.choice(calls)
    return config


def refused_or_harmless(call):
    """Run; allow only one-sentence errors of this package."""
    try:
        call()
    except (MmesbnnError, ImportError) as error:
        assert '\n' not in str(error)
        assert len(str(error)) < 1500


def test_packed_files(campaign, network, here, tmp_path):
    config, _, path = network
    metadata, tensors = read_packed(path)[1], safetensors.load_file(path)
    assert load_packed(path)._config.model.type == 'ImageClassifier'
    for rng in campaign.draws(least=60):
        text = json.dumps(hostile(rng, config, here))
        target = tmp_path / 'evil.safetensors'
        safetensors.save_file(tensors, target, {**metadata, 'config': text})
        load = rng.choice([load_packed, load_trained])
        with campaign.attempt(load.__name__), watched(here):
            refused_or_harmless(lambda: load(target))  # noqa: B023
    assert not (here / 'trace').exists()


def test_checkpoints(campaign, network, here, tmp_path):
    config, state, _ = network
    source, target = tmp_path / 'evil.pth', tmp_path / 'out.safetensors'
    for rng in campaign.draws(least=60):
        evil = hostile(rng, config, here)
        kind = rng.choice(['text', 'model', 'super-resolution'])
        if kind == 'text':
            meta = dict(cfg='\n'.join(f'{k} = {v!r}' for k, v in evil.items()))
        elif kind == 'model':
            meta = dict(model=evil.get('model'))
        else:
            meta = dict(
                model=dict(
                    type='SRDiffusion',
                    unet=evil.get('model'),
                    scale=2,
                    pipeline=evil.get('data_preprocessor'),
                )
            )
        torch.save(dict(meta=meta, state_dict=state), source)
        with campaign.attempt(kind), watched(here):
            if kind == 'super-resolution':
                refused_or_harmless(lambda: load_sr_pipeline(source))
            refused_or_harmless(lambda: pack_checkpoint(source, target))
    assert not (here / 'trace').exists()


def huge(rng, config):
    """Return a config with one to three numbers that request much memory."""
    config = copy.deepcopy(config)
    model = config['model']
    numbers = [*range(20), 10**3, 10**5, 10**6, 2**24, 10**9, 2**31, 2**40, 2**62, 10**30]
    large = rng.choice(numbers)
    for _ in range(rng.choice([1, 1, 2, 3])):
        change = rng.choice(
            [
                lambda: model['head'].update(num_classes=large),
                lambda: model['head'].update(in_channels=large),
                lambda: model['backbone'].update(tau=large),
                lambda: model['backbone'].update(in_channels=large),
                lambda: model['backbone'].update(arch=dict(channels=[large, large])),
                lambda: model['backbone'].update(arch=dict(channels=[16] * min(large, 5000))),
                lambda: model.update(
                    backbone=dict(
                        type='mmpretrain.SwinTransformer',
                        arch=dict(embed_dims=96, depths=[large], num_heads=[3]),
                    )
                ),
                lambda: model.update(
                    backbone=dict(type='mmpretrain.SwinTransformer', window_size=large)
                ),
                lambda: model.update(
                    backbone=dict(type='mmpretrain.VisionTransformer', img_size=large)
                ),
                lambda: model.update(
                    backbone=dict(type='mmpretrain.ResNet', depth=50, base_channels=large)
                ),
                lambda: model.update(
                    backbone=dict(type='mmpretrain.MlpMixer', arch='b', img_size=large)
                ),
                lambda: model.update(neck=dict(type='Linear', in_features=large, out_features=99)),
                lambda: config.update(data_preprocessor=dict(mean=[1.0] * min(large, 10**5))),
            ]
        )
        change()
    return config


def test_networks_larger_than_their_weights(campaign, network, tmp_path):
    config, state, path = network
    metadata, tensors = read_packed(path)[1], safetensors.load_file(path)
    packed, source = tmp_path / 'evil.safetensors', tmp_path / 'evil.pth'
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for rng in campaign.draws(least=8):
        evil = huge(rng, config)
        text = json.dumps(evil)
        safetensors.save_file(tensors, packed, {**metadata, 'config': text})
        torch.save(dict(meta=dict(model=evil['model']), state_dict=state), source)
        with campaign.attempt('memory'):
            refused_or_harmless(lambda: load_packed(packed))
            refused_or_harmless(lambda: pack_checkpoint(source, tmp_path / 'out.safetensors'))
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        gc.collect()  # errors keep partly built networks alive
        # in KB: a few networks of 256 MB, the size that any file may describe
        assert grown < 2**21, text


TEXTS = [
    'import os',
    "__import__('os')",
    '(' * 3000,
    '-' * 30_000 + '1',
    'x=' * 5000 + '1',
    'x = ' + '[' * 150 + ']' * 150,
    'a+' * 20_000 + '1',
    'x = {[]: 1}',
    'x = -"a"',
    'x = dict([1])',
    'x = dict({**y})',
    'x = {**y}',
    "x = f'{y}'",
    'x = b"1"',
    'x = ...',
    'x = 1j',
    'x = ' + '9' * 5000,
    'x = 0x' + 'f' * 5000,
    '\x00',
    'x = lambda: 1',
    'model = 3',
    'model = dict(type=3)',
    "model = dict(type='')",
    'x.y = 1',
    'x: int = 1',
    'model = dict(type=model)',
    'x = (y := 1)',
    'x = "' + 'a' * 2**21 + '"',
]


def test_texts(campaign, network, here, tmp_path):
    _, state, path = network
    metadata, tensors = read_packed(path)[1], safetensors.load_file(path)
    source, target = tmp_path / 'evil.pth', tmp_path / 'evil.safetensors'
    for rng in campaign.draws(least=len(TEXTS), most=10 * len(TEXTS)):
        text = '\n'.join(rng.sample(TEXTS, rng.choice([1, 1, 2])))
        torch.save(dict(meta=dict(cfg=text), state_dict=state), source)
        with campaign.attempt('text'), watched(here), pytest.raises(MmesbnnError):
            pack_checkpoint(source, target)
        depth = rng.choice([30, 1000, 100_000])
        text = rng.choice(
            [
                '[' * depth,
                '{"model":' * depth,
                text,
                '{"__tuple__": 3}',
                '{"model": {"type": {"__tuple__": [1]}}}',
            ]
        )
        safetensors.save_file(tensors, target, {**metadata, 'config': text})
        with campaign.attempt('json'), watched(here), pytest.raises(MmesbnnError):
            load_packed(target)


TAGS = [
    'object/apply:os.system',
    'object/new:os.mkdir',
    'name:os.system',
    'module:bait_module',
    'object:bait_module.Thing',
    'object/apply:eval',
    'object/apply:subprocess.Popen',
    'name:bait_module.Thing',
]


def test_yaml(campaign, here, tmp_path):
    for rng in campaign.draws(least=20):
        tag = f"!!python/{rng.choice(TAGS)} ['{here}/trace']"
        evil = tmp_path / rng.choice(['evil.yaml', 'evil.yml'])
        evil.write_text(
            rng.choice(['a: {0}\n', 'model: {{type: {0}}}\n', '- {0}\n', '? {0}\n: 1\n']).format(
                tag
            )
        )
        config = tmp_path / 'config.py'
        config.write_text(f"_base_ = ['./{evil.name}']\nmodel = dict(type='BNext')\n")
        with campaign.attempt('yaml'), watched(here), pytest.raises(MmesbnnError):
            load_config(rng.choice([evil, config]))
    assert not (here / 'trace').exists()


def _guess(name):
    """Return an argument that most constructors accept."""
    words = dict(arch='tiny', type='x', depth=18, in_channels=8, num_classes=3)
    return words.get(name, 8)


def test_listed_components_open_nothing(campaign, here):
    scopes = [scope for scope in SCOPES if find_spec(scope)]
    names = [
        (name, scope)
        for scope in scopes
        for name in sorted(LISTED['model'][scope] | LISTED['model']['mmcv'])
    ]
    for rng in campaign.draws(least=150):
        name, scope = rng.choice(names)
        for component in listed_components('model', name, scope):
            parameters = inspect.signature(component).parameters.values()
            options = {
                p.name: _guess(p.name)
                for p in parameters
                if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
            }
            named = [
                p.name
                for p in parameters
                if p.kind is not p.VAR_POSITIONAL and p.name not in NO_WORDS
            ]
            named += ['init_cfg', 'norm_cfg'] if 'options' in named else []
            for key in rng.sample(named, min(len(named), 3)):
                lure = rng.choice(['bait.pkl', str(here / 'bait.pkl'), dict(type='bait_module')])
                options[key] = lure
            quiet = contextlib.suppress(Exception)
            with campaign.attempt(scope), watched(here), names_only(), quiet:
                component(**options)
