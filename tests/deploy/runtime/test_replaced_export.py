"""A runner whose export is replaced by another one."""

import shutil
import threading

import numpy as np
import pytest
import torch

pytest.importorskip('openvino')

from mmesbnn.deploy import Runner
from mmesbnn.whole_files import whole_folder
from tests.deploy import exports


@pytest.fixture
def both(tmp_path):
    """Write two exports with different classes and weights."""
    folders = [tmp_path / name for name in ('first', 'second')]
    for folder, names, factor in zip(folders, ('abc', 'xyz'), (1, -3)):
        network = exports.Classifier()
        with torch.no_grad():
            network.fc.weight.mul_(factor)
        resize = dict(type='resize', size=[16, 16], interpolation='bilinear', backend='cv2')
        exports.write_export(
            folder,
            network,
            torch.zeros(2, 3, 16, 16),
            {'images': (-1, 3, 16, 16)},
            ['logits'],
            task='classification',
            classes=list(names),
            preprocessing=exports.preprocessing(resize),
            decoding={'activation': 'softmax'},
        )
    return folders


def put(source, target):
    with whole_folder(target, replace=True) as folder:
        for file in source.iterdir():
            shutil.copy(file, folder)


def scores(runner):
    image = np.full((16, 16, 3), 90, np.uint8)
    return runner(image)['pred_scores']


def test_a_runner_stays_with_the_export_that_it_has_read(both, tmp_path):
    out = tmp_path / 'out'
    put(both[0], out)
    runner = Runner(out, threads=1)
    expected = scores(runner)
    put(both[1], out)
    image = np.full((16, 16, 3), 90, np.uint8)
    # compiled again, for throughput
    for result in runner.stream([image] * 3, 2):
        np.testing.assert_allclose(result['pred_scores'], expected, atol=1e-6)
        assert result['pred_class'] in 'abc'
    assert not np.allclose(scores(Runner(out, threads=1)), expected, atol=1e-3)


def test_a_runner_reads_one_export_while_they_change(both, tmp_path):
    out = tmp_path / 'out'
    expected = {
        ''.join(runner.manifest.classes): scores(runner)
        for runner in (Runner(folder, threads=1) for folder in both)
    }
    put(both[0], out)
    stop = threading.Event()

    def replace():
        while not stop.is_set():
            for source in reversed(both):
                put(source, out)
                stop.wait(0.01)  # about as long as a read, which could otherwise never end

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        for _ in range(30):
            runner = Runner(out, threads=1)
            names = ''.join(runner.manifest.classes)
            np.testing.assert_allclose(scores(runner), expected[names], atol=1e-6)
    finally:
        stop.set()
        thread.join()
