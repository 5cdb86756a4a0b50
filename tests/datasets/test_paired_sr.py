"""Pairs from PNG files in the layouts of DF2K and the benchmarks."""

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from PIL import Image

import mmesbnn  # noqa: F401  (registers)
from mmesbnn.datasets import PairedSRDataset
from mmesbnn.images.bicubic import resize
from mmesbnn.images.tensors import read_rgb, write_png
from tests.datasets.sr_folders import crop_of, write_benchmark, write_df2k

DF2K = dict(
    hr=['DIV2K/DIV2K_train_HR', 'Flickr2K/Flickr2K_HR'],
    lr=['DIV2K/DIV2K_train_LR_bicubic/X4', 'Flickr2K/Flickr2K_LR_bicubic/X4'],
)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('data')
    write_benchmark(root)
    return write_df2k(root)


def df2k(root, **kwargs):
    options = {**DF2K, 'type': 'PairedSRDataset', 'scale': 4, **kwargs}
    return DATASETS.build(dict(**options, data_root=str(root)))


def set5(root, **kwargs):
    folder = root / 'Set5'
    options = dict(hr=str(folder / 'HR'), lr=str(folder / 'LR_bicubic' / 'X4'))
    return PairedSRDataset(4, **{**options, **kwargs})


def symmetries(image):
    return [
        turned
        for flipped in (image, image.flip(-1), image.flip(-2), image.flip(-1, -2))
        for turned in (flipped, flipped.mT)
    ]


def windows(image, side):
    """Return all square crops of an image by place."""
    _, height, width = image.shape
    return {
        (top, left): image[:, top : top + side, left : left + side]
        for top in range(height - side + 1)
        for left in range(width - side + 1)
    }


def place(crop, image):
    """Return the place and symmetry of a crop, or None if it is not in the image."""
    for number, turned in enumerate(symmetries(crop)):
        for where, window in windows(image, crop.shape[-1]).items():
            if torch.equal(window, turned):
                return where, number
    return None


@pytest.mark.parametrize('kind', ['ConcatDataset', 'SeededConcatDataset', 'RepeatDataset'])
def test_configs_go_into_wrappers(kind, root):
    configs = [
        dict(type='PairedSRDataset', scale=4, data_root=str(root), hr=[hr], crop_size=16)
        for hr in DF2K['hr']
    ]
    parts = dict(dataset=configs[0], times=2) if kind == 'RepeatDataset' else dict(datasets=configs)
    dataset = DATASETS.build(dict(type=kind, **parts))
    assert len(dataset) == 6 and dataset.metainfo == dict(scale=4)
    last = dataset[5]
    assert last['inputs'].shape == (3, 4, 4)
    assert last['data_samples']['name'] == ('0003' if kind == 'RepeatDataset' else '000003')
    if kind == 'SeededConcatDataset':
        first, again = (dataset[5, (1, 2)]['data_samples']['hr'] for _ in range(2))
        assert torch.equal(first, again)


def test_df2k_is_div2k_then_flickr2k(root):
    dataset = df2k(root)
    samples = [dataset[i]['data_samples'] for i in range(len(dataset))]
    names = ['0001', '0002', '0003', '000001', '000002', '000003']
    assert [sample['name'] for sample in samples] == names
    assert [s['set_name'] for s in samples] == ['DIV2K'] * 3 + ['Flickr2K'] * 3
    assert [sample['index'] for sample in samples] == list(range(6))
    assert dataset.metainfo == {'scale': 4}


def test_whole_images_are_those_on_disk(root):
    item = df2k(root)[4]
    folder = root / 'Flickr2K'
    hr = np.asarray(Image.open(folder / 'Flickr2K_HR' / '000002.png'))
    lr = folder / 'Flickr2K_LR_bicubic' / 'X4' / '000002x4.png'
    assert np.array_equal(item['data_samples']['hr'].permute(1, 2, 0), hr)
    assert np.array_equal(item['inputs'].permute(1, 2, 0), np.asarray(Image.open(lr)))
    assert item['inputs'].dtype == torch.uint8


def test_benchmarks_with_plain_names_are_cut_to_the_scale(root):
    item = set5(root)[0]
    assert item['data_samples']['name'] == 'baby'
    assert item['data_samples']['set_name'] == 'Set5'
    assert item['inputs'].shape == (3, 12, 16)
    assert torch.equal(item['data_samples']['hr'], crop_of(0, 50, 67)[:, :48, :64])


