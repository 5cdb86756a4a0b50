"""Runners in other processes, and copies of runners."""

import copy
import multiprocessing
import pickle
import subprocess
import sys

import numpy as np
import pytest

from mmesbnn import native
from mmesbnn.deploy import Runner
from tests.deploy.packed.nets import ROOT
from tests.deploy.runtime.test_runner import crops

pytest.importorskip('openvino')

from mmesbnn.deploy.openvino.export import export
from tests.deploy.openvino.test_export import make_task

ENGINES = ['openvino', *(['native'] if native.available() else [])]


@pytest.fixture(scope='module')
def classifier(tmp_path_factory):
    folder = tmp_path_factory.mktemp('classifier') / 'net'
    export(make_task(), folder, dynamic_batch=True)
    return folder


def scores(runner, image):
    return runner(image)['pred_scores']


@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize('copied', [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_is_a_runner_of_its_own(classifier, monkeypatch, engine, copied):
    monkeypatch.chdir(classifier.parent)
    first = Runner(classifier.name, engine=engine, threads=1, max_pixels=5000)
    monkeypatch.chdir('/')  # the copy still finds the folder
    second = copied(first)
    assert second._network is not first._network
    assert (second.engine, second.threads, second.max_pixels) == (engine, 1, 5000)
    image = crops(1, (32, 32))[0]
    np.testing.assert_array_equal(scores(second, image), scores(first, image))


@pytest.mark.parametrize('engine', ENGINES)
def test_a_runner_works_in_a_spawned_process(classifier, engine):
    runner, image = Runner(classifier, engine=engine, threads=1), crops(1, (32, 32))[0]
    with multiprocessing.get_context('spawn').Pool(1) as pool:
        found = pool.apply(scores, (runner, image))
    np.testing.assert_array_equal(found, scores(runner, image))


FORK = """
import os, sys
import numpy as np
from mmesbnn.deploy import ExportError, Runner

folder, engine, when = sys.argv[1:]
image = np.zeros((32, 32, 3), np.uint8)


def make():
    return Runner(folder, engine=engine, threads=2)


def use(runner):
    runner(image)
    runner([image] * 4, batch_size=4)
    list(runner.stream([image] * 4))


runner = None if when == 'never' else make()
if when == 'used':
    use(runner)
child = os.fork()
if child == 0:
    try:
        use(runner or make())
    except ExportError as error:
        print(error, flush=True)
        os._exit(3)
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='forks on Linux only')
@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize('when', ['never', 'made', 'used'])
def test_a_forked_process_does_not_hang(classifier, engine, when):
    command = [sys.executable, '-W', 'ignore', '-c', FORK, str(classifier), engine, when]
    found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert found.returncode == 0, found.stderr
    if engine == 'openvino' and when != 'never':
        assert "start processes with the method 'spawn'" in found.stdout
        assert found.stdout.endswith('\n3\n')
    else:
        assert found.stdout == '0\n'
