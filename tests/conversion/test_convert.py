"""Conversion from file to file, for OpenMMLab's tools."""

import pytest

pytest.importorskip('mmpretrain')

import torch
from mmengine import Config
from mmengine.runner import load_checkpoint
from mmpretrain import ImageClassificationInferencer
from mmpretrain.datasets import CIFAR10
from mmpretrain.registry import MODELS
from torch import nn

from mmesbnn import __version__
from mmesbnn.conversion import convert_file, load_published
from tests.reference import published_reactnet
from tests.reference.published_bnext import Network, logits, random_state

NET = Network((16, 32), tau=2, kind='rep_ops')
REACTNET = published_reactnet.Network((8, 16, 32, 32))


@pytest.fixture
def published(tmp_path):
    """Write a published file of NET with binary weights."""
    path = tmp_path / 'model_best.pth.tar'
    state = random_state(NET, 5e-8)
    wrapped = {f'module.{key}': value for key, value in state.items()}
    torch.save(dict(epoch=200, state_dict=wrapped, best_top1_acc=75.2), path)
    return path


def leftovers(folder):
    return sorted(path.name for path in folder.iterdir())


def test_written_file_holds_config_origin_and_weights(published, tmp_path):
    target = tmp_path / 'converted.pth'
    result = convert_file(published, target)
    written = torch.load(target, weights_only=True)
    assert set(written) == {'meta', 'state_dict'}
    cfg, state = load_published(published)
    assert written['meta'] == dict(
        model=cfg, mmesbnn_version=__version__, source='model_best.pth.tar'
    )
    assert written['state_dict'].keys() == state.keys()
    assert all(torch.equal(written['state_dict'][key], state[key]) for key in state)
    assert result.summary['network'] == 'ES-BNext variant (rep_ops, tau=2)'
    assert leftovers(tmp_path) == ['converted.pth', 'model_best.pth.tar']


def test_written_file_loads_with_mmengine(published, tmp_path):
    convert_file(published, tmp_path / 'converted.pth')
    meta = torch.load(tmp_path / 'converted.pth', weights_only=True)['meta']
    model = MODELS.build(meta['model']).double().eval()
    load_checkpoint(model, str(tmp_path / 'converted.pth'), strict=True)
    x = torch.randn(2, 3, 16, 16, dtype=torch.double)
    with torch.no_grad():
        theirs = logits(random_state(NET, 5e-8), NET, x)
        torch.testing.assert_close(model(x, mode='tensor'), theirs, rtol=0, atol=1e-9)


def test_written_file_serves_mmpretrain_inference(published, tmp_path):
    target = tmp_path / 'converted.pth'
    convert_file(published, target)
    meta = torch.load(target, weights_only=True)['meta']
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
    config = Config(
        dict(
            model=meta['model'],
            data_preprocessor=dict(mean=[120.0] * 3, std=[60.0] * 3, to_rgb=True),
            test_dataloader=dict(dataset=dict(type='CIFAR10', pipeline=pipeline)),
        )
    )
    inferencer = ImageClassificationInferencer(config, pretrained=str(target))
    image = torch.randint(0, 256, (16, 16, 3), dtype=torch.uint8).numpy()
    (result,) = inferencer(image)
    assert result['pred_class'] == CIFAR10.METAINFO['classes'][result['pred_label']]
    assert 0 <= result['pred_score'] <= 1
    classifier = torch.load(target, weights_only=True)['state_dict']['head.fc.weight']
    assert torch.equal(inferencer.model.head.fc.weight, classifier.float())


def test_an_existing_target_is_replaced(published, tmp_path):
    target = tmp_path / 'converted.pth'
    target.write_text('old')
    convert_file(published, target)
    assert set(torch.load(target, weights_only=True)) == {'meta', 'state_dict'}


def test_a_failed_conversion_leaves_an_existing_target_alone(tmp_path):
    torch.save({'a': torch.ones(1)}, tmp_path / 'other.pth')
    target = tmp_path / 'converted.pth'
    target.write_text('old')
    with pytest.raises(ValueError, match='not a published checkpoint'):
        convert_file(tmp_path / 'other.pth', target)
    assert target.read_text() == 'old'


def test_a_failed_write_leaves_no_file(published, tmp_path, monkeypatch):
    def full_disk(content, file):
        file.write(b'half')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(torch, 'save', full_disk)
    with pytest.raises(OSError, match=r'No space left.*to\.pth'):
        convert_file(published, tmp_path / 'to.pth')
    assert leftovers(tmp_path) == ['model_best.pth.tar']


def test_unusable_targets_are_refused(published, tmp_path):
    with pytest.raises(IsADirectoryError):
        convert_file(published, tmp_path)
    with pytest.raises(FileNotFoundError, match='missing'):
        convert_file(published, tmp_path / 'missing' / 'to.pth')
    with pytest.raises(OSError, match='overwrite'):
        convert_file(published, tmp_path / '..' / tmp_path.name / published.name)


def test_files_of_other_networks_are_refused():
    class ResNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(3, 8, 7), nn.BatchNorm2d(8)
            self.layer1 = nn.Sequential(nn.Sequential(nn.Conv2d(8, 8, 3)))
            self.fc = nn.Linear(8, 10)

    expected = (
        'the given dict: not a published checkpoint of a known family '
        '.BNext or ES-BNext, with keys like feature.1.Attention.binary_conv.weight .*'
        'its keys are conv1.weight, conv1.bias, bn1.weight and 8 more'
    )
    with pytest.raises(ValueError, match=expected):
        load_published(ResNet().state_dict())


def test_se_bits_is_checked_for_every_file():
    with pytest.raises(ValueError, match=r'se_bits=4 must be one of \(8, 32, None\)'):
        load_published({}, se_bits=4)


def test_se_bits_is_for_quantised_files_only():
    expected = r'the given dict: se_bits=8 must be None for a file without 8-bit layers'
    for state in (random_state(NET, 1.0), published_reactnet.random_state(REACTNET)):
        with pytest.raises(ValueError, match=expected):
            load_published(state, se_bits=8)


def test_warnings_name_the_file(tmp_path):
    torch.save(random_state(NET, 1.0), tmp_path / 'soft.pth')
    with pytest.warns(UserWarning, match=r'soft.pth: weights never binarized'):
        convert_file(tmp_path / 'soft.pth', tmp_path / 'to.pth')
