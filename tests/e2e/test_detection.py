"""Make a devkit, train, test and detect with the commands of users."""

import json
import os
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

pytest.importorskip('mmcv._ext', reason='needs mmcv with compiled operators')

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
MIM = Path(sys.executable).with_name('mim')
# That of the OneDL forks has another name in pip, and its mim uses that name.
MMDET = packages_distributions()['mmdet'][0]
CLASSES = ('0', '1', '2')
CONFIG = """
_base_ = [{base!r}]
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    dataset=dict(
        datasets=[
            dict(dataset, data_root={data!r})
            for dataset in _base_.train_dataloader.dataset.datasets
        ]
    ),
)
val_dataloader = dict(batch_size=2, num_workers=0, dataset=dict(data_root={data!r}))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=2, val_interval=2)
custom_hooks = [
    dict(type='TemperatureHook', binary_from=1),
    dict(type='ParameterBoundsHook'),
    dict(type='NaNGuardHook'),
    dict(type='NumClassCheckHook'),
]
default_hooks = dict(checkpoint=dict(interval=1), logger=dict(interval=1))
{more}
"""


def run(folder, *command):
    """Run a command line in ``folder``; its output goes to one string."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        text=True,
        timeout=400,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def tool(folder, name, *args):
    return run(folder, sys.executable, ROOT / 'tools' / name, *args)


def write_config(folder, name='config.py', more=''):
    base = str(ROOT / 'configs' / 'demo' / 'es_bnext_fcos_mini_voc.py')
    text = CONFIG.format(base=base, data=str(folder / 'VOCdevkit'), more=more)
    (folder / name).write_text(text)
    return folder / name


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    """Make a folder with a devkit, a config and a training."""
    folder = tmp_path_factory.mktemp('project')
    made = tool(
        folder,
        'make_mini_voc.py',
        'VOCdevkit',
        '--names',
        *CLASSES,
        '--size',
        64,
        64,
        '--counts',
        4,
        2,
        3,
    )
    assert made.returncode == 0, made.stdout
    assert 'wrote 9 images to VOCdevkit' in made.stdout
    trained = run(folder, MIM, 'train', MMDET, write_config(folder), '--work-dir', 'work')
    assert trained.returncode == 0, trained.stdout[-3000:]
    return folder


def test_a_second_devkit_is_not_written_over_the_first(project):
    again = tool(project, 'make_mini_voc.py', 'VOCdevkit')
    assert 'VOCdevkit is there' in again.stdout


def test_wrong_options_of_the_devkit_are_one_sentence(tmp_path):
    failed = tool(tmp_path, 'make_mini_voc.py', 'VOCdevkit', '--scale', 0.5, 0.2)
    assert failed.returncode == 2
    last = failed.stdout.strip().splitlines()[-1]
    assert 'scale=[0.5, 0.2] must be 0 < smallest <= largest <= 1' in last
    assert not list(tmp_path.iterdir())


def test_testing_gives_both_accuracies(project):
    done = run(
        project,
        MIM,
        'test',
        MMDET,
        'config.py',
        '--checkpoint',
        'work/epoch_2.pth',
        '--work-dir',
        'test',
    )
    assert done.returncode == 0, done.stdout[-3000:]
    (path,) = (project / 'test').glob('*/*.json')
    metrics = json.loads(path.read_text())
    (scalars,) = (project / 'work').glob('*/vis_data/scalars.json')
    validated = json.loads(scalars.read_text().splitlines()[-1])
    for prefix in ('pascal_voc', 'pascal_voc_area'):
        assert metrics[f'{prefix}/mAP'] == pytest.approx(validated[f'{prefix}/mAP'])
    # our classes, though the folder is called VOC2007
    assert 'aeroplane' not in done.stdout


def test_mmdets_inferencer_detects_in_files(project):
    from mmdet.apis import DetInferencer

    inferencer = DetInferencer(
        str(project / 'config.py'),
        weights=str(project / 'work/epoch_2.pth'),
        device='cpu',
        show_progress=False,
    )
    assert inferencer.model.dataset_meta['classes'] == CLASSES
    images = sorted(str(p) for p in (project / 'VOCdevkit').glob('*/JPEGImages/*'))[:3]
    out = inferencer(images, batch_size=2, out_dir=str(project / 'out'))
    assert len(out['predictions']) == 3
    for found in out['predictions']:
        assert len(found['bboxes']) == len(found['scores']) == len(found['labels'])
        assert set(found['labels']) <= {0, 1, 2}
    assert len(list((project / 'out' / 'vis').iterdir())) == 3


def test_the_demo_draws_what_it_detects(project, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / 'tools')
    import demo_det

    config, weights = project / 'config.py', project / 'work/epoch_2.pth'
    monkeypatch.setattr(demo_det, 'CONFIGS', {'ES': str(config), 'tau=1': str(config)})
    files, truth, classes = demo_det.load_test_data(str(config))
    assert (len(files), classes) == (3, CLASSES)
    names = (project / 'VOCdevkit/VOC2007/ImageSets/Main/test.txt').read_text().split()
    for name, boxes in zip(names, truth):
        tree = ET.parse(project / f'VOCdevkit/VOC2007/Annotations/{name}.xml')
        difficult = [int(x.text) for x in tree.iter('difficult')]
        assert len(boxes['bboxes']) == difficult.count(0)
        assert len(boxes['bboxes_ignore']) == difficult.count(1)
    picture = tmp_path / 'picture.png'
    demo_det.draw({'ES': str(weights), 'tau=1': str(weights)}, picture, 'title')
    assert picture.stat().st_size > 10_000


def test_the_trained_detector_is_binary(project):
    done = tool(project, 'check_binary.py', 'config.py', 'work/epoch_2.pth')
    assert done.returncode == 0, done.stdout
    assert 'every binary layer is binary' in done.stdout


def test_costs_name_the_input_size(project):
    done = tool(project, 'count_ops.py', 'config.py')
    assert done.returncode == 0, done.stdout
    # a separate line; libraries may print warnings before it
    assert '\ninput 1 x 3 x 96 x 96' in '\n' + done.stdout
    assert 'regions' not in done.stdout


def failure(folder, config):
    done = run(folder, MIM, 'train', MMDET, config, '--work-dir', folder / 'failed')
    assert done.returncode != 0
    assert not list((folder / 'failed').glob('*.pth'))
    return done.stdout


def test_other_classes_than_the_devkits_are_named(project):
    more = """
for _d in train_dataloader['dataset']['datasets']:
    _d['metainfo'] = dict(classes=('a', 'b', 'c'))
del _d
"""
    config = write_config(project, 'classes.py', more)
    assert "has an object of the classes ('a', 'b', 'c'); they have" in failure(project, config)
