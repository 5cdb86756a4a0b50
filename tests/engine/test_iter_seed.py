"""An interrupted super-resolution training ends like an uninterrupted one."""

import pytest
import torch
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmesbnn.checkpoints import read_checkpoint
from mmesbnn.engine.hooks import IterSeedHook
from mmesbnn.evaluation import psnr
from tests.datasets.sr_folders import write_benchmark, write_df2k
from tests.engine import sr_runs, toy

pytest.importorskip('diffusers')


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('data')
    write_benchmark(root, sizes=((44, 52),))
    return write_df2k(root, sizes=((32, 40), (40, 32)))


@pytest.fixture(scope='module')
def trainings(root, tmp_path_factory):
    """Train four iterations at once, and two plus two with more or fewer workers."""
    whole, parts = (tmp_path_factory.mktemp(name) for name in ('whole', 'parts'))
    first = sr_runs.runner(root, whole, iters=4)
    first.train()
    sr_runs.runner(root, parts, iters=2, workers=2).train()
    last = str(parts / 'iter_2.pth')
    second = sr_runs.runner(root, parts, iters=4, workers=1, resume=True, load_from=last)
    torch.manual_seed(99)
    second.train()
    return first, second, (whole, parts)


def test_every_logged_number_is_the_same(trainings):
    whole, parts, _ = trainings
    expected = toy.history(whole)
    assert len(set(expected['train/loss_l1'])) == 4
    assert len(set(expected['val/Set5/PSNR'])) == 2
    assert len(expected['val/Set5/SSIM']) == 2
    got = toy.history(parts)
    # with the validation that came after its checkpoint was written
    assert got == expected


def test_every_tensor_of_the_checkpoint_is_the_same(trainings):
    whole, parts = (
        dict(toy.tensors(read_checkpoint(folder / 'iter_4.pth'))) for folder in trainings[2]
    )
    assert whole.keys() == parts.keys()
    for start in ('.state_dict', '.ema_state_dict', '.optimizer'):
        assert any(name.startswith(start) for name in whole)
    assert not [name for name in whole if not torch.equal(whole[name], parts[name])]


def test_the_average_is_what_is_validated_and_saved(trainings):
    whole, _, (folder, _) = trainings
    saved = read_checkpoint(folder / 'iter_4.pth')
    name = 'unet.conv_in.weight'
    average, last = saved['state_dict'][name], whole.model.unet.conv_in.weight
    assert not torch.equal(average, last)
    assert torch.equal(saved['ema_state_dict'][f'module.{name}'], last)
    # the figure of the last validation, from the averaged weights
    whole.model.load_state_dict(saved['state_dict'])
    (data,) = whole.val_dataloader
    (result,) = whole.model.eval().val_step(data)
    figure = psnr(result['pred'], result['hr'], crop_border=4, convert_to='Y')
    assert figure == toy.history(whole)['val/Set5/PSNR'][-1]


def test_validation_does_not_change_the_training(trainings, root, tmp_path):
    rare = dict(type='IterBasedTrainLoop', max_iters=4, val_interval=4)
    other = sr_runs.runner(root, tmp_path, train_cfg=rare)
    other.train()
    expected = toy.history(trainings[0])['train/loss_l1']
    assert toy.history(other)['train/loss_l1'] == expected


@pytest.fixture
def draws(monkeypatch):
    """List the draws of the images that are read."""
    from mmesbnn.datasets import PairedSRDataset

    read, original = [], PairedSRDataset.__getitem__

    def spy(self, key):
        if isinstance(key, tuple):
            read.append(key[1][1])
        return original(self, key)

    monkeypatch.setattr(PairedSRDataset, '__getitem__', spy)
    return read


def test_skipped_images_are_not_read(root, trainings, tmp_path, draws):
    last = str(trainings[2][0] / 'iter_2.pth')
    resumed = sr_runs.runner(root, tmp_path, resume=True, load_from=last)
    resumed.train()
    assert draws == [4, 5, 6, 7]


def test_a_loop_may_skip_by_a_count(root, tmp_path, draws):
    """The loop of onedl-mmengine skips so, that of mmengine one by one."""
    runner = sr_runs.runner(root, tmp_path)
    loop = runner.train_loop
    loop._iter = 2
    IterSeedHook().before_train(runner)
    loop.dataloader_iterator.skip_iter(2)
    assert draws == []
    next(loop.dataloader_iterator)
    assert draws == [4, 5]


def test_seeds_differ_by_iteration_and_run(root, tmp_path):
    drawn = {}
    for seed in (1, 2):
        runner = sr_runs.runner(root, tmp_path, randomness=dict(seed=seed))
        for iteration in range(3):
            runner.train_loop._iter = iteration
            IterSeedHook().before_train_iter(runner, 0)
            drawn[seed, iteration] = torch.rand(1).item()
    assert len(set(drawn.values())) == 6


def test_other_samplers_are_refused(root, tmp_path):
    cfg = sr_runs.config(root, tmp_path)
    cfg['train_dataloader']['sampler'] = dict(type='InfiniteSampler')
    cfg.pop('custom_imports')
    runner = Runner(**cfg)
    with pytest.raises(ValueError, match='sampler of train_dataloader is a InfiniteS'):
        runner.train()


def test_samplers_of_batches_are_refused(root, tmp_path):
    runner = sr_runs.runner(root, tmp_path)
    data = runner.train_loop.dataloader
    runner.train_loop.dataloader = DataLoader(data.dataset, batch_sampler=data.batch_sampler)
    with pytest.raises(ValueError, match='train_dataloader has the batch_sampler BatchSampler'):
        IterSeedHook().before_train(runner)


def test_epochs_are_refused(tmp_path):
    runner = toy.runner(tmp_path, [IterSeedHook()])
    with pytest.raises(ValueError, match='counts epochs: use EpochSeedHook'):
        runner.train()
