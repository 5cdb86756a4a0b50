"""All forms of a network trained on digits give equal labels for all test digits."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner as Trainer
from mmengine.runner import set_random_seed

from mmesbnn import native
from mmesbnn.analysis import build_model, load_config
from mmesbnn.datasets import write_digits
from mmesbnn.deploy import load_packed, pack
from mmesbnn.deploy.label_agreement import Agreement, Form, time_in_turn
from tests.analysis.digits import run_tool, set_temperature, write_project

pytest.importorskip('mmpretrain')
pytest.importorskip('openvino')
pytest.importorskip('safetensors')

DEMO = Path(__file__).resolve().parents[2] / 'configs' / 'demo' / 'es_bnext_digits.py'


def train(cfg, iterations):
    """Train the demo's model very briefly; its weights are exactly binary."""
    set_random_seed(0)
    model = build_model(cfg)
    model.init_weights()
    set_temperature(model, 0.0).train()
    options = {**cfg.train_dataloader, 'num_workers': 0, 'persistent_workers': False}
    loader = Trainer.build_dataloader(options, seed=0)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    for batch, _ in zip(loader, range(iterations)):
        model.train_step(batch, wrapper)
    return model.eval()


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    """Write config, real digits, checkpoint, packed file and export."""
    folder = tmp_path_factory.mktemp('digits')
    write_digits(folder / 'data')
    cfg = load_config(DEMO)
    for name in ('train', 'val', 'test'):
        cfg[f'{name}_dataloader'].dataset.data_root = str(folder / 'data')
    cfg.train_dataloader.batch_size = 32
    config = folder / 'config.py'
    config.write_text(Config(cfg.to_dict()).pretty_text)
    model = train(load_config(config), 39)
    meta = {
        'cfg': config.read_text(),
        'dataset_meta': {'classes': [f'digit {i}' for i in range(10)]},
    }
    checkpoint = folder / 'epoch_1.pth'
    torch.save({'meta': meta, 'state_dict': model.state_dict()}, checkpoint)
    return folder, config, checkpoint


@pytest.mark.slow
def test_every_test_digit(project, monkeypatch, capsys):
    folder, config, checkpoint = project
    packed, export = folder / 'net.safetensors', folder / 'openvino'

    def run(tool, *args):
        code = run_tool(tool, *args, monkeypatch=monkeypatch)
        out, err = capsys.readouterr()
        assert code == 0, out + err
        return out

    run('pack_checkpoint.py', checkpoint, packed)
    options = ('--out', export, '--dynamic-batch')
    # a file cannot choose the images to read, unless the user trusts it
    out = run('export.py', packed, *options)
    assert 'bundled photographs' in out
    run('pack_checkpoint.py', checkpoint, packed, '--trust-stored-config')
    out = run('export.py', packed, *options, '--trust-stored-config')
    assert 'test images of the config' in out
    out = run('compare_deployed.py', config, checkpoint, packed, export)
    lines = [' '.join(line.split()) for line in out.splitlines()]
    same = r'the same label for (\d+) of 540 images'
    assert lines[0].startswith('torch ')
    packed_same = re.search(f'{same}, scores differ by 0 at most', lines[1])
    assert packed_same[1] == '540'
    engines = ['native', 'OpenVINO'] if native.available() else ['OpenVINO']
    for name, line in zip(engines, lines[2:]):
        assert line.startswith(f'{name} ')
        # a flipped sign may change the label of a digit between two classes
        assert int(re.search(same, line)[1]) >= 535
    # the network has learned, so that the labels are not all equal; guessing gives 10 %
    assert float(lines[0].split()[1].rstrip('%')) > 15
    assert lines[-1].startswith('one image: torch ')
    assert all(f'{name} ' in lines[-1] for name in engines)
    if not native.available():
        assert lines[3].startswith('native is left out: ')
    # a packed network of another dtype gets the same images; its rounding may change labels
    rounded = folder / 'bf16.safetensors'
    pack(load_packed(packed).bfloat16(), rounded)
    given = (config, checkpoint, rounded, export)
    code = run_tool('compare_deployed.py', *given, monkeypatch=monkeypatch)
    count = int(re.search(same, capsys.readouterr().out.splitlines()[1])[1])
    assert (code, count >= 500) == (int(count < 540), True)
    # a drawn result, as a user would look at
    run('infer.py', export, folder / 'data' / 'val' / '3', '--out', folder / 'drawn')
    assert list((folder / 'drawn').glob('*.png'))
    assert load_packed(packed)._dataset_meta['classes'][3] == 'digit 3'


def test_entries_of_the_config_can_be_changed(tmp_path, monkeypatch, capsys):
    config = write_project(tmp_path)
    given = (config, 'none.pth', 'none.safetensors', 'none')
    options = ('--cfg-options', 'model=None')
    assert run_tool('compare_deployed.py', *given, *options, monkeypatch=monkeypatch) == 2
    assert f'{config} has no model' in capsys.readouterr().err


def test_differences_are_counted():
    one, two = torch.eye(3).numpy(), torch.eye(3)[[0, 1, 1]].numpy()
    truth = torch.tensor([0, 1, 0]).numpy()
    forms = [Form('torch', one.argmax(1), one), Form('other', two.argmax(1), two)]
    agreement = Agreement(['a', 'b', 'c'], truth, forms)
    assert agreement.different == {'other': 1}
    first, second = agreement.table().splitlines()
    assert '66.67% right' in first
    assert 'same label for 2 of 3 images, scores differ by 1 at most' in second


def test_contenders_are_called_in_turn():
    calls = []
    times = time_in_turn({n: lambda n=n: calls.append(n) for n in 'ab'}, repeats=3)
    assert calls == ['a', 'b'] * 8
    assert set(times) == {'a', 'b'}
    assert all(value >= 0 for value in times.values())
