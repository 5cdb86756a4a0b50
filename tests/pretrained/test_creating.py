"""Networks are built by name, with other classes, as backbones, and with pretrained weights."""

import copy
import json

import pytest
import torch
from mmengine.config import Config

import mmesbnn
from mmesbnn.binary import FixedWeight, TemperatureWeight, binary_layers
from mmesbnn.deploy import pack
from mmesbnn.models.hub import recipes
from mmesbnn.pretrained import PretrainedError
from mmesbnn.pretrained.creating import _read, _with_classes
from mmesbnn.project import image_size, reads_rgb
from tests.pretrained.networks import equal, outputs, trained
from tests.test_import import BLOCK, python

mmpretrain = pytest.importorskip('mmpretrain')
pytest.importorskip('safetensors')

NAME = 'es-bnext-18_b512_cifar10'
#: A small network with the layout of the recipe.
SMALL = dict(arch=dict(channels=[16, 16, 32], depths=[1, 1]))


def create(name=NAME, **options):
    return mmesbnn.create_model(name, **{**SMALL, **options})


@pytest.fixture(scope='module')
def classifier():
    torch.manual_seed(1)
    return trained(create())


@pytest.fixture
def saved(classifier, tmp_path):
    mmesbnn.save_pretrained(classifier, tmp_path / 'net')
    return tmp_path / 'net'


@pytest.fixture
def checkpoint(classifier, tmp_path):
    torch.save({'state_dict': classifier.state_dict()}, tmp_path / 'epoch_1.pth')
    return tmp_path / 'epoch_1.pth'


def test_names_are_those_of_the_metafiles():
    names = mmesbnn.list_models()
    assert names == sorted(recipes()) and 'es_bnext_tiny' in names
    assert mmesbnn.list_models('*binary-vit*') == [n for n in names if 'binary-vit' in n]
    assert not [name for name in names if 'voc' in name or 'diffsr' in name]
    assert mmesbnn.list_models('nothing*') == []


def test_listing_needs_no_mmpretrain(tmp_path):
    code = "import mmesbnn\nprint('es_bnext_tiny' in mmesbnn.list_models())\n"
    code += "mmesbnn.create_model('es_bnext_tiny')"
    done = python(f'{BLOCK}\n{code}', tmp_path)
    assert done.stdout.strip() == 'True'
    sentence = "create_model needs mmpretrain, which is not installed: pip install 'mmesbnn[cls]'"
    assert sentence in done.stderr


@pytest.mark.parametrize('name', mmesbnn.list_models())
def test_every_name_has_a_config_for_other_classes(name):
    config = _with_classes(_read(name), 7)
    assert config.model.type in ('ImageClassifier', 'mmpretrain.ImageClassifier')
    assert 'teachers' not in config.model
    assert config.model.head.num_classes == config.model.data_preprocessor.num_classes == 7


def test_an_unknown_name_is_answered_with_similar_ones():
    with pytest.raises(ValueError, match=r"name='es_bnxt_tiny' must be one of.*es_bnext_tiny"):
        mmesbnn.create_model('es_bnxt_tiny')


def test_a_classifier_gives_logits_of_its_classes():
    model = create(num_classes=7)
    assert model.training and type(model).__name__ == 'ImageClassifier'
    assert outputs(model)[0].shape == (4, 7)
    assert 'metainfo' not in model._config.test_dataloader.dataset


def test_building_prints_nothing(capfd):
    create()
    assert ''.join(capfd.readouterr()) == ''


def test_the_head_starts_as_in_a_training():
    # mmpretrain's LinearClsHead starts as N(0, 0.01^2), torch's nn.Linear does not
    model = create(num_classes=100)
    assert 0.009 < model.head.fc.weight.std() < 0.011
    assert not model.head.fc.bias.any()


def test_features_are_maps_of_the_chosen_stages():
    model = create(features_only=True, out_indices=(0, 1))
    assert type(model).__name__ == 'BNext' and model.out_channels == [16, 32]
    assert [x.shape[1:] for x in outputs(model)] == [(16, 16, 16), (32, 8, 8)]


def test_a_backbones_config_needs_no_scope():
    assert 'default_scope' not in create(features_only=True)._config


def test_only_classifiers_know_how_images_are_normalized(classifier):
    assert len(classifier._config.data_preprocessor.mean) == 3
    assert 'data_preprocessor' not in create(features_only=True)._config
    text = ' '.join(mmesbnn.create_model.__doc__.split())
    assert 'The config of a backbone lacks them' in text


def test_arguments_of_the_backbone_change_the_recipe():
    wide = dict(channels=[32, 32, 64], depths=[1, 1])
    model = create(arch=wide, tau=4, out_copies='all')
    assert model.backbone.expansion.tau == 4
    assert outputs(model)[0].shape == (4, 10)  # the head reads all four copies
    with pytest.raises(ValueError, match=r'tau=3.*does not divide'):
        create(tau=3)


def test_out_indices_are_for_backbones():
    with pytest.raises(ValueError, match=r'out_indices=\[0\] needs features_only=True'):
        create(out_indices=[0])


