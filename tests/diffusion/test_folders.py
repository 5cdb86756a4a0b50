"""A folder of diffusers is data: it runs no code and loads nothing from a hub."""

import json
import os
import shutil
import socket

import pytest
import torch

pytest.importorskip('diffusers')

import diffusers
from diffusers import UNet2DModel
from safetensors.torch import load_file, save_file

from mmesbnn.binary import binary_layers
from mmesbnn.checkpoints import bounded
from mmesbnn.conversion import load_sr_pipeline
from mmesbnn.diffusion import (
    BIDiffSRUNet,
    SRDiffusionPipeline,
    build_binarized_unet,
    folders,
    load_binarized,
)
from mmesbnn.diffusion.binarized import BinarizedUNet2DModel
from mmesbnn.errors import MmesbnnError


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp('saved')
    unet = BIDiffSRUNet(
        base_channels=8, num_levels=2, blocks_per_level=1, norm_groups=2, fp_levels=()
    )
    SRDiffusionPipeline(unet).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError('the network was asked for')

    monkeypatch.setattr(socket.socket, 'connect', refuse)
    monkeypatch.setattr(socket, 'getaddrinfo', refuse)
    return shutil.copytree(saved, tmp_path / 'pipeline')


def change(path, **entries):
    content = {**json.loads(path.read_text()), **entries}
    path.write_text(json.dumps({k: v for k, v in content.items() if v != 'drop'}))


EVIL = "import pathlib; pathlib.Path('{trace}').touch()\nclass Evil: pass\n"


@pytest.mark.parametrize(
    ('name', 'entries', 'told'),
    [
        ('model_index.json', dict(unet=['os', 'system']), 'describes a system'),
        ('model_index.json', dict(unet=['evil', 'BIDiffSRUNet']), 'not of .evil'),
        ('model_index.json', dict(unet=['evil', 'Evil']), 'describes a Evil'),
        ('model_index.json', dict(unet=[['a'], 3]), 'describes a 3'),
        ('model_index.json', dict(unet={'a': 1}), 'names no class'),
        ('model_index.json', dict(unet='drop'), 'names no unet'),
        ('model_index.json', dict(vae=['evil', 'Evil']), 'unknown part vae'),
        ('model_index.json', dict(scheduler=['diffusers', 'FluxPipeline']), 'known'),
        ('model_index.json', dict(_class_name=['None', 'Evil']), 'name of a class'),
        ('model_index.json', dict(custom_pipeline='a/b'), 'not supported'),
        ('unet/config.json', dict(_class_name='UNet2DModel'), 'model_index'),
        ('unet/config.json', dict(quantization_config={'x': 1}), 'not supported'),
        ('unet/config.json', dict(auto_map={'x': 'y'}), 'not supported'),
        ('unet/config.json', dict(base_channels='eight'), 'unet|pipeline'),
        ('unet/config.json', dict(base_channels=2**14), 'a network of more than'),
        ('scheduler/scheduler_config.json', dict(_class_name='drop'), '_class_name'),
        ('scheduler/scheduler_config.json', dict(beta_schedule='x'), 'beta|x'),
        ('scheduler/scheduler_config.json', dict(num_train_timesteps=10**9), 'at most 1000000'),
        ('scheduler/scheduler_config.json', dict(solver_order=10**9), 'at most 1000000'),
        ('scheduler/scheduler_config.json', dict(steps_offset=0.5), 'steps_offset=0.5 must .* int'),
        ('scheduler/scheduler_config.json', dict(clip_sample_range='x'), 'must be of .* float'),
        ('scheduler/scheduler_config.json', dict(trained_betas=2), 'trained_betas=2 .* list'),
    ],
)
def test_what_a_json_file_may_not_say(folder, name, entries, told):
    change(folder / name, **entries)
    with pytest.raises(MmesbnnError, match=told):
        SRDiffusionPipeline.from_pretrained(folder)
    with pytest.raises((MmesbnnError, OSError), match=told):
        load_sr_pipeline(folder)


def test_a_unet_larger_than_its_weights_is_not_built(folder, monkeypatch):
    monkeypatch.setattr(bounded, 'SPARE', 0)
    monkeypatch.setattr(folders, '_GROWTH', 4)
    change(folder / 'unet/config.json', blocks_per_level=10**6)
    for load in (BIDiffSRUNet.from_pretrained, load_sr_pipeline):
        with pytest.raises(MmesbnnError, match='a network of more than'):
            load(folder / 'unet')


