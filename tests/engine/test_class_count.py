"""A head must have as many classes as the data."""

import json
from types import SimpleNamespace

import pytest
from torch import nn

from mmesbnn.engine.hooks import ClassCountHook
from tests.engine.toy import FirstView

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


def detector(*paths, num_classes=3):
    """Return a model with heads at these places."""
    model = nn.Module()
    for path in paths:
        place, *parts = model, *path.split('.')
        for part in parts[:-1]:
            if not hasattr(place, part):
                setattr(place, part, nn.Module())
            place = getattr(place, part)
        head = nn.Module()
        head.num_classes = num_classes
        setattr(place, parts[-1], head)
    return model


def check_model(model, classes, **dataset):
    loader = SimpleNamespace(dataset=SimpleNamespace(metainfo={'classes': classes}, **dataset))
    ClassCountHook().before_train(SimpleNamespace(model=model, train_dataloader=loader))


@pytest.mark.parametrize('path', ['bbox_head', 'roi_head.bbox_head'])
def test_heads_of_detectors_are_compared(path):
    text = f'num_classes=3 in the {path}, but .* has 2 classes: helmet, head'
    with pytest.raises(ValueError, match=text):
        check_model(detector(path), ('helmet', 'head'))
    check_model(detector(path), ('helmet', 'head', 'person'))


def test_boxes_of_panoptic_data_are_those_of_things():
    data = SimpleNamespace(metainfo=dict(classes=['cat', 'sky'], thing_classes=['cat']))
    loader = SimpleNamespace(dataset=data)
    path = 'roi_head.bbox_head'
    fitting = SimpleNamespace(model=detector(path, num_classes=1), train_dataloader=loader)
    ClassCountHook().before_train(fitting)
    other = SimpleNamespace(model=detector(path, num_classes=3), train_dataloader=loader)
    with pytest.raises(ValueError, match=r'num_classes=3 in .* has 2 classes: cat, sky'):
        ClassCountHook().before_train(other)


def test_the_head_is_found_with_test_time_augmentation():
    model = detector('bbox_head')
    model.test_step = None
    with pytest.raises(ValueError, match='num_classes=3 in the bbox_head'):
        check_model(FirstView(model), ('helmet', 'head'))


def test_all_heads_of_a_cascade_are_compared():
    model = detector('roi_head.bbox_head')
    first, second = (detector('x', num_classes=n).x for n in (2, 3))
    model.roi_head.bbox_head = nn.ModuleList([first, second])
    with pytest.raises(ValueError, match=r'num_classes=3 in the roi_head.bbox_head'):
        check_model(model, ('helmet', 'head'))


def test_a_proposal_head_has_a_number_of_its_own():
    model = detector('roi_head.bbox_head')
    model.rpn_head = detector('x', num_classes=1).x
    check_model(model, ('a', 'b', 'c'))


def test_a_detector_that_only_proposes_has_no_classes():
    rpn_head = pytest.importorskip('mmdet.models.dense_heads.rpn_head', exc_type=ImportError)
    model = nn.Module()
    model.bbox_head = rpn_head.RPNHead(8, feat_channels=8)
    assert model.bbox_head.num_classes == 1
    check_model(model, ('a', 'b', 'c'))


def test_doubtful_classes_are_named():
    text = (
        'has 4 classes: .ipynb_checkpoints, cat, dog, old; hidden folders: '
        '.ipynb_checkpoints; without images: .ipynb_checkpoints, old$'
    )
    classes = ['.ipynb_checkpoints', 'cat', 'dog', 'old']
    with pytest.raises(ValueError, match=text):
        check_model(detector('head'), classes, get_gt_labels=lambda: [1, 2, 2, 1])


@pytest.mark.parametrize('labels', [dict(gt_label=[0, 1]), {}], ids=['several', 'none'])
def test_images_with_several_labels_or_none(tmp_path, labels):
    datasets = pytest.importorskip('mmpretrain.datasets')
    images = [dict(img_path='a.png', gt_label=[2]), dict(img_path='b.png', **labels)]
    content = dict(metainfo=dict(classes=['a', 'b', 'c']), data_list=images)
    (tmp_path / 'images.json').write_text(json.dumps(content))
    data = datasets.MultiLabelDataset(ann_file='images.json', data_root=str(tmp_path))
    runner = SimpleNamespace(
        model=detector('head', num_classes=5), train_dataloader=SimpleNamespace(dataset=data)
    )
    with pytest.raises(ValueError, match=r'num_classes=5 in the head, .* has 3 classes: a, b, c$'):
        ClassCountHook().before_train(runner)


def test_many_classes_stay_one_line():
    with pytest.raises(ValueError) as caught:
        check_model(detector('head'), [f'class {i}' for i in range(10_000)])
    assert len(str(caught.value)) < 600
