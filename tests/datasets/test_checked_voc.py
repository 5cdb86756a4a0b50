"""Unusual VOC annotations are reported before training."""

import os
import shutil
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS, init_default_scope
from mmengine.structures import InstanceData

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
        type='CheckedVOCDataset',
        data_root=str(root),
        ann_file=f'VOC2007/ImageSets/Main/{split}.txt',
        data_prefix=dict(sub_data_root='VOC2007/'),
        pipeline=[],
    )
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
    cfg = dict(
        data_root=str(root),
        ann_file=ours.ann_file,
        pipeline=[],
        data_prefix=dict(sub_data_root=ours.sub_data_root),
    )
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


def test_more_classes_than_voc_has_can_be_drawn(root, warnings, tmp_path):
    from mmdet.structures import DetDataSample
    from mmdet.visualization import DetLocalVisualizer

    classes = [*VOC_CLASSES, 'kite', 'yak']
    visualizer = DetLocalVisualizer()
    visualizer.dataset_meta = build(root, metainfo=dict(classes=classes)).metainfo
    found = dict(bboxes=torch.tensor([[1.0, 1, 20, 20]]), labels=torch.tensor([21]))
    sample = DetDataSample(pred_instances=InstanceData(**found, scores=torch.ones(1)))
    image = np.zeros((64, 64, 3), np.uint8)
    visualizer.add_datasample('x', image, sample, out_file=str(tmp_path / 'x.png'))
    assert (tmp_path / 'x.png').exists()
    assert 'palette' in build(root, metainfo=dict(classes=classes[:20])).metainfo


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
    # in tests the annotation does not change
    assert boxes(build(root, test_mode=True))[0] == tuple(x - 1 for x in box)


@pytest.mark.parametrize('size', [SIZE[::-1], (8, 8), (9999, 9999)])
def test_the_size_is_that_of_the_image(root, warnings, size):
    good = build(root)
    edit(root, 1, f'<width>{SIZE[0]}<', f'<width>{size[0]}<')
    edit(root, 1, f'<height>{SIZE[1]}<', f'<height>{size[1]}<')
    for test_mode in (False, True):
        found = build(root, test_mode=test_mode).get_data_info(0)
        assert (found['width'], found['height']) == SIZE
    assert boxes(build(root)) == boxes(good)
    assert len(warnings) == 3
    assert all('1 annotations have another size than their image' in w for w in warnings)


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


def test_small_boxes_stay_ignored_if_difficult_objects_train(root):
    change(root, 1, xmin=10, xmax=16, ymin=10, ymax=30)
    for difficult in (0, 1):
        change(root, 1, difficult=difficult)
        for least, expected in ((6, 0), (7, 1)):
            cfg = dict(bbox_min_size=least)
            assert ignored(build(root, use_difficult=True, filter_cfg=cfg))[0] == expected


def test_other_classes_are_counted(root, warnings):
    for number in (1, 2):
        change(root, number, name='unicorn')
    build(root)
    assert "leaves out 2 objects of class 'unicorn'" in warnings[0]


def test_no_object_of_the_classes_is_an_error(root):
    with pytest.raises(ValueError, match=r"images has an object of the classes \('x',"):
        build(root, metainfo=dict(classes=('x', 'y')))


@pytest.mark.parametrize(
    ('line', 'shown'), [('000002 ', "'000002 '"), ('\ufeff000001', r"'\\ufeff000001'"), ('', "''")]
)
def test_what_is_wrong_with_a_name_in_a_list_is_shown(root, line, shown):
    path = root / 'VOC2007/ImageSets/Main/trainval.txt'
    path.write_text(f'{line}\n', encoding='utf-8')
    with pytest.raises(ValueError, match=f'no such file, but .*trainval.txt lists {shown}'):
        build(root)


@pytest.mark.parametrize('what', ['missing', 'truncated', 'no box', 'no number'])
def test_annotations_that_cannot_be_read_are_named(root, what):
    path = root / 'VOC2007/Annotations/000002.xml'
    text = path.read_text()
    if what == 'missing':
        path.unlink()
        message = '000002.xml: no such file, but .*trainval.txt lists .000002.'
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


def edit(root, number, old, new):
    path = root / f'VOC2007/Annotations/{number:06d}.xml'
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        ('<width>96<', '<width>0<', "its <width> is '0' and must be a number of pix"),
        ('<height>64<', '<height>-1<', "its <height> is '-1' and must be"),
        ('<height>64<', '<height>9999999999<', 'its <height> is .* and must be'),
        ('<height>64</height>', '', 'its <size> has no <height>'),
        ('<difficult>0<', '<difficult><', 'object 1: its <difficult> is empty and'),
        ('<difficult>0<', '<difficult>no<', "object 1: its <difficult> is 'no' and"),
        ('<xmin>', '<xmin>1e400</xmin><xmin>', "object 1: its <xmin> is '1e400' and"),
        ('<xmin>', '<xmin>nan</xmin><xmin>', "object 1: its <xmin> is 'nan' and must"),
        ('<xmin>', '<xmin>1e99</xmin><xmin>', "object 1: its <xmin> is '1e99' and mu"),
        ('<name>', '<name></name><name>', 'object 1: it has no <name>'),
        ('<annotation>', '<annotation>&x;', 'no VOC annotation .undefined entity'),
        ('<annotation>', '<annotation xmlns="a">', r'its root is <\{a\}annotation>, not <anno'),
    ],
)
def test_wrong_values_are_named(root, warnings, old, new, message):
    change(root, 2, difficult=0)
    edit(root, 2, old, new)
    for test_mode in (False, True):
        with pytest.raises(ValueError, match=f'000002.xml: .*{message}') as caught:
            build(root, test_mode=test_mode)
        assert len(str(caught.value)) < 600