def test_classes_are_for_classifiers():
    with pytest.raises(ValueError, match='num_classes=7 needs features_only=False'):
        create(num_classes=7, features_only=True)


def test_a_created_classifier_is_saved_and_loaded_without_a_config(saved, classifier):
    assert equal(mmesbnn.from_pretrained(saved), classifier)


def test_a_folder_gives_its_weights(saved, classifier):
    model = create(pretrained=saved)
    assert model.training and equal(model.eval(), classifier)
    layers = binary_layers(model).values()
    assert all(isinstance(layer.weight_binarizer, FixedWeight) for layer in layers)
    assert all(not layer.weight.requires_grad for layer in layers)


def test_a_packed_file_gives_its_weights(saved, classifier):
    assert equal(create(pretrained=saved / 'model.safetensors').eval(), classifier)


def test_a_packed_file_may_have_long_metadata(classifier, tmp_path):
    file = tmp_path / 'packed.safetensors'
    pack(classifier, file, dataset_meta=dict(classes=[f'number {i} of many' for i in range(1000)]))
    # safetensors writes metadata in any order: write them so that the format comes late
    with open(file, 'rb') as stream:
        size = int.from_bytes(stream.read(8), 'little')
        header, rest = json.loads(stream.read(size)), stream.read()
    kind = header['__metadata__'].pop('format')
    header['__metadata__']['format'] = kind
    late = json.dumps(header).encode()
    assert late.index(kind.encode()) > 2**13
    file.write_bytes(len(late).to_bytes(8, 'little') + late + rest)
    assert equal(create(pretrained=file).eval(), classifier)


def test_a_checkpoint_gives_weights_that_can_be_trained(checkpoint, classifier):
    model = create(pretrained=checkpoint)
    assert equal(copy.deepcopy(model).eval(), classifier)
    layers = binary_layers(model).values()
    assert all(isinstance(layer.weight_binarizer, TemperatureWeight) for layer in layers)
    model(torch.randn(2, 3, 16, 16)).sum().backward()
    assert all(layer.weight.grad is not None for layer in layers)


@pytest.mark.parametrize('source', ['saved', 'checkpoint'])
def test_other_classes_get_a_new_head_only(source, classifier, request):
    model = create(num_classes=7, pretrained=request.getfixturevalue(source)).eval()
    assert outputs(model)[0].shape == (4, 7)
    assert equal(model.backbone, classifier.backbone)


def test_the_same_classes_keep_the_head(saved, classifier):
    assert equal(create(num_classes=10, pretrained=saved).eval(), classifier)


@pytest.mark.parametrize('source', ['saved', 'checkpoint'])
def test_a_backbone_takes_its_part_of_a_classifier(source, classifier, request):
    source = request.getfixturevalue(source)
    model = create(features_only=True, out_indices=(0,), pretrained=source).eval()
    whole = create(features_only=True, out_indices=(0, 1), pretrained=source).eval()
    first, last = outputs(whole)
    assert torch.equal(last, outputs(classifier.backbone)[0])
    assert torch.equal(outputs(model)[0], first)


def test_a_classifier_takes_the_weights_of_a_backbone(tmp_path):
    backbone = trained(create(features_only=True))
    mmesbnn.save_pretrained(backbone, tmp_path / 'backbone')
    model = create(num_classes=7, pretrained=tmp_path / 'backbone').eval()
    assert equal(model.backbone, backbone)


@pytest.mark.parametrize('source', ['saved', 'checkpoint'])
def test_weights_of_another_network_are_refused(source, request):
    with pytest.raises(PretrainedError, match=r'is not .* (network|model): of its'):
        create(tau=1, pretrained=request.getfixturevalue(source))


def test_another_number_of_classes_must_be_asked_for(classifier, tmp_path):
    model = trained(create(num_classes=7))
    mmesbnn.save_pretrained(model, tmp_path / 'seven')
    with pytest.raises(PretrainedError, match=r'head\.fc'):
        create(pretrained=tmp_path / 'seven')


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'pretrained=.*nowhere'):
        create(pretrained=tmp_path / 'nowhere')


@pytest.mark.parametrize('source', ['epoch_1.pth', 'run/best.pt', 'packed.safetensors'])
def test_a_missing_checkpoint_is_no_name_on_a_hub(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('mmesbnn.pretrained.loading.download', pytest.fail)
    with pytest.raises(FileNotFoundError, match=f"pretrained='{source}': no such file or folder"):
        create(pretrained=source)


@pytest.mark.parametrize('classes', [None, 7])
def test_a_recipe_for_cifar_is_saved_with_the_form_of_its_images(classes, tmp_path):
    model = trained(create(num_classes=classes))
    mmesbnn.save_pretrained(model, tmp_path / 'net')
    for config in (model._config, mmesbnn.from_pretrained(tmp_path / 'net')._config):
        assert image_size(config) == (32, 32)
        assert reads_rgb(config, config.data_preprocessor)
    card = (tmp_path / 'net' / 'README.md').read_text()
    assert '(N, 3, 32, 32)' in card and '`images` are RGB' in card


def test_the_config_is_not_changed_by_building(classifier):
    assert isinstance(classifier._config, Config)
    assert classifier._config.model.backbone.type == 'BNext'
