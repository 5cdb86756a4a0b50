"""Two processes with half a batch each train like one process with the whole batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.datasets.sr_folders import write_benchmark, write_df2k
from tests.engine import ddp_worker

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason='this torch has no gloo'),
]


@pytest.fixture(scope='module')
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp('ddp')
    write_benchmark(folder / 'sr', sizes=((44, 52), (48, 44)))
    write_df2k(folder / 'sr', sizes=((32, 40), (40, 32)))
    path = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
    env = {**os.environ, 'PYTHONPATH': path, 'OMP_NUM_THREADS': '1'}
    workers = [
        subprocess.Popen(
            [sys.executable, ddp_worker.__file__, str(rank), str(folder)],
            cwd=folder,
            env={**env, 'LOCAL_RANK': str(rank)},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(ddp_worker.WORLD)
    ]
    try:
        outputs = [worker.communicate(timeout=180)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], outputs
    ranks = [torch.load(folder / f'{rank}.pth', weights_only=True) for rank in (0, 1)]
    return [{**rank, 'output': out} for rank, out in zip(ranks, outputs, strict=True)]


def difference(a, b):
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


@pytest.mark.parametrize('rank', [0, 1])
def test_synced_statistics_and_gradients_are_those_of_the_whole_batch(results, rank):
    model = ddp_worker.synced_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    whole = ddp_worker.sgd_steps(model, model, *ddp_worker.batch())
    synced = results[rank]['synced']
    assert difference(synced['gradients'], whole['gradients']) < 1e-10
    assert difference(synced['state'], whole['state']) < 1e-10
    assert difference(before, whole['state']) > 1e-3
    assert min(grad.abs().max() for grad in whole['gradients'].values()) > 1e-8


@pytest.mark.parametrize('rank', [0, 1])
def test_stages_behind_the_last_output_are_not_waited_for(results, rank):
    model = ddp_worker.early_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    whole = ddp_worker.sgd_steps(model, model, *ddp_worker.batch())
    early = results[rank]['early']
    assert difference(early['gradients'], whole['gradients']) < 1e-10
    assert difference(early['state'], whole['state']) < 1e-10
    changed = {
        name for name, value in early['state'].items() if not torch.equal(value, before[name])
    }
    assert any(name.startswith('backbone.stages.0.') for name in changed)
    assert not any(name.startswith('backbone.stages.1.') for name in changed)


def test_hooks_reach_layers_through_the_wrapper(results):
    for rank in results:
        hooked = rank['hooked']
        assert hooked['wrapper'] == 'MMDistributedDataParallel'
        assert hooked['temperatures'] == [0.5]
        assert hooked['excess'] <= 0
        assert len(hooked['flips']) == 2 and max(hooked['flips']) > 0
    first, second = (rank['hooked'] for rank in results)
    assert torch.equal(first['weight'], second['weight'])
    assert first['flips'] == second['flips']


def test_only_the_first_process_logs(results):
    line = 'temperature 0.5,'
    assert results[0]['output'].count(line) == 1
    assert results[1]['output'].count(line) == 0


def test_nan_on_one_process_stops_both_with_one_message(results):
    expected = 'iteration 1: the loss became nan on process 1'
    for rank in results:
        assert expected in rank['nan']


def test_super_resolution_resumes_exactly_and_each_process_draws_its_own(results):
    whole, parts = (
        [rank['super_resolution'][name] for rank in results] for name in ('whole', 'parts')
    )
    assert whole[0]['wrapper'] == 'MMDistributedDataParallel'
    for run in (whole[1], *parts):
        assert difference(run['state'], whole[0]['state']) == 0
        assert run['psnr'] == whole[0]['psnr'] > 0
    for first, second in (whole, parts):  # own patches, timesteps and noise
        assert first['losses'] != second['losses']
    assert [run['losses'] for run in whole] == [run['losses'] for run in parts]
