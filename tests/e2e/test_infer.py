"""tools/infer.py as a user runs it."""

import json
import os
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.analysis.digits import TOOLS, run_tool
from tests.real_data import photograph

pytest.importorskip('openvino')

from tests.deploy import exports
from tests.deploy.packed.nets import ROOT
from tests.deploy.runtime.test_runner import WITHOUT


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    """Make exports of each task, and photographs."""
    folder = tmp_path_factory.mktemp('project')
    exports.write_classifier(folder / 'classifier')
    exports.write_detector(folder / 'detector')
    exports.write_denoiser(folder / 'denoiser')
    for i in range(3):
        path = folder / 'images' / f'{i}.png'
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(photograph(i)[:60, :90]).save(path)
    return folder


@pytest.fixture
def infer(monkeypatch, capsys):
    def run(*args):
        code = run_tool('infer.py', *args, monkeypatch=monkeypatch)
        return code, *capsys.readouterr()

    return run


def test_without_torch_in_a_process_of_its_own(project, tmp_path):
    # like `python tools/infer.py`, but without the packages that a bare machine does not have
    code = f'{WITHOUT}\nimport runpy\nrunpy.run_path(sys.argv[0], run_name="__main__")'
    code = f'import sys; sys.argv = sys.argv[1:]\n{code}'
    done = subprocess.run(
        [
            sys.executable,
            '-c',
            code,
            TOOLS / 'infer.py',
            project / 'classifier',
            project / 'images',
            '--out',
            'drawn',
            '--threads',
            '1',
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'},
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    assert lines[0].split()[1] in exports.CLASSES
    assert lines[3].startswith('3 images in ')
    drawn = sorted((tmp_path / 'drawn').iterdir())
    assert [path.name for path in drawn] == ['0.png', '1.png', '2.png']
    for i, path in enumerate(drawn):
        image = np.asarray(Image.open(path))
        # enlarged three times, with words on it
        before = photograph(i)[:60, :90].repeat(3, 0).repeat(3, 1)
        assert 0.5 < (image == before).all(-1).mean() < 1


def test_boxes(project, infer, tmp_path):
    images = sorted((project / 'images').iterdir())
    code, out, err = infer(
        project / 'detector',
        *images,
        '--out',
        tmp_path / 'new' / 'drawn',
        '--json',
        tmp_path / 'all.json',
        '--score-thr',
        0.4,
    )
    assert code == 0, err
    results = json.loads((tmp_path / 'all.json').read_text())
    assert list(results) == [str(path) for path in images]
    for line, result in zip(out.splitlines(), results.values()):
        assert f'{len(result["labels"])} boxes' in line
        assert len(result['bboxes']) == len(result['scores']) > 0
    assert len(list((tmp_path / 'new' / 'drawn').iterdir())) == 3


def test_upscaled_images(project, infer, tmp_path):
    image = project / 'images' / '0.png'
    code, out, err = infer(project / 'denoiser', image, image, '--out', tmp_path, '--steps', 2)
    assert code == 0, err
    assert '180x120' in out
    # one file, given twice
    for name in ('0.png', '0_1.png'):
        assert Image.open(tmp_path / name).size == (180, 120)


def test_what_goes_wrong(project, infer, tmp_path):
    export, image = project / 'classifier', project / 'images' / '0.png'
    (tmp_path / 'text.png').write_text('no image')
    (tmp_path / 'empty').mkdir()
    for args, words in [
        ((tmp_path / 'nowhere', image), 'nowhere: no such folder'),
        ((tmp_path, image), 'not an export'),
        ((export, tmp_path / 'x.png'), 'x.png: No such file'),
        ((export, tmp_path / 'text.png'), 'cannot be read as an image'),
        ((export, tmp_path / 'empty'), 'a folder without images'),
        ((export, image, '--threads', 0), "--threads: '0'"),
        ((export, image, image, '--batch', 0), "--batch: '0'"),
        ((export, image, '--out', image), '0.png'),
        ((export, image, '--out', image / 'x'), '0.png'),
    ]:
        code, out, err = infer(*args)
        assert (code, out) == (2, ''), args
        assert words in err.splitlines()[-1]
        assert 'Traceback' not in err


def test_no_file_that_is_read_is_overwritten(project, infer, tmp_path, monkeypatch):
    export = shutil.copytree(project / 'classifier', tmp_path / 'export')
    images = shutil.copytree(project / 'images', tmp_path / 'images')
    (images / '2.png').rename(images / '2.jpg')  # whose drawing is another file
    (images / '2.png').hardlink_to(images / '0.png')
    before = {file: file.read_bytes() for file in tmp_path.rglob('*') if file.is_file()}
    monkeypatch.chdir(images)
    for args, name in [
        (('0.png', '--out', '.'), '0.png'),
        ((images, '--out', images), '0.png'),
        (('0.png', '2.jpg', '--out', '.'), '0.png'),
        (('0.png', '--json', images / '0.png'), '0.png'),
        (('0.png', '--out', '.', '--json', '0.png'), '0.png'),
        (('0.png', '--json', '2.png'), '2.png'),
        (('0.png', '--json', export / 'model.bin'), 'model.bin'),
        (('0.png', '--out', export, '--json', export / 'manifest.json'), 'manifest.json'),
    ]:
        code, out, err = infer(export, *args)
        assert (code, out) == (2, ''), args
        assert 'Would overwrite the file that is read: ' in err
        assert err.endswith(f'{name}\n')
        assert {f: f.read_bytes() for f in tmp_path.rglob('*') if f.is_file()} == before
    for _ in range(2):  # results may be replaced
        assert infer(export, '2.jpg', '--out', export, '--json', export / 'x.json')[0] == 0


def test_no_result_is_overwritten(project, infer, tmp_path):
    image, out = project / 'images' / '0.png', tmp_path / 'drawn'
    code, _, error = infer(project / 'classifier', image, '--out', out, '--json', out / '0.png')
    assert code == 2 and 'a drawn result becomes this file' in error
    assert not out.exists()


def test_long_names_of_results_are_cut(project, infer, tmp_path):
    image = project / 'images' / '0.png'
    names = [f'{folder}/{"é" * 125}z.png' for folder in 'ab']  # 255 bytes
    for name in names:
        (tmp_path / name).parent.mkdir()
        shutil.copy(image, tmp_path / name)
    folders = [tmp_path / 'a', tmp_path / 'b']
    status, _, errors = infer(project / 'classifier', *folders, '--out', tmp_path / 'out')
    assert (status, errors) == (0, '')
    drawn = {path.name for path in (tmp_path / 'out').iterdir()}
    assert drawn == {f'{"é" * 125}z.png', f'{"é" * 124}_1.png'}


def test_many_equal_names_take_no_time():
    namespace = runpy.run_path(str(TOOLS / 'infer.py'))
    files = [Path(f'{i}/frame.jpg') for i in range(20000)]
    began = time.process_time()
    paths = namespace['targets'](Path('out'), [*files, Path('frame_1.png'), Path('frame.png')])
    assert time.process_time() - began < 20  # 90 minutes with a search from 1 for each
    assert len(set(paths)) == 20002
    assert paths[:2] == [Path('out/frame.png'), Path('out/frame_1.png')]


def test_a_file_of_all_results_is_checked_before_the_work(project, infer, tmp_path):
    out, image = tmp_path / 'out', project / 'images/0.png'
    (out / 'all').mkdir(parents=True)
    code, printed, error = infer(project / 'classifier', image, '--out', out, '--json', out / 'all')
    assert (code, printed) == (2, '')
    assert 'Is a directory' in error
    assert [path.name for path in out.iterdir()] == ['all']


def test_drawn_results_are_checked_before_the_work(project, infer, tmp_path):
    (tmp_path / '1.png').mkdir()
    status, printed, error = infer(project / 'classifier', project / 'images', '--out', tmp_path)
    assert (status, printed) == (2, '')
    assert 'Is a directory' in error
    assert [path.name for path in tmp_path.iterdir()] == ['1.png']


def test_names_of_files_are_no_commands_for_the_terminal(project, infer, tmp_path):
    name = 'a\x1b]0;b\x07\n\x9b2Jc.png'
    shutil.copy(project / 'images' / '0.png', tmp_path / name)
    code, out, _ = infer(project / 'classifier', tmp_path, '--out', tmp_path / 'drawn')
    assert code == 0
    assert len(out.splitlines()) == 2
    assert out.replace('\n', '').isprintable()
    assert out.count('a\\x1b]0;b\\x07\\n\\x9b2Jc.png') == 2
    assert (tmp_path / 'drawn' / name).exists()


def test_an_ir_edited_by_hand(infer, tmp_path, project):
    exports.write_classifier(tmp_path)
    xml = tmp_path / 'model.xml'
    xml.write_text(xml.read_text().replace('<net ', '<net  '))
    image = project / 'images' / '0.png'
    code, _, err = infer(tmp_path, image)
    assert (code, 'changed since the export' in err) == (2, True)
    code, out, _ = infer(tmp_path, image, '--no-verify')
    assert code == 0
    assert '1 images' in out


@pytest.mark.parametrize('task', ['classifier', 'detector', 'denoiser'])
def test_damaged_images_are_left_out(project, infer, tmp_path, task):
    folder = shutil.copytree(project / 'images', tmp_path / 'images')
    whole = folder / '1.png'
    (folder / '0a.png').write_bytes(whole.read_bytes()[:3000])
    (folder / '1a.png').write_text('no image')
    os.mkfifo(folder / '2a.png')
    (folder / 'folder.png').mkdir()
    options = ('--steps', 1) if task == 'denoiser' else ('--batch', 2)
    code, out, err = infer(
        project / task,
        folder,
        '--out',
        tmp_path / 'drawn',
        '--json',
        tmp_path / 'all.json',
        *options,
    )
    assert code == 1
    assert out.splitlines()[-1].startswith('3 images in ')
    results = json.loads((tmp_path / 'all.json').read_text())
    assert [os.path.basename(name) for name in results] == ['0.png', '1.png', '2.png']
    for file, result in results.items():  # no image has the result of another
        alone = tmp_path / 'alone.json'
        assert infer(project / task, file, '--json', alone, *options)[0] == 0
        for key, value in json.loads(alone.read_text())[file].items():
            if key in ('classes', 'pred_class'):
                assert result[key] == value
            else:
                np.testing.assert_allclose(result[key], value, rtol=1e-5, atol=1e-5)
    drawn = sorted(path.name for path in (tmp_path / 'drawn').iterdir())
    assert drawn == ['0.png', '1.png', '2.png']
    *_, first, second, third, last = err.splitlines()
    assert '0a.png is damaged' in first
    assert '1a.png cannot be read as an image' in second
    assert '2a.png: a named pipe, not a file' in third
    assert last == 'infer.py: 3 of 6 images skipped'


def test_only_damaged_images(project, infer, tmp_path):
    for name in 'ab':
        (tmp_path / f'{name}.png').write_text('no image')
    code, _, err = infer(project / 'classifier', tmp_path)
    assert (code, err.splitlines()[-1]) == (2, 'infer.py: 2 of 2 images skipped')


def test_large_images_are_left_out(project, infer):
    export, image = project / 'classifier', project / 'images' / '0.png'
    code, _, err = infer(export, image, '--max-pixels', 5399)
    assert code == 2
    assert 'has 90 x 60 pixels, more than max_pixels=5399' in err
    assert infer(export, image, '--max-pixels', 5400)[0] == 0
    # the upscaled image is twice as high and wide
    code, _, err = infer(project / 'denoiser', image, '--max-pixels', 5400)
    assert (code, 'the upscaled image has 180 x 120' in err) == (2, True)
