"""One tool exports the demo's upscaler, and the other runs it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip('openvino')
pytest.importorskip('diffusers')

from mmesbnn.analysis import build_model, load_config
from mmesbnn.analysis.lifelike import lifelike
from tests.analysis.digits import run_tool
from tests.real_data import photograph

CONFIG = Path(__file__).resolve().parents[2] / 'configs/demo/es_bi_diffsr_photos.py'


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    """Return model, its weights and a photograph."""
    folder = tmp_path_factory.mktemp('project')
    model = build_model(load_config(CONFIG))
    forward = model.forward
    model.forward = lambda x: model.unet(x, torch.tensor([0, 1, 2, 3]))
    lifelike(model, torch.rand(4, 6, 32, 32))
    model.forward = forward
    torch.save(dict(state_dict=model.state_dict(), meta={}), folder / 'weights.pth')
    Image.fromarray(photograph(1)[100:124, 200:224]).save(folder / 'small.png')
    return model, folder


@pytest.mark.slow
def test_upscales_as_the_pipeline_does(project, tmp_path, monkeypatch, capsys):
    model, folder = project
    code = run_tool(
        'export.py',
        CONFIG,
        folder / 'weights.pth',
        '--out',
        tmp_path / 'net',
        '--shape',
        48,
        '--dynamic-batch',
        '--strict',
        '--images',
        1,
        monkeypatch=monkeypatch,
    )
    printed, told = capsys.readouterr()
    assert code == 0, told
    assert 'compared with torch on 1 bundled photographs' in printed
    code = run_tool(
        'infer.py',
        tmp_path / 'net',
        folder / 'small.png',
        '--out',
        tmp_path,
        '--threads',
        1,
        monkeypatch=monkeypatch,
    )
    printed, told = capsys.readouterr()
    assert code == 0, told
    assert '48x48' in printed
    found = np.asarray(Image.open(tmp_path / 'small.png')).astype(int)
    # the steps of the config, and the runner's noise
    noise = np.random.default_rng(0).standard_normal((1, 3, 48, 48), np.float32)
    expected = model.to_pipeline()(
        Image.open(folder / 'small.png'),
        output_type='np',
        latents=torch.from_numpy(noise),
        **model.sampling,
    ).images[0]
    assert np.std(expected) > 0.05
    apart = np.abs(found - expected * 255)
    # equal up to rounding to 256 values; a flipped sign changes a few pixels slightly
    assert (apart <= 0.51).mean() > 0.95 and apart.max() < 8


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (('--shape', 47), 'size=(47, 47) (--shape): must be multiples of'),
        (('--cfg-options', 'model.sampling.eta=0.5'), 'eta=0.5 must be 0'),
    ],
)
def test_what_is_refused(project, tmp_path, monkeypatch, capsys, arguments, words):
    code = run_tool(
        'export.py',
        CONFIG,
        project[1] / 'weights.pth',
        '--out',
        tmp_path / 'net',
        *arguments,
        monkeypatch=monkeypatch,
    )
    assert code == 2
    assert words in capsys.readouterr().err