def test_made_lr_images_are_those_on_disk(root):
    for dataset in (df2k, set5):
        on_disk, made = dataset(root), dataset(root, lr=None)
        assert len(on_disk) == len(made)
        for i in range(len(made)):
            assert torch.equal(on_disk[i]['inputs'], made[i]['inputs'])


@pytest.mark.parametrize('seed', range(6))
def test_made_lr_crops_are_crops_of_the_whole(root, seed):
    """The pixels at a crop's border do not depend on the crop."""
    for crop_size in (8, 24, 72):
        options = dict(crop_size=crop_size, augment=True)
        on_disk = df2k(root, **options)
        made = df2k(root, lr=None, **options)
        for i in range(len(made)):
            expected, got = on_disk[i, seed], made[i, seed]
            assert torch.equal(expected['inputs'], got['inputs'])
            hr = expected['data_samples']['hr']
            assert torch.equal(hr, got['data_samples']['hr'])


def test_crops_are_aligned(root):
    whole, crops = df2k(root)[0], df2k(root, crop_size=24, augment=True)
    seen = set()
    for seed in range(40):
        item = crops[0, seed]
        lr, hr = item['inputs'], item['data_samples']['hr']
        assert lr.shape == (3, 6, 6) and hr.shape == (3, 24, 24)
        (top, left), symmetry = place(lr, whole['inputs'])
        hr_whole = whole['data_samples']['hr'][:, 4 * top :, 4 * left :]
        source = hr_whole[:, :24, :24]
        assert torch.equal(symmetries(hr)[symmetry], source)
        seen.add((top, left, symmetry))
    assert len(seen) > 30
    assert {symmetry for *_, symmetry in seen} == set(range(8))


def test_every_place_is_drawn(tmp_path):
    write_png(tmp_path / 'HR' / 'a.png', crop_of(0, 6, 8))
    dataset = PairedSRDataset(2, str(tmp_path / 'HR'), crop_size=4)
    lr = PairedSRDataset(2, str(tmp_path / 'HR'))[0]['inputs']
    places = {place(dataset[0, seed]['inputs'], lr)[0] for seed in range(60)}
    assert places == {(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)}


def test_random_numbers_are_numpys_or_those_of_the_seed(root):
    dataset = df2k(root, crop_size=16, augment=True)

    def hr(key):
        return dataset[key]['data_samples']['hr']

    assert torch.equal(hr((2, (5, 7))), hr((2, (5, 7))))
    assert not torch.equal(hr((2, (5, 7))), hr((2, (5, 8))))
    np.random.seed(1)
    first, second = hr(2), hr(2)
    assert not torch.equal(first, second)
    np.random.seed(1)
    assert torch.equal(hr(2), first) and torch.equal(hr(2), second)


def test_without_crop_or_augment_nothing_is_random(root):
    dataset = set5(root)
    assert torch.equal(dataset[1, 0]['inputs'], dataset[1, 1]['inputs'])


def test_repeated(root):
    dataset = df2k(root, repeat=3)
    assert len(dataset) == 18
    assert dataset[13]['data_samples']['name'] == '0002'
    assert dataset[13]['data_samples']['index'] == 1
    assert dataset[-1]['data_samples']['name'] == '000003'
    for index in (18, -19):
        with pytest.raises(IndexError, match=f'index={index}: .* has 18 images'):
            dataset[index]
    assert len(list(set5(root))) == 2


def test_in_mmengines_loader(root):
    loader = Runner.build_dataloader(
        dict(
            dataset=dict(
                type='PairedSRDataset', scale=4, data_root=str(root), crop_size=16, **DF2K
            ),
            batch_size=4,
            num_workers=2,
            sampler=dict(type='SeededInfiniteSampler', seed=1),
            collate_fn=dict(type='default_collate'),
        )
    )
    batch = next(iter(loader))
    assert batch['inputs'].shape == (4, 3, 4, 4)
    assert batch['data_samples']['hr'].shape == (4, 3, 16, 16)
    draws = list(zip(range(4), loader.sampler))
    expected = [loader.dataset[draw]['inputs'] for _, draw in draws]
    assert torch.equal(batch['inputs'], torch.stack(expected))


