"""The small devkit has VOC's layout, and its annotations are true."""

import sys
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from mmesbnn.datasets import VOC_CLASSES, MiniVOC, write_mini_voc
from mmesbnn.datasets import mini_voc as module

pytest.importorskip('cv2')
SIZE, COUNTS = (160, 128), (12, 6, 9)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('data') / 'nested' / 'VOCdevkit'
    assert write_mini_voc(root, size=SIZE, counts=COUNTS, objects=(0, 4)) == 27
    return root


def names(root, year, split):
    return (root / year / f'ImageSets/Main/{split}.txt').read_text().split()


def annotations(root):
    return [ET.parse(path).getroot() for path in sorted(root.glob('*/Annotations/*'))]


def boxes(tree):
    keys = ('xmin', 'ymin', 'xmax', 'ymax')
    return [
        [int(thing.find(f'bndbox/{key}').text) for key in keys] for thing in tree.findall('object')
    ]


def test_layout_is_vocs(root):
    assert [path.name for path in root.parent.iterdir()] == ['VOCdevkit']
    assert sorted(path.name for path in root.iterdir()) == ['VOC2007', 'VOC2012']
    splits = {
        (year, split): names(root, year, split)
        for year, split in (('VOC2007', 'trainval'), ('VOC2012', 'trainval'), ('VOC2007', 'test'))
    }
    assert [len(chosen) for chosen in splits.values()] == list(COUNTS)
    for year in ('VOC2007', 'VOC2012'):
        listed = sorted(n for (y, _), chosen in splits.items() if y == year for n in chosen)
        for folder, suffix in (('JPEGImages', 'jpg'), ('Annotations', 'xml')):
            files = (root / year / folder).iterdir()
            assert sorted(path.name for path in files) == [f'{name}.{suffix}' for name in listed]
    assert splits['VOC2007', 'trainval'][0] == '000001'
    assert splits['VOC2012', 'trainval'][0] == '2008_000001'


def test_images_have_the_size_that_annotations_say(root):
    for year in ('VOC2007', 'VOC2012'):
        for path in (root / year / 'JPEGImages').iterdir():
            image = Image.open(path)
            assert (image.format, image.mode, image.size) == ('JPEG', 'RGB', SIZE)
            tree = ET.parse(root / year / 'Annotations' / f'{path.stem}.xml')
            assert tree.findtext('filename') == path.name
            assert tree.findtext('folder') == year
            assert [tree.findtext(f'size/{key}') for key in ('width', 'height')] == [
                str(length) for length in SIZE
            ]


def test_boxes_are_one_based_inside_and_apart(root):
    seen = 0
    for tree in annotations(root):
        found = boxes(tree)
        seen += len(found)
        for box in found:
            assert 1 <= box[0] < box[2] <= SIZE[0]
            assert 1 <= box[1] < box[3] <= SIZE[1]
        for i, box in enumerate(found):
            for other in found[:i]:
                assert module._overlap(box, other) <= module.MAX_OVERLAP
    assert seen > 27


def test_boxes_hold_the_ink_and_nothing_else_changes():
    options = MiniVOC(size=SIZE, objects=(1, 1), scale=(0.5, 0.5))
    source = module._sources(10, 0)['test']
    source.photographs = [np.full((200, 200, 3), 128, np.uint8)]
    for seed in range(20):
        image, (thing,) = module._compose(source, options, np.random.default_rng(seed))
        x1, y1, x2, y2 = thing.box
        change = np.abs(image.astype(int) - 128).max(-1)
        most = module.FAINT[1] if thing.difficult else module.STRONG[1]
        assert 0 < change.max() <= most * 128 + 1
        rows, columns = (np.flatnonzero((change > 9).any(axis)) for axis in (1, 0))
        found = (columns[0] + 1, rows[0] + 1, columns[-1] + 1, rows[-1] + 1)
        # both thresholds cut the ink's blurred border, at different heights
        assert np.abs(np.subtract(found, thing.box)).max() <= 4
        at_border = x1 == 1 or y1 == 1 or x2 == SIZE[0] or y2 == SIZE[1]
        assert at_border or not thing.truncated


def test_flags_are_on_some_objects():
    options = MiniVOC(size=SIZE)
    source, random = module._sources(10, 0)['test'], np.random.default_rng(0)
    things = [t for _ in range(60) for t in module._compose(source, options, random)[1]]
    for flag in ('difficult', 'truncated'):
        assert 0.02 < np.mean([getattr(thing, flag) for thing in things]) < 0.25
    assert {thing.name for thing in things} == set('0123456789')


