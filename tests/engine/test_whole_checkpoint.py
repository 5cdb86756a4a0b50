"""Checkpoints are complete, the newest is found, and none is removed too early."""

import shutil
from pathlib import Path

import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.fileio import LocalBackend
from mmengine.hooks import EMAHook, Hook

from mmesbnn.checkpoints import CheckpointError, read_checkpoint
from mmesbnn.engine.hooks import EpochSeedHook, TemperatureHook, WholeCheckpointHook
from mmesbnn.engine.resuming import read_pointer
from mmesbnn.whole_files.partial import computer
from tests.engine import toy


class Scores(BaseMetric):
    """Returns the given scores in order, one per epoch (counted from 1)."""

    default_prefix = 'toy'

    def __init__(self, scores):
        super().__init__()
        self.scores, self.epoch = scores, lambda: 0

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        score = self.scores[self.epoch() - 1]
        return {'score': score, 'error': (score - 2) ** 2}


class Watch(Hook):
    """Record the files in the work dir before and after each validation, by epoch."""

    priority = 'LOWEST'

    def __init__(self):
        self.before, self.after = {}, {}

    def look(self, runner):
        return {
            path.name: (path.stat().st_ino, path.stat().st_mtime_ns)
            for path in Path(runner.work_dir).iterdir()
            if path.is_file()
        }

    def before_val(self, runner):
        self.before[runner.epoch] = self.look(runner)

    def after_val(self, runner):
        self.after[runner.epoch] = self.look(runner)


def build(work_dir, scores=(1, 2, 3, 4), epochs=None, hooks=(), iters=None, **saving):
    torch.manual_seed(0)
    metric = Scores(scores)
    saving = {'type': 'WholeCheckpointHook', 'rule': 'greater', **saving}
    saving.setdefault('interval', 1)
    runner = toy.runner(
        work_dir,
        [EpochSeedHook(), EMAHook(momentum=0.1), *hooks],
        epochs=epochs or len(scores),
        val=True,
        val_evaluator=Evaluator([metric]),
        log_level='INFO',
        default_hooks=dict(checkpoint=saving),
        randomness=dict(seed=1),
        resume=(Path(work_dir) / 'resume').exists(),
    )
    metric.epoch = lambda: runner.epoch
    return runner


def train(*args, **kwargs):
    runner = build(*args, **kwargs)
    runner.train()
    return runner


def resume(work_dir, *args, **kwargs):
    (work_dir / 'resume').touch()
    return train(work_dir, *args, **kwargs)


def checkpoints(work_dir):
    return sorted(path.name for path in work_dir.glob('*.pth'))


class Died(BaseException):
    pass


class Die(Hook):
    """End the training in ``stage`` of an epoch."""

    priority = 'LOWEST'

    def __init__(self, stage, epoch):
        self.epoch = epoch
        setattr(self, stage, self.die)

    def die(self, runner, **kwargs):
        if runner.epoch == self.epoch:
            raise Died


def killed(work_dir, stage, epoch, *args, **kwargs):
    with pytest.raises(Died):
        train(work_dir, *args, hooks=[Die(stage, epoch)], **kwargs)


def test_a_new_best_does_not_touch_the_newest_checkpoint(tmp_path):
    watch = Watch()
    train(tmp_path, hooks=[watch], save_best='toy/score', max_keep_ckpts=1)
    assert list(watch.before) == [1, 2, 3, 4]
    for epoch, before in watch.before.items():
        assert f'epoch_{epoch}.pth' in before
        after = watch.after[epoch]
        assert f'best_toy_score_epoch_{epoch}.pth' in after.keys() - before.keys()
        assert {name: after[name] for name in before} == before
    assert checkpoints(tmp_path) == ['best_toy_score_epoch_4.pth', 'epoch_4.pth']


def test_the_old_one_goes_after_the_new_one_is_named(tmp_path, monkeypatch):
    seen = []
    put, unlink = LocalBackend.put, Path.unlink

    def watched_put(self, obj, filepath):
        if Path(filepath).name.startswith('.epoch'):
            seen.append(('write', checkpoints(tmp_path)))
        put(self, obj, filepath)

    def watched_unlink(self, **kwargs):
        if self.name.startswith('epoch'):
            seen.append(('remove', self.name, read_pointer(tmp_path).name))
        unlink(self, **kwargs)

    monkeypatch.setattr(LocalBackend, 'put', watched_put)
    monkeypatch.setattr(Path, 'unlink', watched_unlink)
    train(tmp_path, scores=(1, 1), max_keep_ckpts=1)
    assert seen == [
        ('write', []),
        ('write', ['epoch_1.pth']),
        ('remove', 'epoch_1.pth', 'epoch_2.pth'),
    ]


