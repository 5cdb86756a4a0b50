"""Checkpoint hooks of one training have their own files and records, or are refused."""

import locale
import os

import pytest
from mmengine.hooks import CheckpointHook

from mmesbnn.engine.hooks import WholeCheckpointHook
from tests.engine import toy


def names(folder):
    return sorted(path.name for path in folder.glob('*.pth'))


def train(work_dir, *hooks):
    toy.runner(work_dir, [*hooks], model=toy.PlainModel()).train()


@pytest.mark.parametrize('kind', [CheckpointHook, WholeCheckpointHook])
def test_one_record_of_two_best_scores_is_refused(tmp_path, kind):
    first = WholeCheckpointHook(save_best='a', rule='greater')
    hooks = first, kind(interval=1, save_best='b', rule='less')
    with pytest.raises(ValueError, match=r"save_best=\['a'\] and save_best=\['b'\] of two"):
        train(tmp_path, *hooks)


@pytest.mark.parametrize('kind', [CheckpointHook, WholeCheckpointHook])
def test_a_hook_that_would_remove_the_files_of_another_is_refused(tmp_path, kind):
    hooks = WholeCheckpointHook(interval=1, max_keep_ckpts=1), kind(interval=2)
    with pytest.raises(ValueError, match=r'max_keep_ckpts=1 would remove files .* epoch_\{\}\.pth'):
        train(tmp_path, *hooks)


def test_hooks_with_their_own_names_save_both(tmp_path):
    every = WholeCheckpointHook(interval=1, max_keep_ckpts=1)
    train(tmp_path, every, WholeCheckpointHook(interval=1, filename_tmpl='keep_{}.pth'))
    assert names(tmp_path) == ['epoch_2.pth', 'keep_1.pth', 'keep_2.pth']


@pytest.mark.parametrize('turned', [False, True])
def test_hooks_with_their_own_folders_save_both(tmp_path, turned):
    work, other = tmp_path / 'work', tmp_path / 'other'
    pair = [
        WholeCheckpointHook(interval=1, max_keep_ckpts=1),
        WholeCheckpointHook(interval=1, out_dir=other),
    ]
    train(work, *(reversed(pair) if turned else pair))
    assert names(work) == ['epoch_2.pth']
    assert names(other / 'work') == ['epoch_1.pth', 'epoch_2.pth']


def test_hooks_with_several_metrics_have_records_for_each(tmp_path):
    pairs = [
        WholeCheckpointHook(save_best=keys, rule='greater') for keys in (['a', 'b'], ['c', 'd'])
    ]
    train(tmp_path, *pairs)
    assert names(tmp_path) == ['epoch_2.pth']


def test_a_folder_that_the_pointer_cannot_name_is_refused_before_the_training(tmp_path):
    folder = tmp_path / os.fsdecode(b'w\xff')
    with pytest.raises(ValueError, match=r"saved in '.*/w\\udcff': last_checkpoint names them"):
        train(folder, WholeCheckpointHook(interval=1))
    assert names(folder) == []


def test_a_folder_with_letters_that_the_locale_lacks(tmp_path, monkeypatch):
    monkeypatch.setattr(locale, 'getpreferredencoding', lambda *_: 'ascii')
    with pytest.raises(ValueError, match=r'/\u00fc.: last_checkpoint .* must be text in ascii'):
        train(tmp_path / '\u00fc', WholeCheckpointHook(interval=1))


def test_a_unit_that_the_training_does_not_count_is_named(tmp_path):
    for iters, by_epoch in ((None, False), (4, True), (None, True), (4, False)):
        hook = WholeCheckpointHook(interval=1, by_epoch=by_epoch)
        folder = tmp_path / f'{iters}-{by_epoch}'
        toy.runner(folder, [hook], model=toy.PlainModel(), iters=iters).train()
        warned = f'by_epoch={by_epoch}, but the training counts' in toy.log_of(folder)
        assert warned == (by_epoch == bool(iters))
    assert names(tmp_path / '4-True') == ['epoch_1.pth']