@pytest.mark.parametrize('load', [BIDiffSRUNet.from_pretrained, load_sr_pipeline])
def test_weights_that_are_missing_are_named(folder, load):
    change(folder / 'unet/config.json', attn_levels=[1])
    told = r'the weights lack .*attention'
    with pytest.raises(MmesbnnError, match=f'unet: {told}'):
        load(folder / 'unet')
    for kwargs in ({}, dict(low_cpu_mem_usage=False)):
        with pytest.raises(MmesbnnError, match=told):
            SRDiffusionPipeline.from_pretrained(folder, **kwargs)


def unet_of_diffusers():
    return UNet2DModel(
        in_channels=6,
        out_channels=3,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        layers_per_block=1,
        down_block_types=['DownBlock2D'] * 2,
        up_block_types=['UpBlock2D'] * 2,
    )


@pytest.mark.parametrize(
    ('entries', 'told'),
    [
        (dict(layers_per_block=2), 'the weights lack down_blocks'),
        (dict(add_attention=False), 'the weights hold unknown entries: mid_block.attentions'),
    ],
)
def test_a_model_of_diffusers_has_the_weights_of_its_config(tmp_path, entries, told):
    SRDiffusionPipeline(unet_of_diffusers()).save_pretrained(tmp_path)
    change(tmp_path / 'unet/config.json', **entries)
    for load in (SRDiffusionPipeline.from_pretrained, load_sr_pipeline):
        for folder in (tmp_path, tmp_path / 'unet')[: 1 + (load is load_sr_pipeline)]:
            with pytest.raises(MmesbnnError, match=told):
                load(folder)


def test_old_names_of_attentions_are_read(tmp_path):
    unet = unet_of_diffusers()
    SRDiffusionPipeline(unet).save_pretrained(tmp_path)
    path = tmp_path / 'unet/diffusion_pytorch_model.safetensors'
    new = {'to_q': 'query', 'to_k': 'key', 'to_v': 'value', 'to_out.0': 'proj_attn'}
    state = load_file(path)
    for name, old in new.items():
        state = {key.replace(f'.{name}.', f'.{old}.'): value for key, value in state.items()}
    assert any('.proj_attn.' in key for key in state)
    save_file(state, path, metadata={'format': 'pt'})
    found = load_sr_pipeline(tmp_path).unet.state_dict()
    assert all(torch.equal(found[key], value) for key, value in unet.state_dict().items())


@pytest.mark.parametrize('kind', folders.SCHEDULERS)
def test_the_types_of_every_scheduler_are_accepted(kind, folder):
    path = folder / 'scheduler/scheduler_config.json'
    getattr(diffusers, kind)().save_pretrained(path.parent)
    change(folder / 'model_index.json', scheduler=['diffusers', kind])
    change(path, beta_start=0, clip_sample_range=1)
    folders.check_pipeline(folder)


@pytest.mark.parametrize('text', ['', '[]', '{"a": ' * 3000, '\x00', '{"a": NaN'])
@pytest.mark.parametrize('name', ['model_index.json', 'unet/config.json'])
def test_damaged_json(folder, name, text):
    (folder / name).write_text(text)
    with pytest.raises(MmesbnnError, match='is no'):
        SRDiffusionPipeline.from_pretrained(folder)


@pytest.mark.parametrize(
    'name',
    [
        'model_index.json',
        'unet',
        'unet/config.json',
        'scheduler',
        'unet/diffusion_pytorch_model.safetensors',
        'scheduler/scheduler_config.json',
    ],
)
def test_a_part_that_is_missing_is_not_fetched(folder, name):
    path = folder / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises((FileNotFoundError, ValueError), match=r'no such|no weights'):
        SRDiffusionPipeline.from_pretrained(folder)


@pytest.mark.parametrize(
    'load',
    [
        SRDiffusionPipeline.from_pretrained,
        BIDiffSRUNet.from_pretrained,
        BinarizedUNet2DModel.from_pretrained,
        load_binarized,
        load_sr_pipeline,
        lambda name: build_binarized_unet(pretrained=name),
    ],
)
def test_nothing_is_asked_of_a_hub(load, folder):
    with pytest.raises(FileNotFoundError, match='no such'):
        load('google/ddpm-cat-256')


@pytest.mark.parametrize('name', ['None.py', 'unet/mmesbnn.diffusion.bi_diffsr.py'])
def test_python_files_do_not_run(folder, name, tmp_path):
    trace = tmp_path / 'trace'
    (folder / name).write_text(EVIL.format(trace=trace))
    with pytest.raises(MmesbnnError, match='Python files'):
        SRDiffusionPipeline.from_pretrained(folder)
    assert not trace.exists()