def test_train_and_test_share_neither_scans_nor_photographs():
    assert not set(module.PHOTOGRAPHS['trainval']) & set(module.PHOTOGRAPHS['test'])
    sources = module._sources(10, 0)
    for label in range(10):
        train, test = (
            {scan.tobytes() for scan in sources[split].digits[label]}
            for split in ('trainval', 'test')
        )
        assert len(test) > 50
        assert not train & test


def test_every_scan_is_shown_before_one_is_shown_again():
    source, random = module._sources(1, 0)['test'], np.random.default_rng(0)
    count = len(source.digits[0])
    shown = [source.digit(0, random).tobytes() for _ in range(2 * count)]
    assert set(shown[:count]) == set(shown[count:])
    assert len(set(shown)) == count


def contents(root):
    files = sorted(path for path in root.rglob('*') if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def test_the_seed_decides_everything(root, tmp_path):
    options = dict(size=SIZE, counts=COUNTS, objects=(0, 4))
    write_mini_voc(tmp_path / 'same', **options)
    write_mini_voc(tmp_path / 'other', **options, seed=1)
    assert contents(tmp_path / 'same') == contents(root)
    assert contents(tmp_path / 'other') != contents(root)


def test_digits_may_have_the_names_of_vocs_classes(tmp_path):
    write_mini_voc(tmp_path / 'voc', size=SIZE, counts=(20, 0, 0), names=VOC_CLASSES[:3])
    assert [path.name for path in (tmp_path / 'voc').iterdir()] == ['VOC2007']
    found = {
        thing.findtext('name')
        for tree in annotations(tmp_path / 'voc')
        for thing in tree.findall('object')
    }
    assert found == {'aeroplane', 'bicycle', 'bird'}
    assert len(VOC_CLASSES) == 20


def test_class_names_are_mmdets():
    mmdet = pytest.importorskip('mmdet.datasets.voc', exc_type=ImportError)
    assert mmdet.VOCDataset.METAINFO['classes'] == VOC_CLASSES


def test_an_existing_folder_is_left_alone(tmp_path):
    (tmp_path / 'mine.txt').write_text('mine')
    with pytest.raises(FileExistsError, match='holds something else'):
        write_mini_voc(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['mine.txt']


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(names=()), r'names=\(\) must be a list of 1 or more different values'),
        (dict(names=('a', 'a')), r'names=.* must be a list of 1 or more different values'),
        (dict(names=list('abcdefghijk')), 'must be one to ten different names'),
        (dict(size=(16, 64)), r'size=\(16, 64\) must be a list of 2 values, each an integer >= 32'),
        (dict(counts=(0, 0, 0)), 'must be three numbers >= 0, not all of them 0'),
        (dict(counts=(-1, 2, 2)), r'counts=\(-1, 2, 2\) must be'),
        (dict(objects=(3, 1)), r'objects=\(3, 1\) must be 0 <= fewest <= most'),
        (
            dict(scale=(0, 0.5)),
            r'scale=\(0, 0.5\) must be a list of 2 values, each a finite number',
        ),
    ],
)
def test_bad_options_are_named_before_anything_is_written(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        write_mini_voc(tmp_path / 'voc', **options)
    assert not list(tmp_path.iterdir())


def test_progress_is_printed_to_the_output_that_the_process_has(tmp_path, monkeypatch, capsys):
    options = dict(counts=(1, 1, 1), size=(48, 48))
    write_mini_voc(tmp_path / 'shown', **options)
    assert '3/3' in capsys.readouterr().out
    monkeypatch.setattr(sys, 'stdout', None)
    assert write_mini_voc(tmp_path / 'not shown', **options) == 3


def test_failing_to_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(ET.ElementTree, 'write', fail)
    with pytest.raises(OSError, match='No space left'):
        write_mini_voc(tmp_path / 'voc', size=SIZE, counts=COUNTS)
    assert not list(tmp_path.iterdir())


def test_missing_scikit_image_is_explained(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'skimage', None)
    with pytest.raises(ImportError, match=r"pip install 'mmesbnn\[demo\]'"):
        write_mini_voc(tmp_path / 'voc')
    assert not list(tmp_path.iterdir())
