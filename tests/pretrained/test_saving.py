"""Folders of trained networks give the outputs of the saved networks."""

import json
import warnings

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

import mmesbnn
from mmesbnn.binary import BinaryConv2d, FixedWeight, binary_layers
from mmesbnn.conversion import load_published
from mmesbnn.deploy import PackError, load_packed
from mmesbnn.pretrained import PretrainedError
from tests.pretrained.networks import (
    BACKBONE,
    SHAPE,
    backbone,
    classifier,
    classifier_config,
    equal,
    outputs,
    trained,
)
from tests.reference import published_bidet_frcnn
from tests.test_import import BLOCK, python

pytest.importorskip('safetensors')


@pytest.fixture
def saved(tmp_path):
    """Return a folder with a backbone, and the backbone."""
    model = backbone()
    mmesbnn.save_pretrained(model, tmp_path / 'net', config=BACKBONE, input_shape=SHAPE)
    return tmp_path / 'net', model


def test_a_backbone_comes_back_equal(saved):
    folder, model = saved
    loaded = mmesbnn.from_pretrained(folder)
    assert type(loaded) is type(model) and not loaded.training
    assert equal(loaded, model)
    layers = binary_layers(loaded).values()
    assert all(isinstance(layer.weight_binarizer, FixedWeight) for layer in layers)


def test_a_changed_weight_changes_the_outputs(saved, tmp_path):
    folder, model = saved
    with torch.no_grad():
        layer = next(iter(binary_layers(model).values()))
        layer.weight.neg_()
    assert not equal(mmesbnn.from_pretrained(folder), model)


def test_a_classifier_comes_back_equal_with_its_classes(tmp_path):
    pytest.importorskip('mmpretrain')
    model, names = classifier(), ['zero', 'one', 'two']
    mmesbnn.save_pretrained(
        model, tmp_path / 'net', config=classifier_config(), dataset_meta={'classes': names}
    )
    loaded = mmesbnn.from_pretrained(tmp_path / 'net')
    assert outputs(loaded)[0].shape == (4, 3)
    assert equal(loaded, model)
    assert loaded._dataset_meta == {'classes': names}
    mean = model.data_preprocessor.mean
    assert torch.equal(loaded.data_preprocessor.mean, mean)


def test_the_dict_of_a_classifier_needs_no_scope(tmp_path):
    pytest.importorskip('mmpretrain')
    model, config = classifier(), classifier_config().model
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        mmesbnn.save_pretrained(model, tmp_path / 'net', config=config, input_shape=SHAPE)
    assert equal(mmesbnn.from_pretrained(tmp_path / 'net'), model)


def test_the_dict_of_a_detector_needs_no_scope(tmp_path):
    pytest.importorskip('mmdet')
    pytest.importorskip('mmcv._ext', reason='needs mmcv with compiled operators')
    net = published_bidet_frcnn.Network()
    state = published_bidet_frcnn.random_state(published_bidet_frcnn.detector_shapes(net))
    config, weights = load_published(state, binarize=True)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(config)
    model.load_state_dict(weights)
    mmesbnn.save_pretrained(model, tmp_path / 'net', config=config, input_shape=(3, 64, 96))
    loaded = mmesbnn.from_pretrained(tmp_path / 'net')
    assert type(loaded) is type(model)
    card = (tmp_path / 'net' / 'README.md').read_text()
    assert '| loaded again | equal outputs, bit for bit |' in card
    assert 'pipeline_tag: object-detection' in card


def test_a_loaded_network_can_be_saved_again_without_its_config(saved, tmp_path):
    folder, model = saved
    mmesbnn.save_pretrained(mmesbnn.from_pretrained(folder), tmp_path / 'again', input_shape=SHAPE)
    assert equal(mmesbnn.from_pretrained(tmp_path / 'again'), model)
    files = (folder / 'config.json', tmp_path / 'again' / 'config.json')
    first, second = (json.loads(file.read_text())['config']['model'] for file in files)
    assert first == second


def test_the_config_is_readable_json(saved):
    content = json.loads((saved[0] / 'config.json').read_text())
    assert content['library_name'] == 'mmesbnn'
    assert content['mmesbnn_version'] == mmesbnn.__version__
    assert content['architecture'] == 'BNext'
    assert content['config']['model']['tau'] == 2


def test_the_weights_are_a_packed_file_of_their_own(saved):
    folder, model = saved
    assert equal(load_packed(folder / 'model.safetensors'), model)
    full = sum(x.numel() * x.element_size() for x in model.state_dict().values())
    assert (folder / 'model.safetensors').stat().st_size < full


