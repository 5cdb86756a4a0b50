"""A training that accumulates gradients can be resumed within an accumulation."""

from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from mmengine.hooks import EMAHook
from mmengine.optim import OptimWrapper

from mmesbnn.checkpoints import CheckpointError, read_checkpoint
from mmesbnn.engine.pending_gradients import share_gradients
from tests.engine import toy


def train(work_dir, epochs, counts=3, hooks=(), **kwargs):
    """Train with two iterations per epoch."""
    torch.manual_seed(0)
    runner = toy.runner(
        work_dir,
        [EMAHook(momentum=0.1), *hooks],
        epochs=epochs,
        default_hooks=dict(checkpoint=dict(type='WholeCheckpointHook', interval=1)),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-2), accumulative_counts=counts),
        **kwargs,
    )
    runner.train()
    return runner


@pytest.mark.parametrize('counts', [3, 4])
def test_a_resumed_training_has_the_gradients(tmp_path, counts):
    whole = train(tmp_path / 'whole', 4, counts)
    first = str(tmp_path / 'whole' / 'epoch_1.pth')
    parts = train(tmp_path / 'parts', 4, counts, resume=True, load_from=first)
    assert toy.history(parts) == toy.history(whole)
    saved = [
        dict(toy.tensors(read_checkpoint(tmp_path / name / 'epoch_4.pth')))
        for name in ('whole', 'parts')
    ]
    assert saved[0].keys() == saved[1].keys()
    assert not [name for name in saved[0] if not torch.equal(saved[0][name], saved[1][name])]


def test_only_checkpoints_within_an_accumulation_hold_gradients(tmp_path):
    train(tmp_path, 4)
    saved = [read_checkpoint(tmp_path / f'epoch_{epoch}.pth') for epoch in (1, 2, 3, 4)]
    # steps are after iterations 3 and 6, and after the last one
    assert ['pending_gradients' in checkpoint for checkpoint in saved] == [True, True, False, False]


def test_a_training_that_only_starts_from_the_weights_has_none(tmp_path):
    train(tmp_path / 'first', 2)
    record = toy.Record(lambda runner: [p.grad is None for p in runner.model.parameters()])
    first = str(tmp_path / 'first' / 'epoch_1.pth')
    train(tmp_path / 'second', 1, hooks=[record], load_from=first)
    assert all(record.seen['train'][0])


@pytest.mark.parametrize('gradient', ['x', torch.ones(7)])
def test_gradients_that_do_not_fit_are_named(tmp_path, gradient):
    train(tmp_path / 'first', 2)
    path = tmp_path / 'first' / 'epoch_1.pth'
    content = read_checkpoint(path)
    content['pending_gradients']['fc.bias'] = gradient
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"pending_gradients .*'fc.bias' does not fit"):
        train(tmp_path / 'second', 3, resume=True, load_from=str(path))


def _share(rank, folder):
    dist.init_process_group('gloo', f'file://{folder}/store', rank=rank, world_size=2)
    model = torch.nn.ModuleDict({name: torch.nn.Linear(1, 1) for name in ('both', 'one', 'none')})
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1), accumulative_counts=2)
    names = ('both', 'one') if rank else ('both',)
    wrapper.backward(sum((rank + 1) * model[name].bias.sum() for name in names))
    share_gradients(SimpleNamespace(model=model, optim_wrapper=wrapper))
    found = {name: layer.bias.grad for name, layer in model.items()}
    torch.save(found, f'{folder}/{rank}.pth')


def test_processes_continue_with_the_mean(tmp_path):
    torch.multiprocessing.spawn(_share, (str(tmp_path),), nprocs=2)
    for rank in (0, 1):
        found = torch.load(tmp_path / f'{rank}.pth')
        # a gradient that one process lacks counts as 0
        assert found == {'both': torch.tensor([1.5]), 'one': torch.tensor([1.0]), 'none': None}