@pytest.mark.parametrize(
    ('mode', 'pixels', 'expected'),
    [
        ('L', np.array([[0, 128, 255]], np.uint8), [0, 128, 255]),
        ('I;16', np.array([[0, 128 * 257, 65535]], np.uint16), [0, 128, 255]),
        ('1', np.array([[False, True, True]]), [0, 255, 255]),
    ],
)
def test_grey_images_become_rgb(tmp_path, mode, pixels, expected):
    path = tmp_path / 'HR' / 'grey.png'
    path.parent.mkdir()
    image = Image.fromarray(pixels)
    assert image.mode == mode
    image.save(path)
    hr = PairedSRDataset(1, str(path.parent))[0]['data_samples']['hr']
    assert torch.equal(hr, torch.tensor(expected, dtype=torch.uint8).expand(3, 1, 3))


@pytest.mark.parametrize('mode', ['RGBA', 'P', 'CMYK'])
def test_other_modes_become_rgb(tmp_path, mode):
    image = Image.fromarray(crop_of(0, 12, 12).permute(1, 2, 0).numpy()).convert(mode)
    path = tmp_path / ('image.tif' if mode == 'CMYK' else 'image.png')
    image.save(path)
    expected = np.asarray(Image.open(path).convert('RGB'))
    assert np.array_equal(read_rgb(path).permute(1, 2, 0), expected)


def make(tmp_path, name, height=16, width=16, folder='HR'):
    write_png(tmp_path / folder / f'{name}.png', crop_of(0, height, width))
    return str(tmp_path / folder)


def test_bad_arguments(tmp_path):
    hr = make(tmp_path, 'a')
    for options, message in (
        (dict(scale=0), 'scale=0 must be an integer >= 1'),
        (dict(scale=2.0), 'scale=2.0 must be an integer >= 1'),
        (dict(repeat=0), 'repeat=0 must be an integer >= 1'),
        (dict(crop_size=15), 'crop_size=15 must be a positive multiple of scale=2'),
        (dict(crop_size=0), 'crop_size=0 must be an integer >= 1'),
        (dict(crop_size=18), 'a.png has 16 x 16 usable pixels, fewer than crop_size=18'),
        (dict(lr=[hr, hr]), 'hr has 1 folders, lr 2, set_names 1'),
        (dict(set_names=[]), 'hr has 1 folders, lr 1, set_names 0'),
        (dict(hr=[]), 'hr has 0 folders'),
        (dict(hr=f'{hr}/none'), 'hr=.*none is not a folder'),
        (dict(lr=f'{hr}/none'), 'lr=.*none is not a folder'),
    ):
        with pytest.raises(ValueError, match=message):
            PairedSRDataset(**{'scale': 2, 'hr': hr, **options})


def test_empty_folder(tmp_path):
    (tmp_path / 'HR').mkdir()
    (tmp_path / 'HR' / 'notes.txt').write_text('no image')
    with pytest.raises(ValueError, match=r'hr=.*HR holds no images'):
        PairedSRDataset(2, str(tmp_path / 'HR'))


def test_missing_lr_image(tmp_path):
    hr, lr = make(tmp_path, '0001'), make(tmp_path, '0001x2', 8, 8, 'LR')
    PairedSRDataset(2, hr, lr)
    make(tmp_path, '0002')
    with pytest.raises(ValueError, match=r'neither 0002x2 nor 0002 for .*0002.png'):
        PairedSRDataset(2, hr, lr)


def test_sizes_that_do_not_match(tmp_path):
    hr, lr = make(tmp_path, '0001', 16, 24), make(tmp_path, '0001x2', 8, 11, 'LR')
    message = r'0001x2.png is 8 x 11 pixels, but .*0001.png with 16 x 24 needs 8 x 12'
    with pytest.raises(ValueError, match=message):
        PairedSRDataset(2, hr, lr)


def test_smaller_than_the_scale(tmp_path):
    with pytest.raises(ValueError, match=r'a.png is 3 x 16 pixels, too small for scale'):
        PairedSRDataset(4, make(tmp_path, 'a', 3, 16))


def test_what_is_no_image_is_named(tmp_path):
    hr = make(tmp_path, 'a')
    (tmp_path / 'HR' / 'b.png').write_bytes(b'no image')
    with pytest.raises(ValueError, match=r'b.png cannot be read as an image'):
        PairedSRDataset(2, hr)