def test_the_config_in_config_json_is_the_one_that_is_built(saved):
    folder, _ = saved
    content = json.loads((folder / 'config.json').read_text())
    content['config']['model']['out_indices'] = [0, 1]
    (folder / 'config.json').write_text(json.dumps(content))
    assert mmesbnn.from_pretrained(folder).out_indices == (0, 1)


def test_a_config_of_mmengine_with_tuples_comes_back(tmp_path):
    config = Config(dict(model=dict(BACKBONE, out_indices=(0, 1))))
    model = backbone(out_indices=(0, 1))
    mmesbnn.save_pretrained(model, tmp_path / 'net', config=config, input_shape=SHAPE)
    loaded = mmesbnn.from_pretrained(tmp_path / 'net')
    assert loaded._config.model.out_indices == (0, 1)
    assert len(outputs(loaded)) == 2


class Own(nn.Module):
    """A network of a user."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.conv = BinaryConv2d(8, 8, 3, weight_binarizer='scaled_sign')
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.conv(self.stem(x)).mean((2, 3)))


def test_a_network_without_a_config_is_loaded_into_one(tmp_path):
    model = trained(Own())
    with pytest.warns(UserWarning, match='holds no config of the Own, so from_pretrained'):
        mmesbnn.save_pretrained(model, tmp_path / 'net', input_shape=SHAPE)
    assert equal(mmesbnn.from_pretrained(tmp_path / 'net', model=Own()), model)
    with pytest.raises(PackError, match='holds no config: pass the model to load into'):
        mmesbnn.from_pretrained(tmp_path / 'net')


def test_replaced_layers_are_replaced_again(tmp_path):
    def plain():
        return nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3)
        )

    model = plain()
    mmesbnn.binarize(model, tau=2)
    trained(model)
    with pytest.warns(UserWarning, match='holds no config'):
        mmesbnn.save_pretrained(model, tmp_path / 'net', input_shape=SHAPE)
    assert equal(mmesbnn.from_pretrained(tmp_path / 'net', model=plain()), model)


def test_half_precision_makes_the_file_smaller(saved, tmp_path):
    folder, model = saved
    report = mmesbnn.save_pretrained(
        model, tmp_path / 'half', config=BACKBONE, input_shape=SHAPE, half=True
    )
    size = (tmp_path / 'half' / 'model.safetensors').stat().st_size
    assert report.size == size < (folder / 'model.safetensors').stat().st_size
    near, exact = mmesbnn.from_pretrained(tmp_path / 'half'), dict(model.named_parameters())
    weights = {f'{name}.weight' for name in binary_layers(near)}
    for name, value in near.named_parameters():
        if name not in weights:
            torch.testing.assert_close(value, exact[name], rtol=2**-11, atol=2**-25)
    assert not equal(near, model)


def test_real_weights_are_refused_and_nothing_is_written(tmp_path):
    model = backbone()
    for name, buffer in model.named_buffers():
        if name.endswith('temperature'):
            buffer.fill_(1.0)
    with pytest.raises(PackError, match='cannot pack'):
        mmesbnn.save_pretrained(model, tmp_path / 'net', config=BACKBONE, input_shape=SHAPE)
    assert list(tmp_path.iterdir()) == []


def test_an_old_network_is_replaced_but_no_other_folder(saved):
    folder, model = saved
    mmesbnn.save_pretrained(model, folder, config=BACKBONE, input_shape=SHAPE)
    (folder / 'notes.txt').write_text('mine')
    with pytest.raises(PretrainedError, match=r'do not belong to a network \(notes.txt\)'):
        mmesbnn.save_pretrained(model, folder, config=BACKBONE, input_shape=SHAPE)
    assert (folder / 'notes.txt').read_text() == 'mine'


@pytest.mark.parametrize('missing', ['config.json', 'model.safetensors'])
def test_a_missing_file_is_named(saved, missing):
    folder, _ = saved
    (folder / missing).unlink()
    with pytest.raises(FileNotFoundError, match=missing):
        mmesbnn.from_pretrained(folder)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='nowhere: no such folder'):
        mmesbnn.from_pretrained(tmp_path / 'nowhere')


def test_a_backbone_loads_without_the_optional_packages(saved):
    folder, _ = saved
    code = (
        f'{BLOCK}\nimport mmesbnn\nprint(type(mmesbnn.from_pretrained({str(folder)!r})).__name__)'
    )
    done = python(code, folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == 'BNext'