def test_a_best_one_that_is_superseded_stays_until_a_checkpoint_knows(tmp_path):
    watch = Watch()
    train(tmp_path, (1, 2, 0, 0), hooks=[watch], interval=2, save_best='auto')
    best = [
        sorted(name for name in after if name.startswith('best')) for after in watch.after.values()
    ]
    one, two = (f'best_toy_score_epoch_{epoch}.pth' for epoch in (1, 2))
    assert best == [[one], [one, two], [one, two], [two]]


@pytest.mark.parametrize(
    ('stage', 'epoch'),
    [
        ('before_val', 2),
        ('after_val', 2),
        ('before_train_epoch', 2),
        ('after_train_iter', 2),
        ('before_val', 4),
        ('after_val', 3),
    ],
)
@pytest.mark.parametrize('interval', [1, 2])
def test_a_resumed_training_ends_as_if_nothing_had_been(tmp_path, stage, epoch, interval):
    scores = (1, 3, 2, 2)
    options = dict(save_best='toy/score', max_keep_ckpts=1, interval=interval)
    whole = train(tmp_path / 'whole', scores, **options)
    killed(tmp_path / 'parts', stage, epoch, scores, **options)
    parts = resume(tmp_path / 'parts', scores, **options)
    assert toy.history(parts) == toy.history(whole)
    assert len(toy.history(parts)['val/toy/score']) == 4
    best = 'best_toy_score_epoch_2.pth'
    assert checkpoints(tmp_path / 'parts') == [best, 'epoch_4.pth']
    assert checkpoints(tmp_path / 'whole') == [best, 'epoch_4.pth']
    for name in (best, 'epoch_4.pth'):
        expected, got = (
            read_checkpoint(tmp_path / folder / name)['state_dict'] for folder in ('whole', 'parts')
        )
        assert not [key for key in expected if not torch.equal(expected[key], got[key])]


def test_each_metric_has_a_best_one_and_keeps_it_when_resumed(tmp_path):
    options = dict(save_best=['toy/score', 'toy/error'], rule=['greater', 'less'], max_keep_ckpts=1)
    scores = (1, 2, 3, 2)
    killed(tmp_path, 'after_train_iter', 3, scores, **options)
    resume(tmp_path, scores, **options)
    assert checkpoints(tmp_path) == [
        'best_toy_error_epoch_2.pth',
        'best_toy_score_epoch_3.pth',
        'epoch_4.pth',
    ]


def test_a_best_one_that_is_gone_counts_no_more(tmp_path):
    scores, options = (3, 2, 1, 0), dict(save_best='toy/score')
    killed(tmp_path, 'after_train_iter', 2, scores, **options)
    (tmp_path / 'best_toy_score_epoch_1.pth').unlink()
    runner = resume(tmp_path, scores, **options)
    assert 'best_toy_score_epoch_2.pth' in checkpoints(tmp_path)
    assert runner.message_hub.get_info('best_score') == 2
    assert 'the best checkpoint so far, is missing' in toy.log_of(tmp_path)


