"""A resumed training does not give a fused optimizer states that do not fit."""

import pytest
import torch
from mmengine.optim import OptimWrapper, OptimWrapperDict

from mmesbnn.checkpoints import CheckpointError, read_checkpoint
from mmesbnn.engine.optimizer_states import check_fused_states
from tests.engine import toy

SAVING = dict(checkpoint=dict(type='WholeCheckpointHook', interval=1))
#: Wrong states, of which torch's kernel would read or write more than they hold.
WRONG = {
    'exp_avg': [torch.ones(1), torch.ones(3, 64, 4), torch.ones(1, 1).expand(4, 192)],
    'exp_avg_sq': [torch.ones(0)],
    'step': [torch.ones(0), torch.ones(2)],
}


def runner(folder, path=None):
    loading = {} if path is None else dict(resume=True, load_from=str(path))
    return toy.runner(folder, [], toy.PlainModel(), default_hooks=SAVING, **loading)


@pytest.fixture
def saved(tmp_path):
    """Return a checkpoint of the first epoch, and its content with a fused optimizer."""
    runner(tmp_path / 'first').train()
    path = tmp_path / 'first' / 'epoch_1.pth'
    content = read_checkpoint(path)
    content['optimizer']['param_groups'][0].update(fused=True, foreach=False)
    return path, content


@pytest.mark.parametrize('name, value', [(n, v) for n, values in WRONG.items() for v in values])
def test_a_state_that_does_not_fit_is_named(tmp_path, saved, name, value):
    path, content = saved
    content['optimizer']['state'][0][name] = value
    torch.save(content, path)
    shape = str(tuple(value.shape)).replace('(', r'\(').replace(')', r'\)')
    with pytest.raises(CheckpointError, match=f"'{name}' of shape {shape} for a parameter of "):
        runner(tmp_path / 'second', path).train()


def test_states_that_fit_are_used(tmp_path, saved):
    path, content = saved
    torch.save(content, path)
    resumed = runner(tmp_path / 'second', path)
    resumed.train()
    assert resumed.epoch == 2
    assert resumed.optim_wrapper.optimizer.param_groups[0]['fused']


def test_each_optimizer_of_a_dict_is_checked():
    weights = [torch.nn.Parameter(torch.ones(4, 3)) for _ in range(2)]
    optimizers = [torch.optim.SGD([w], 0.1, momentum=0.9, fused=True) for w in weights]
    wrapper = OptimWrapperDict(a=OptimWrapper(optimizers[0]), b=OptimWrapper(optimizers[1]))
    check_fused_states(wrapper)
    optimizers[1].state[weights[1]] = dict(momentum_buffer=torch.ones(3))
    with pytest.raises(CheckpointError, match=r"'momentum_buffer' of shape \(3,\)"):
        check_fused_states(wrapper)


@pytest.mark.parametrize('kind, option', [('SGD', 'momentum'), ('RMSprop', 'alpha')])
def test_a_checkpoint_of_another_optimizer_is_named(tmp_path, saved, kind, option):
    resumed = runner(tmp_path / 'second', saved[0])
    resumed.optim_wrapper = dict(optimizer=dict(type=kind, lr=0.1))
    message = f'another optimizer than {kind}: its parameter groups lack .*{option}.*load_from'
    with pytest.raises(CheckpointError, match=message):
        resumed.train()


def test_a_checkpoint_with_another_number_of_schedulers_is_named(tmp_path):
    steps = dict(type='MultiStepLR', milestones=[1])
    warm = dict(type='LinearLR', end=1)
    options = dict(default_hooks=SAVING, model=toy.PlainModel())
    toy.runner(tmp_path, [], param_scheduler=[steps], **options).train()
    more = toy.runner(tmp_path, [], param_scheduler=[warm, steps], resume=True, **options)
    with pytest.raises(CheckpointError, match='states of 1 schedulers, but param_scheduler has 2'):
        more.train()


def test_what_a_best_checkpoint_lacks_is_said(tmp_path):
    def log(name, path=None, **options):
        resuming = {} if path is None else dict(resume=True, load_from=str(path))
        toy.runner(
            tmp_path / name, [], toy.PlainModel(), default_hooks=SAVING, **resuming, **options
        ).train()
        return toy.log_of(tmp_path / name)

    schedule = dict(param_scheduler=dict(type='MultiStepLR', milestones=[1], gamma=0.1))
    log('first', **schedule)
    saved = tmp_path / 'first' / 'epoch_1.pth'
    content = read_checkpoint(saved)
    best = tmp_path / 'best.pth'
    torch.save({k: content[k] for k in ('meta', 'state_dict', 'message_hub')}, best)
    lacks = 'the resumed checkpoint lacks '
    assert lacks not in log('whole', saved, **schedule)
    assert f'{lacks}optimizer, param_schedulers, which begin anew' in log('best', best, **schedule)
    assert f'{lacks}optimizer, which begin anew' in log('constant', best)