@pytest.mark.parametrize('end', ['9' * 400, '9' * 30])
@pytest.mark.parametrize('test_mode', [False, True])
def test_long_numbers_are_checked_to_their_end(root, end, test_mode):
    change(root, 1, xmax='0' * 100 + end)
    with pytest.raises(ValueError, match=r'no VOC annotation .*its <xmax> is .* must be a number'):
        build(root, test_mode=test_mode)


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-16', 'utf-16-be'])
def test_entities_are_not_read(root, encoding):
    path = root / 'VOC2007/Annotations/000001.xml'
    text = path.read_text()
    declared = '<!DOCTYPE annotation [<!ENTITY x "y">]>'
    path.write_bytes((declared + text).replace('<name>', '<name>&x;').encode(encoding))
    with pytest.raises(ValueError, match=r'000001.xml: .*it declares entities'):
        build(root)
    # these words are no declaration
    path.write_bytes(text.replace('<object>', '<!-- <!ENTITY --><object>').encode(encoding))
    build(root)


def test_entities_that_grow_are_not_read(root):
    entities = ''.join(
        f'<!ENTITY x{i} "{f"&x{i - 1};" * 10 if i else "lol" * 10}">' for i in range(12)
    )
    path = root / 'VOC2007/Annotations/000001.xml'
    text = f'<!DOCTYPE annotation [{entities}]><annotation>&x11;</annotation>'
    for encoding in ('utf-8', 'utf-16'):
        path.write_bytes(text.encode(encoding))
        with pytest.raises(ValueError, match=r'000001.xml: .*it declares entities'):
            build(root)


def test_attributes_that_every_element_gets_are_not_read(root):
    path = root / 'VOC2007/Annotations/000001.xml'
    text = path.read_text()
    path.write_text(f'<!DOCTYPE annotation [<!ATTLIST name x CDATA "y">]>{text}')
    with pytest.raises(ValueError, match=r'000001.xml: .*it declares entities or attributes'):
        build(root)
    path.write_text(f'<!DOCTYPE annotation>{text}')
    build(root)


def test_large_and_odd_annotations_are_not_read(root, monkeypatch):
    path = root / 'VOC2007/Annotations/000001.xml'
    monkeypatch.setattr('mmesbnn.datasets.voc_annotation.MOST_BYTES', 100)
    with pytest.raises(ValueError, match=r'000001.xml: .*over 100 B'):
        build(root)
    monkeypatch.undo()
    path.write_text(f'<annotation>{"<a>" * 2**18}{"</a>" * 2**18}</annotation>')
    with pytest.raises(ValueError, match=r'000001.xml: .*more than 131072 elements'):
        build(root)
    for encoding in ('utf-8', 'utf-16'):
        text = f'<annotation {" ".join(f"a{i}=" + repr("") for i in range(2**17 + 1))}/>'
        path.write_bytes(text.encode(encoding))
        with pytest.raises(ValueError, match=r'000001.xml: .*more than 131072 attributes'):
            build(root)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match=r'000001.xml: .*a named pipe'):
        build(root)


@pytest.mark.parametrize('classes', ['Helmet', ('Helmet'), [], ['a', 'a'], [1]])
def test_classes_are_a_list_of_names(root, classes):
    with pytest.raises(ValueError, match=r"metainfo\['classes'\]=.* must be a list"):
        build(root, metainfo=dict(classes=classes))


def test_lists_in_another_encoding_are_named(root, tmp_path):
    text = 'Löwe\nHäuser\n'.encode('latin-1')
    names = tmp_path / 'names.txt'
    names.write_bytes(text)
    with pytest.raises(ValueError, match=r'metainfo=.*names\.txt.* must be text in UTF-8'):
        build(root, metainfo=dict(classes=str(names)))
    (root / 'VOC2007/ImageSets/Main/odd.txt').write_bytes(text)
    with pytest.raises(ValueError, match=r'ann_file=.*odd\.txt. must be text in UTF-8'):
        build(root, split='odd')


def test_images_are_looked_at_when_the_data_set_is_made(root):
    path = root / 'VOC2007/JPEGImages/000003.jpg'
    image = path.read_bytes()
    path.unlink()
    with pytest.raises(ValueError, match=r'000003.jpg: no such file, but .*000003'):
        build(root)
    path.with_suffix('.png').write_bytes(image)
    with pytest.raises(ValueError, match=r'there is 000003.png; convert it to .jpg'):
        build(root)
    path.write_bytes(b'no image')
    with pytest.raises(ValueError, match=r'000003.jpg cannot be read as an image'):
        build(root)


def test_boxes_outside_of_all_images_are_told(root):
    path = root / 'VOC2007/ImageSets/Main/one.txt'
    path.write_text('000001\n')
    xml = root / 'VOC2007/Annotations/000001.xml'
    tree = ET.parse(xml)
    for tag in ('xmin', 'ymin', 'xmax', 'ymax'):
        for corner in tree.iter(tag):
            corner.text = '200'
    tree.write(xml)
    with pytest.raises(ValueError, match='boxes outside of their image'):
        build(root, split='one')
