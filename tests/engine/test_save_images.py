"""Predicted images as PNGs."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.dataset import RepeatDataset

from mmesbnn.datasets import PairedSRDataset
from mmesbnn.engine.hooks import SaveImagesHook
from mmesbnn.images.tensors import read_rgb, write_png
from tests.datasets.sr_folders import crop_of


def test_one_png_per_image_in_a_folder_per_set(tmp_path):
    samples = [
        dict(pred=crop_of(i, 8, 9 + i), name=name, set_name=set_name, hr=None)
        for i, (set_name, name) in enumerate([('Set5', 'baby'), ('B100', '3096')])
    ]
    SaveImagesHook(str(tmp_path / 'out')).after_test_iter(None, 0, None, samples)
    files = sorted(path for path in tmp_path.rglob('*') if path.is_file())
    assert files == [tmp_path / 'out/B100/3096.png', tmp_path / 'out/Set5/baby.png']
    assert torch.equal(read_rgb(files[1]), samples[0]['pred'])
    assert torch.equal(read_rgb(files[0]), samples[1]['pred'])


def test_images_of_the_data_set_are_not_replaced(tmp_path):
    write_png(tmp_path / 'HR' / 'baby.png', crop_of(0, 8, 8))
    data = PairedSRDataset(2, str(tmp_path / 'HR'), set_names=['HR'])
    runner = SimpleNamespace(test_dataloader=SimpleNamespace(dataset=data))
    SaveImagesHook(tmp_path / 'out').before_test(runner)
    with pytest.raises(OSError, match='overwrite the file that is read'):
        SaveImagesHook(tmp_path).before_test(runner)


def test_images_that_cannot_be_written_are_named_before_the_test(tmp_path):
    write_png(tmp_path / 'HR' / 'baby.png', crop_of(0, 8, 8))
    data = PairedSRDataset(2, str(tmp_path / 'HR'), set_names=['HR'])
    (tmp_path / 'out/HR/baby.png').mkdir(parents=True)
    runner = SimpleNamespace(test_dataloader=SimpleNamespace(dataset=data))
    with pytest.raises(IsADirectoryError, match=r'baby\.png'):
        SaveImagesHook(tmp_path / 'out').before_test(runner)


def test_images_of_two_sets_of_one_name_are_not_lost(tmp_path):
    folders = [str(tmp_path / name) for name in ('Set5', 'Set14')]
    for folder in folders:
        write_png(f'{folder}/baby.png', crop_of(0, 8, 8))
    hook = SaveImagesHook(tmp_path / 'out')

    def check(**options):
        data = PairedSRDataset(2, folders, **options)
        hook.before_test(SimpleNamespace(test_dataloader=SimpleNamespace(dataset=data)))

    with pytest.raises(ValueError, match=r'both become .*baby\.png: give their folders different'):
        check()
    check(set_names=['Set5', 'Set14'], repeat=2)


def test_data_sets_in_others_are_checked(tmp_path):
    def part(name, set_name):
        write_png(tmp_path / name / 'baby.png', crop_of(0, 8, 8))
        hr = str(tmp_path / name)
        return dict(type='PairedSRDataset', scale=2, hr=hr, set_names=[set_name])

    def check(out_dir, *parts):
        dataset = RepeatDataset(dict(type='ConcatDataset', datasets=list(parts)), times=2)
        runner = SimpleNamespace(test_dataloader=SimpleNamespace(dataset=dataset))
        SaveImagesHook(out_dir).before_test(runner)

    with pytest.raises(ValueError, match=r'both become .*baby\.png: give their folders different'):
        check(tmp_path / 'out', part('Set5', 'x'), part('Set14', 'x'))
    with pytest.raises(OSError, match='overwrite the file that is read'):
        check(tmp_path, part('Set5', 'Set5'))
    check(tmp_path / 'out', part('Set5', 'Set5'), part('Set14', 'Set14'))
    check(tmp_path / 'out', part('Set5', 'Set5'), part('Set5', 'Set5'))
    lr = tmp_path / 'lr'
    write_png(lr / 'baby.png', crop_of(1, 4, 4))
    with pytest.raises(ValueError, match=r'both become .*baby\.png: give their folders different'):
        check(tmp_path / 'out', part('Set5', 'Set5'), dict(part('Set5', 'Set5'), lr=str(lr)))
