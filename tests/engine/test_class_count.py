"""A head must have the classes of the data."""

from types import SimpleNamespace

import pytest
from torch import nn

from mmesbnn.engine.hooks import ClassCountHook

STAGES = ('train', 'val', 'test')


def runner(num_classes, classes):
    model = nn.Module()
    if num_classes is not None:
        model.head = nn.Module()
        model.head.num_classes = num_classes
    metainfo = {} if classes is None else {'classes': ['a'] * classes}
    loader = SimpleNamespace(dataset=SimpleNamespace(metainfo=metainfo))
    loaders = {f'{stage}_dataloader': loader for stage in STAGES}
    return SimpleNamespace(model=model, **loaders)


def check(stage, *args):
    getattr(ClassCountHook(), f'before_{stage}')(runner(*args))


@pytest.mark.parametrize('stage', STAGES)
def test_other_number_is_refused(stage):
    text = f'num_classes=5 in the head, but the data of {stage}_dataloader has 10'
    with pytest.raises(ValueError, match=text):
        check(stage, 5, 10)


@pytest.mark.parametrize('stage', STAGES)
@pytest.mark.parametrize('counts', [(10, 10), (None, 10), (10, None)])
def test_equal_or_unknown_numbers_pass(stage, counts):
    check(stage, *counts)
