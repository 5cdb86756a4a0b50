"""tools/upscale.py as a user runs it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip('diffusers')

from diffusers import UNet2DModel

from mmesbnn.conversion import convert_file, load_sr_pipeline
from mmesbnn.diffusion import BIDiffSRUNet, SRDiffusionPipeline, binarize_unet
from tests.reference.published_bi_diffsr import Network, random_state
from tests.reference.published_bnext import Network as BNext
from tests.reference.published_bnext import random_state as bnext_state
from tests.unets import ONE_LEVEL

TOOL = Path(__file__).resolve().parents[2] / 'tools' / 'upscale.py'
TINY = dict(base_channels=4, num_levels=2, blocks_per_level=1, norm_groups=2)
NET = Network(8, (1, 2), 1, 8)
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def run(*args, cwd):
    return subprocess.run(
        [sys.executable, TOOL, *map(str, args)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''},
    )


def unet():
    torch.manual_seed(0)
    return BIDiffSRUNet(**TINY, fp_levels=(0,), tau=2).eval()


@pytest.fixture
def folder(tmp_path):
    SRDiffusionPipeline(unet(), scale=3).save_pretrained(tmp_path / 'model')
    Image.fromarray(PIXELS).save(tmp_path / 'photo.png')
    return tmp_path


@pytest.mark.slow
def test_images_of_every_kind_are_upscaled(folder):
    clear = Image.fromarray(PIXELS).convert('RGBA')
    clear.putalpha(Image.fromarray(np.tile(np.arange(7, dtype=np.uint8) * 40, (5, 1))))
    clear.save(folder / 'clear.png')
    Image.fromarray(PIXELS[..., 0]).save(folder / 'grey.png')
    Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257).save(folder / 'deep.png')
    hole = Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257)
    hole.save(folder / 'hole.png', transparency=hole.getpixel((3, 2)))
    Image.fromarray(PIXELS[:1, :1]).save(folder / 'dot.png')
    names = ['photo', 'clear', 'grey', 'deep', 'hole', 'dot']
    options = ['--model', 'model', '--steps', 3, '--seed', 4, '--out', 'large']
    done = run(*(f'{name}.png' for name in names), *options, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == ('photo.png (7 x 5) -> large/photo_x3.png (21 x 15)')
    assert 'photo.png: 100%' in done.stderr
    assert '3/3' in done.stderr
    results = {name: Image.open(folder / f'large/{name}_x3.png') for name in names}
    assert {name: image.size for name, image in results.items()} == {
        'photo': (21, 15),
        'clear': (21, 15),
        'grey': (21, 15),
        'deep': (21, 15),
        'hole': (21, 15),
        'dot': (3, 3),
    }
    pipeline = SRDiffusionPipeline.from_pretrained(folder / 'model')
    expected = pipeline(Image.fromarray(PIXELS), num_inference_steps=3, seed=4).images[0]
    # in float32 a value near 0 may get another sign
    assert np.abs(np.asarray(results['photo'], int) - np.asarray(expected)).mean() < 1
    assert results['clear'].mode == 'RGBA'
    alpha = np.asarray(results['clear'])[..., 3]
    assert np.all(np.diff(alpha.astype(int), axis=1) >= 0)
    assert alpha.max() > 200
    holes = np.asarray(results['hole'])
    assert np.array_equal(holes[..., :3], results['deep'])
    assert holes[7, 10, 3] < 30 < 225 < holes[0, 0, 3]
    assert sorted(p.name for p in (folder / 'large').iterdir()) == sorted(
        f'{name}_x3.png' for name in names
    )


@pytest.mark.slow
def test_a_checkpoint_of_training_with_its_config(folder):
    config = (
        "custom_imports = dict(imports=['mmesbnn'])\n"
        f"model = dict(type='SRDiffusion', scale=2, unet=dict(type='BIDiffSRUNet', "
        f'fp_levels=(0,), tau=2, **{TINY}))\n'
    )
    (folder / 'config.py').write_text(config)
    state = {f'unet.{key}': value for key, value in unet().state_dict().items()}
    torch.save(dict(meta={}, state_dict=state), folder / 'iter_9.pth')
    options = ['--model', 'iter_9.pth', '--steps', 2, '--tile', 8, '--overlap', 4]
    done = run('photo.png', *options, '--config', 'config.py', cwd=folder)
    assert done.returncode == 0, done.stderr
    assert Image.open(folder / 'photo_x2.png').size == (14, 10)


@pytest.mark.parametrize(
    'args, message',
    [
        (['gone.png'], 'gone.png: no such file'),
        (['text.png'], 'text.png cannot be read as an image: not of a known'),
        (['photo.png', 'sub/photo.png'], 'photo.png would both become photo_x3.png'),
        (['photo.png', '--tile', '9'], 'tile_size=9 must be a positive multiple of 2'),
        (['photo.png', '--scale', '0'], "argument --scale: '0' must be an integer"),
        (['photo.png', '--steps', '5000'], 'num_inference_steps=5000 is more than the'),
        (['photo.png', '--model', 'gone'], 'cannot load gone: gone: no such file'),
        (['photo.png', '--model', 'sub'], 'sub: holds neither a pipeline'),
        (['photo.png', '--model', 'iter_9.pth'], 'iter_9.pth: does not describe its n'),
        (['photo_x3.png', 'photo.png'], 'overwrite the file that is read: photo_x3.png'),
        (['photo.png', 'sub/other.png'], 'Is a directory: other_x3.png'),
        (['photo.png', '--device', 'abacus'], 'cannot use --device abacus: '),
        (['photo.png', '--max-pixels', '34'], '7 x 5 pixels, more than max_pixels=34'),
        (['photo.png', '--max-pixels', '314'], 'upscaled, has 21 x 15 pixels, more'),
    ],
)
def test_errors_are_one_sentence(folder, args, message, monkeypatch, capsys):
    # in this process, because every start of the tool takes seconds
    (folder / 'sub').mkdir()
    (folder / 'text.png').write_text('no image')
    torch.save(dict(meta={}, state_dict={}), folder / 'iter_9.pth')
    Image.fromarray(PIXELS).save(folder / 'photo_x3.png')
    Image.fromarray(PIXELS).save(folder / 'sub/photo.png')
    Image.fromarray(PIXELS).save(folder / 'sub/other.png')
    (folder / 'other_x3.png').mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, 'argv', ['upscale.py', '--model', 'model', *args])
    names = {'__name__': '__main__', '__file__': str(TOOL)}
    with pytest.raises(SystemExit) as stop:
        exec(compile(TOOL.read_text(), TOOL, 'exec'), names)
    assert stop.value.code == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith('upscale.py: ')
    assert message in line
    assert sorted(path.name for path in folder.glob('*_x*.png')) == ['other_x3.png', 'photo_x3.png']


def test_images_that_cannot_be_used_are_left_out(folder, monkeypatch, capsys):
    (folder / 'text.png').write_text('no image')
    monkeypatch.chdir(folder)
    long = f'{"é" * 125}z.png'
    Image.fromarray(PIXELS).save(folder / long)
    arguments = ['text.png', 'photo.png', long, '--model', 'model', '--steps', '1']
    monkeypatch.setattr(sys, 'argv', ['upscale.py', *arguments])
    names = {'__name__': '__main__', '__file__': str(TOOL)}
    with pytest.raises(SystemExit) as stop:
        exec(compile(TOOL.read_text(), TOOL, 'exec'), names)
    assert stop.value.code == 1
    out, err = capsys.readouterr()
    assert 'photo.png (7 x 5) -> photo_x3.png (21 x 15)' in out
    assert 'text.png cannot be read' in err
    assert err.splitlines()[-1] == 'upscale.py: 1 of 3 images skipped'
    assert (folder / f'{"é" * 124}_x3.png').is_file()  # as the names of infer.py
    assert Image.open(folder / 'photo_x3.png').size == (21, 15)


# ------------------------------------------------------------------ what can be loaded


def upscale(pipeline):
    image = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(torch.double)
    return pipeline(image, 2, 2, seed=0, output_type='pt').images


def test_published_and_converted_files_are_the_same_pipeline(tmp_path):
    published, converted = tmp_path / 'net_g.pth', tmp_path / 'converted.pth'
    torch.save(dict(params=random_state(NET)), published)
    convert_file(published, converted)
    one, two = (load_sr_pipeline(path) for path in (published, converted))
    assert one.config.x0_clip == two.config.x0_clip == 'scheduler'
    assert one.unet.config.sign_zero == 0
    assert not one.unet.training
    torch.testing.assert_close(upscale(one), upscale(two), rtol=0, atol=1e-6)


def test_folders_of_unets_are_pipelines_with_the_published_schedule(tmp_path):
    torch.manual_seed(0)
    plain = UNet2DModel(in_channels=6, out_channels=3, **ONE_LEVEL).eval()
    plain.save_pretrained(tmp_path / 'plain')
    expected = {'plain': upscale(SRDiffusionPipeline(plain))}
    plain.float()
    binarize_unet(plain)
    plain.save_pretrained(tmp_path / 'binarized')
    expected['binarized'] = upscale(SRDiffusionPipeline(plain))
    network = unet()
    network.save_pretrained(tmp_path / 'bi_diffsr')
    expected['bi_diffsr'] = upscale(SRDiffusionPipeline(network))
    for name, images in expected.items():
        loaded = load_sr_pipeline(tmp_path / name)
        assert loaded.scheduler.config.num_train_timesteps == 2000
        torch.testing.assert_close(upscale(loaded), images, rtol=0, atol=1e-6)


def test_other_files_are_refused(tmp_path):
    torch.save(bnext_state(BNext((16, 32)), 1e-8), tmp_path / 'bnext.pth')
    with pytest.raises(ValueError, match=r'a BNext.*, not a network for super-resol'):
        load_sr_pipeline(tmp_path / 'bnext.pth')
    # a file must not choose the classes that are built
    model = dict(type='SRDiffusion', scale=2, unet=dict(type='os.system', command='ls'))
    torch.save(dict(meta=dict(model=model), state_dict={}), tmp_path / 'evil.pth')
    with pytest.raises(ValueError, match=r'evil.pth: its UNet is no BIDiffSRUNet'):
        load_sr_pipeline(tmp_path / 'evil.pth')
    with pytest.raises(FileNotFoundError, match='no such file'):
        load_sr_pipeline(tmp_path / 'gone.pth')