def test_a_damaged_image_is_named_when_it_is_read(tmp_path):
    hr = make(tmp_path, 'a', 64, 64)
    path = tmp_path / 'HR' / 'a.png'
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(ValueError, match=r'a.png is damaged'):
        PairedSRDataset(2, hr)[0]


@pytest.mark.parametrize('changed', ['HR', 'LR'])
def test_an_image_that_changed_its_size_is_named_when_it_is_read(changed, tmp_path):
    """Crops of images of other sizes would show different places."""
    for folder, side in (('HR', 32), ('LR', 8)):
        write_png(tmp_path / folder / 'a.png', torch.zeros(3, side, side).byte())
    data = PairedSRDataset(4, hr=str(tmp_path / 'HR'), lr=str(tmp_path / 'LR'), crop_size=8)
    file = tmp_path / changed / 'a.png'
    write_png(file, torch.zeros(3, 48, 40).byte())
    with pytest.raises(ValueError, match=f'{file} is 48 x 40 pixels, not of the size'):
        data[0]


def test_pngs_appear_whole(tmp_path, monkeypatch):
    def fail(image, path, **kwargs):
        path.write_bytes(b'half')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(Image.Image, 'save', fail)
    with pytest.raises(OSError, match='No space left'):
        make(tmp_path, 'a')
    assert not list((tmp_path / 'HR').iterdir())


def test_resized_photographs_go_through_files_unchanged(tmp_path):
    image = resize(crop_of(0, 40, 40), (20, 20))
    write_png(tmp_path / 'a.png', image)
    assert torch.equal(read_rgb(tmp_path / 'a.png'), image)


def pairs(dataset):
    return [(pair.hr.name, pair.lr.name) for pair in dataset.pairs]


def test_a_folder_has_one_way_of_names(tmp_path):
    for name in ('1', '1x2'):
        hr = make(tmp_path, name)
        lr = make(tmp_path, name, 8, 8, 'LR')
    # 1x2 is not the partner of 1 here, because 1x2 would then have none
    same = [('1.png', '1.png'), ('1x2.png', '1x2.png')]
    assert pairs(PairedSRDataset(2, hr, lr)) == same
    (tmp_path / 'HR' / '1x2.png').unlink()
    with pytest.raises(ValueError, match=r'both \{\}x2 and \{\} .*filename_tmpl'):
        PairedSRDataset(2, hr, lr)
    for template, expected in (('{}', '1.png'), ('{}x2', '1x2.png')):
        dataset = PairedSRDataset(2, hr, lr, filename_tmpl=template)
        assert pairs(dataset) == [('1.png', expected)]


def test_mixed_names_are_refused(tmp_path):
    for name in ('1', '2'):
        hr = make(tmp_path, name)
    make(tmp_path, '1x2', 8, 8, 'LR')
    lr = make(tmp_path, '2', 8, 8, 'LR')
    with pytest.raises(ValueError, match='has 2 for 2 but 1x2 for 1: name all in one way'):
        PairedSRDataset(2, hr, lr)


@pytest.mark.parametrize('folder', ['HR', 'LR'])
def test_images_that_differ_in_their_endings_only_are_refused(tmp_path, folder):
    hr, lr = make(tmp_path, 'a'), make(tmp_path, 'a', 8, 8, 'LR')
    path = tmp_path / folder / 'a.png'
    Image.open(path).save(path.with_suffix('.jpg'))
    message = rf'{folder.lower()}=.* has two images called a: a.jpg and a.png'
    with pytest.raises(ValueError, match=message):
        PairedSRDataset(2, hr, lr)


def test_foreign_layouts(tmp_path):
    hr = make(tmp_path, 'a{0}')  # a name is not a format
    lr = make(tmp_path, 'a{0}_LRBI_x2', 8, 8, 'LR')
    dataset = PairedSRDataset(2, hr, lr, filename_tmpl='{}_LRBI_x2')
    assert pairs(dataset) == [('a{0}.png', 'a{0}_LRBI_x2.png')]
    with pytest.raises(ValueError, match=r"no a\{0\}_LR for .*filename_tmpl='\{\}_LR'"):
        PairedSRDataset(2, hr, lr, filename_tmpl='{}_LR')
    for wrong in ('', 'x2', '{}{}', '../{}', '{0}', 2):
        with pytest.raises((ValueError, TypeError), match='filename_tmpl='):
            PairedSRDataset(2, hr, lr, filename_tmpl=wrong)
