"""A validation without a training keeps no best checkpoint."""

import pytest
from mmengine.evaluator import BaseMetric, Evaluator

from tests.engine import toy
from tests.engine.test_whole_checkpoint import checkpoints

NOTHING_TO_TRAIN = dict(train_dataloader=None, train_cfg=None, optim_wrapper=None)


class Rising(BaseMetric):
    """Score that is higher in every validation."""

    default_prefix = 'toy'
    score = 0

    def process(self, data_batch, data_samples):
        self.results.append(None)

    def compute_metrics(self, results):
        self.score += 1
        return dict(score=self.score)


def build(work_dir, **options):
    hook = dict(type='WholeCheckpointHook', save_best='auto', rule='greater', interval=1)
    options.update(val=True, val_evaluator=Evaluator([Rising()]))
    return toy.runner(work_dir, [], default_hooks=dict(checkpoint=hook), **options)


@pytest.mark.parametrize('training', [{}, NOTHING_TO_TRAIN], ids=['configured', 'none'])
def test_no_checkpoint_is_written(tmp_path, training):
    assert build(tmp_path, **training).val() == {'toy/score': 1}
    assert checkpoints(tmp_path) == []


def test_a_training_after_it_keeps_its_own_best_one(tmp_path):
    runner = build(tmp_path)
    runner.val()
    runner.train()
    assert checkpoints(tmp_path) == ['best_toy_score_epoch_2.pth', 'epoch_1.pth', 'epoch_2.pth']