def test_pickles_are_not_read(folder):
    weights = folder / 'unet' / 'diffusion_pytorch_model.safetensors'
    torch.save({}, weights.with_suffix('.bin'))
    weights.unlink()
    with pytest.raises(FileNotFoundError, match='no weights in safetensors'):
        SRDiffusionPipeline.from_pretrained(folder)
    index = weights.with_name('diffusion_pytorch_model.safetensors.index.json')
    (folder / 'unet' / 'x.safetensors').write_bytes(b'')
    for file, told in [
        ('diffusion_pytorch_model.bin', 'is not a safetensors file'),
        ('../model_index.json', 'as a file'),
        (3, 'as a file'),
    ]:
        index.write_text(json.dumps({'metadata': {}, 'weight_map': {'a': file}}))
        with pytest.raises(MmesbnnError, match=told):
            SRDiffusionPipeline.from_pretrained(folder)


@pytest.mark.parametrize('make', [os.mkfifo, os.mkdir])
def test_weights_are_plain_files(folder, make):
    """A pipeline waited without end for a named pipe next to its weights."""
    make(folder / 'unet' / 'other.safetensors')
    for load, place in [(BIDiffSRUNet, folder / 'unet'), (SRDiffusionPipeline, folder)]:
        with pytest.raises(MmesbnnError, match=r'other\.safetensors: is no plain file'):
            load.from_pretrained(place)


def test_indices_of_variants_are_checked(folder):
    unet = BIDiffSRUNet.from_pretrained(folder, subfolder='unet')
    unet.save_pretrained(folder / 'unet', variant='fp16', max_shard_size='20KB')
    again = BIDiffSRUNet.from_pretrained(folder / 'unet', variant='fp16')
    for key, value in unet.state_dict().items():
        assert torch.equal(again.state_dict()[key], value)
    index = folder / 'unet' / 'diffusion_pytorch_model.safetensors.index.fp16.json'
    content = json.loads(index.read_text())
    content['weight_map'] = dict.fromkeys(content['weight_map'], 'weights.bin')
    torch.save(unet.state_dict(), folder / 'unet' / 'weights.bin')
    index.write_text(json.dumps(content))
    with pytest.raises(MmesbnnError, match=r'weights\.bin is not a safetensors file'):
        BIDiffSRUNet.from_pretrained(folder / 'unet', variant='fp16')


def test_damaged_weights_end_in_one_sentence(folder):
    weights = folder / 'unet' / 'diffusion_pytorch_model.safetensors'
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(MmesbnnError, match=r'unet|pipeline') as caught:
        SRDiffusionPipeline.from_pretrained(folder)
    assert '\n' not in str(caught.value)
    with pytest.raises(MmesbnnError, match='unet') as caught:
        load_sr_pipeline(folder / 'unet')
    assert '\n' not in str(caught.value)


def test_a_whole_folder_is_loaded(folder):
    assert SRDiffusionPipeline.from_pretrained(folder).unet.config.base_channels == 8
    assert load_sr_pipeline(folder / 'unet').unet.config.base_channels == 8


@pytest.mark.parametrize('name', ['config.json', 'diffusion_pytorch_model.safetensors'])
def test_a_unet_is_read_from_a_whole_folder_only(folder, name):
    unet = BIDiffSRUNet.from_pretrained(folder, subfolder='unet')
    for key, value in SRDiffusionPipeline.from_pretrained(folder).unet.state_dict().items():
        assert torch.equal(unet.state_dict()[key], value)
    path = folder / 'unet' / name
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(MmesbnnError, match='unet') as caught:
        BIDiffSRUNet.from_pretrained(folder / 'unet')
    assert '\n' not in str(caught.value)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r'no such|no weights'):
        BIDiffSRUNet.from_pretrained(folder / 'unet')


def test_a_unet_of_another_class_is_refused(folder):
    change(folder / 'unet' / 'config.json', _class_name='UNet2DModel')
    with pytest.raises(MmesbnnError, match='describes a UNet2DModel; known are BIDiffSR'):
        BIDiffSRUNet.from_pretrained(folder / 'unet')


@pytest.mark.parametrize('kwargs', [{}, dict(low_cpu_mem_usage=False)])
def test_the_smallest_weights_keep_their_signs_in_half_precision(folder, kwargs):
    unet = BIDiffSRUNet.from_pretrained(folder / 'unet')
    for layer in binary_layers(unet).values():
        layer.weight.data.mul_(1e-9)
    unet.save_pretrained(folder / 'unet')
    again = BIDiffSRUNet.from_pretrained(folder / 'unet', torch_dtype=torch.float16, **kwargs)
    assert again.dtype == torch.float16
    for name, layer in binary_layers(again).items():
        assert torch.equal(layer.weight.sign(), binary_layers(unet)[name].weight.sign().half())
