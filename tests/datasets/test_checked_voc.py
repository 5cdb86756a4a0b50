"""VOC annotations: what is odd about them is said before training."""

import shutil
from xml.etree import ElementTree as ET

import pytest
from mmengine.registry import DATASETS, init_default_scope

import mmesbnn  # noqa: F401 (registers the data set)
from mmesbnn.datasets import VOC_CLASSES, write_mini_voc

pytest.importorskip('mmcv.ops', exc_type=ImportError)
pytest.importorskip('mmdet')

SIZE = (96, 64)


@pytest.fixture(scope='module')
def original(tmp_path_factory):
    root = tmp_path_factory.mktemp('data') / 'VOCdevkit'
    write_mini_voc(root, size=SIZE, counts=(6, 2, 3), names=VOC_CLASSES[:10])
    return root


@pytest.fixture
def root(original, tmp_path):
    return shutil.copytree(original, tmp_path / 'VOCdevkit')


@pytest.fixture
def warnings(monkeypatch):
    told = []
    monkeypatch.setattr(
        'mmesbnn.datasets.checked_voc.print_log', lambda text, *_: told.append(text)
    )
    return told


def build(root, split='trainval', **options):
    init_default_scope('mmdet')
    cfg = dict(
        type='CheckedVOCDataset', data_root=str(root),
        ann_file=f'VOC2007/ImageSets/Main/{split}.txt',
        data_prefix=dict(sub_data_root='VOC2007/'), pipeline=[],
    )  # fmt: skip
    return DATASETS.build({**cfg, **options})


def change(root, number, **values):
    """Change tags of the first object of an image; return the box as it was."""
    path = root / f'VOC2007/Annotations/{number:06d}.xml'
    tree = ET.parse(path)
    thing = tree.find('object')
    for tag, value in values.items():
        next(thing.iter(tag)).text = str(value)
    tree.write(path)


def boxes(dataset, index=0):
    return [tuple(x['bbox']) for x in dataset.get_data_info(index)['instances']]


def ignored(dataset, index=0):
    return [x['ignore_flag'] for x in dataset.get_data_info(index)['instances']]


def test_reads_what_mmdets_own_class_reads(root, warnings):
    from mmdet.datasets import VOCDataset

    ours = build(root)
    cfg = dict(data_root=str(root), ann_file=ours.ann_file, pipeline=[],
               data_prefix=dict(sub_data_root=ours.sub_data_root))  # fmt: skip
    theirs = VOCDataset(**cfg)
    assert len(ours) == len(theirs) == 6
    for i in range(6):
        assert ours.get_data_info(i) == theirs.get_data_info(i)
    assert ours.metainfo == theirs.metainfo
    assert not warnings


def test_own_classes_have_no_year(root, warnings):
    dataset = build(root, metainfo=dict(classes=VOC_CLASSES[:9]))
    assert dataset.metainfo['dataset_type'] is None
    assert build(root).metainfo['dataset_type'] == 'VOC2007'


@pytest.mark.parametrize(
    ('box', 'expected'),
    [
        ((-20, -5, 30, 40), (0, 0, 29, 39)),
        ((50, 30, 200, 300), (49, 29, 95, 63)),
        ((97, 1, 120, 20), None),
        ((-30, 1, 0, 20), None),
    ],
)
def test_boxes_are_cut_in_training(root, warnings, box, expected):
    change(root, 1, **dict(zip(('xmin', 'ymin', 'xmax', 'ymax'), box)))
    count = len(boxes(build(root, test_mode=True)))
    found = boxes(build(root))
    if expected is None:
        assert len(found) == count - 1
        assert 'leaves out 1 boxes outside of their image' in warnings[0]
    else:
        assert found[0] == expected
        assert not warnings
    # a test looks at the annotation as it is
    assert boxes(build(root, test_mode=True))[0] == tuple(x - 1 for x in box)


def test_boxes_of_one_pixel_are_ignored(root, warnings):
    change(root, 1, xmin=10, xmax=10, difficult=0)
    assert ignored(build(root))[0] == 1
    assert 'leaves out 1 boxes of one pixel' in warnings[0]
    # also if difficult objects train
    assert ignored(build(root, use_difficult=True))[0] == 1


def test_difficult_objects_train_if_asked_to(root, warnings):
    change(root, 1, difficult=1)
    assert ignored(build(root))[0] == 1
    assert ignored(build(root, use_difficult=True))[0] == 0
    assert ignored(build(root, use_difficult=True, test_mode=True))[0] == 1


def test_other_classes_are_counted(root, warnings):
    for number in (1, 2):
        change(root, number, name='unicorn')
    build(root)
    assert "leaves out 2 objects of class 'unicorn'" in warnings[0]


def test_no_object_of_the_classes_is_an_error(root):
    with pytest.raises(ValueError, match=r"images has an object of the classes \('x',"):
        build(root, metainfo=dict(classes=('x', 'y')))


@pytest.mark.parametrize('what', ['missing', 'truncated', 'no box', 'no number'])
def test_annotations_that_cannot_be_read_are_named(root, what):
    path = root / 'VOC2007/Annotations/000002.xml'
    text = path.read_text()
    if what == 'missing':
        path.unlink()
        message = '000002.xml: no such file, but .*trainval.txt lists 000002'
    else:
        text = {
            'truncated': text[:200],
            'no box': text.replace('xmin', 'x_min'),
            'no number': text.replace('<ymax>', '<ymax>a'),
        }[what]
        path.write_text(text)
        message = '000002.xml: no VOC annotation'
    with pytest.raises(ValueError, match=message):
        build(root)


def test_swapped_corners_are_an_error(root):
    change(root, 1, xmin=50, xmax=20)
    with pytest.raises(ValueError, match='must have xmin <= xmax and ymin <= ymax'):
        build(root)