def test_an_end_before_old_ones_are_removed_is_made_up_for(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(WholeCheckpointHook, '_remove', lambda *_: None)
        scores = (1, 2, 3, 4)
        options = dict(save_best='toy/score', max_keep_ckpts=1)
        killed(tmp_path, 'before_val', 3, scores, **options)
    assert 'epoch_2.pth' in checkpoints(tmp_path)
    resume(tmp_path, scores, **options)
    # epoch_1 is an earlier checkpoint, because a process dies once
    assert 'epoch_2.pth' not in checkpoints(tmp_path)
    assert 'best_toy_score_epoch_1.pth' not in checkpoints(tmp_path)


@pytest.fixture
def two_epochs(tmp_path):
    """Return the work dir of a training that ended after two of four epochs."""
    folder = tmp_path / 'work'
    killed(folder, 'before_train_epoch', 2, (1, 2, 3, 4))
    assert checkpoints(folder) == ['epoch_1.pth', 'epoch_2.pth']
    return folder


def tear(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    """Damage a file like a disk after a power failure: right size, wrong content."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 512] = bytes(512)
    path.write_bytes(content)


def strip(path):
    torch.save({'state_dict': {}}, path)


@pytest.mark.parametrize('damage', [tear, flip, strip, Path.unlink])
def test_a_damaged_checkpoint_is_passed_over(two_epochs, damage):
    damage(two_epochs / 'epoch_2.pth')
    runner = resume(two_epochs)
    assert runner.epoch == 4
    log = toy.log_of(two_epochs)
    newest, other = (two_epochs / f'epoch_{epoch}.pth' for epoch in (2, 1))
    assert f'names {newest}, which is not whole' in log
    assert f'continues from the newest whole checkpoint, {other}' in log
    assert 'resumed epoch: 1, iter: 2' in log


@pytest.mark.parametrize('content', [None, b'', b'\xff\xfe', b'/nowhere/epoch_7.pth'])
def test_a_pointer_that_leads_nowhere_is_mended(two_epochs, content):
    pointer = two_epochs / 'last_checkpoint'
    pointer.unlink() if content is None else pointer.write_bytes(content)
    resume(two_epochs)
    log = toy.log_of(two_epochs)
    assert f'the newest whole checkpoint, {two_epochs / "epoch_2.pth"}' in log
    assert 'resumed epoch: 2, iter: 4' in log


def test_a_work_dir_may_move(tmp_path, two_epochs):
    moved = shutil.move(two_epochs, tmp_path / 'moved')
    resume(Path(moved), max_keep_ckpts=1)
    assert 'resumed epoch: 2, iter: 4' in toy.log_of(Path(moved))
    assert not two_epochs.exists()


def test_without_a_whole_checkpoint_it_starts_again_and_says_so(two_epochs):
    for name in checkpoints(two_epochs):
        tear(two_epochs / name)
    runner = resume(two_epochs)
    assert runner.epoch == 4
    log = toy.log_of(two_epochs)
    assert 'there is nothing to resume in' in log
    assert 'the training starts from the beginning' in log
    assert 'resumed epoch' not in log
    assert len(toy.history(runner)['train/loss']) == 8


def test_an_explicit_checkpoint_is_resumed_as_it_is_given(tmp_path, two_epochs):
    (two_epochs / 'resume').touch()
    runner = build(tmp_path / 'other', (1, 2, 3, 4), max_keep_ckpts=1)
    runner._resume, runner._load_from = True, str(two_epochs / 'epoch_1.pth')
    runner.train()
    assert len(toy.history(runner)['train/loss']) == 8
    # files of the other folder are not its own
    assert checkpoints(two_epochs) == ['epoch_1.pth', 'epoch_2.pth']
    assert checkpoints(tmp_path / 'other') == ['epoch_4.pth']


@pytest.mark.parametrize('last', ['.', 'epoch_1.pth', 3])
@pytest.mark.parametrize('name', ['{}', '../of_the_user', 'notes', 5])
def test_a_checkpoint_names_no_other_files_to_remove(tmp_path, two_epochs, last, name):
    files = [tmp_path / 'of_the_user', two_epochs / 'notes']
    for file in files:
        file.touch()
    name = name.format(files[0]) if isinstance(name, str) else name
    content = read_checkpoint(two_epochs / 'epoch_2.pth')
    info = dict(last_ckpt=last, outdated_ckpts=[name], best_ckpt=name, keep_ckpt_ids=name)
    content['message_hub']['runtime_info'].update(info, best_score=0.0)
    torch.save(content, two_epochs / 'epoch_2.pth')
    resume(two_epochs, save_best='toy/score', max_keep_ckpts=1)
    assert all(file.exists() for file in files)
    assert checkpoints(two_epochs)[-1] == 'epoch_4.pth'


def test_what_a_killed_process_was_writing_is_removed(tmp_path):
    gone = tmp_path / f'.epoch_1.pth.{2**22 + 1}-{computer()}-0a.part'
    own = tmp_path / f'.last_checkpoint.1-{computer()}-0a.part'  # of a process that runs
    for path in (gone, own):
        path.write_bytes(b'PK')
    train(tmp_path, (1,))
    assert not gone.exists() and own.exists()


def test_a_binary_network_is_better_than_any_other(tmp_path):
    hooks = [TemperatureHook(binary_from=1)]
    runner = train(tmp_path, (9, 1, 3, 2), hooks=hooks, save_best='toy/score')
    assert checkpoints(tmp_path)[0] == 'best_toy_score_epoch_3.pth'
    assert runner.message_hub.get_info('best_score') == 3
    log = toy.log_of(tmp_path)
    assert 'saved to best_toy_score_epoch_1.pth, with weights that are not binary' in log
    assert 'saved to best_toy_score_epoch_2.pth.' in log


def test_a_score_that_is_no_number_is_never_the_best(tmp_path):
    nan = float('nan')
    hooks = [TemperatureHook(binary_from=1)]
    runner = train(tmp_path, (9, nan, 3, nan), hooks=hooks, save_best='toy/score')
    assert checkpoints(tmp_path)[0] == 'best_toy_score_epoch_3.pth'
    assert runner.message_hub.get_info('best_score') == 3


def test_real_weights_are_compared_among_themselves(tmp_path):
    hooks = [TemperatureHook(decay=0.9)]
    train(tmp_path, (5, 9, 1), hooks=hooks, save_best='toy/score')
    assert checkpoints(tmp_path)[0] == 'best_toy_score_epoch_2.pth'


def test_a_metric_that_is_not_measured_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"save_best='nothing' is none of .*toy/score"):
        train(tmp_path, save_best='nothing')


def test_published_copies_hold_the_wanted_keys(tmp_path):
    keys = ['meta', 'state_dict']
    train(tmp_path, (1, 2), published_keys=keys, save_best='toy/score')
    published = [path for path in tmp_path.glob('*.pth') if '-' in path.name]
    assert {path.name.partition('-')[0] for path in published} == {
        'epoch_2',
        'best_toy_score_epoch_2',
    }
    for path in published:
        assert sorted(read_checkpoint(path)) == keys


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        (dict(interval='1'), ValueError, "interval='1' must be an integer"),
        (dict(max_keep_ckpts=1.5), ValueError, 'max_keep_ckpts=1.5 must be'),
        (dict(by_epoch='no'), ValueError, "by_epoch='no' must be"),
        (dict(save_last=1), ValueError, 'save_last=1 must be'),
        (dict(save_begin=-1), ValueError, 'save_begin=-1 must be'),
        (dict(out_dir=3), ValueError, 'out_dir=3 must be'),
        (dict(filename_tmpl='epoch.pth'), ValueError, "filename_tmpl='epoch.pth'"),
        (dict(filename_tmpl='a/{}.pth'), ValueError, "filename_tmpl='a/{}.pth'"),
        (dict(filename_tmpl=3), ValueError, 'filename_tmpl=3 must be'),
        (dict(save_best=1), ValueError, 'save_best=1 must be'),
        (dict(save_best=['a', 3]), ValueError, r"save_best=\['a', 3\] must be"),
        (dict(save_best=['a', 'a']), ValueError, r"save_best=\['a', 'a'\] must"),
        (dict(save_best='a', rule='more'), ValueError, "rule='more' must be"),
        (dict(save_best='a', rule=2), ValueError, 'rule=2 must be'),
        (dict(save_best='a', rule=[None]), ValueError, r'rule=\[None\] must be'),
        (dict(save_best=[None]), ValueError, r'save_best=\[None\] must be'),
        (dict(out_dir='s3://bucket'), ValueError, "out_dir='s3://bucket' must be"),
        (dict(backend_args=dict(backend='petrel')), TypeError, "'backend_args'"),
        (dict(intervall=1), TypeError, "no argument 'intervall'"),
    ],
)
def test_wrong_arguments_are_named(options, error, message):
    with pytest.raises(error, match=message):
        WholeCheckpointHook(**options)


@pytest.mark.parametrize('damage', ['torn', 'missing', 'no hub'])
def test_a_named_checkpoint_that_is_not_whole(tmp_path, damage):
    path = tmp_path / 'named.pth'
    if damage != 'missing':
        torch.save(dict(meta=dict(epoch=1, iter=2), state_dict={}), path)
    if damage == 'torn':
        path.write_bytes(path.read_bytes()[:-50])
    runner = build(tmp_path / 'work')
    runner._resume, runner._load_from = True, str(path)
    with pytest.raises(
        CheckpointError, match=r'^resume=.*named\.pth: it is not whole \(.+\); '
    ) as e:
        runner.train()
    assert '\n' not in str(e.value)


def test_a_checkpoint_of_another_network_is_not_resumed(tmp_path):
    options = dict(default_hooks=dict(checkpoint=dict(type='WholeCheckpointHook', interval=1)))
    toy.runner(tmp_path, [], **options).train()
    other = toy.runner(tmp_path, [], toy.ToyClassifier(se_ratio=4), resume=True, **options)
    with pytest.raises(ValueError, match=r'the checkpoint does not fit the model: .*squeeze'):
        other.train()
