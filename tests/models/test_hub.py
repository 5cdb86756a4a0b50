"""mmpretrain finds our models by name."""

import pytest
import torch

from mmesbnn.models import register_models
from tests.real_data import photograph

mmpretrain = pytest.importorskip('mmpretrain')


@pytest.fixture(autouse=True)
def names(monkeypatch):
    hub = mmpretrain.apis.ModelHub
    hub._register_mmpretrain_models()
    monkeypatch.setattr(hub, '_models_dict', dict(hub._models_dict))
    return register_models()


def test_every_recipe_is_registered_once(names):
    assert 'es_bnext_tiny' in names
    assert 'es-binary-vit-small_8xb64_in1k' in names
    assert set(names) <= set(mmpretrain.list_models())
    assert register_models() == []


def test_detectors_are_left_to_mmdet(names):
    assert not [name for name in names if 'voc' in name]


def test_every_name_has_a_config_and_a_task(names):
    for name in names:
        found = mmpretrain.apis.ModelHub.get(name)
        assert found.config.model.type in ('DistillClassifier', 'ImageClassifier')
        assert [result.task for result in found.results] == ['Image Classification']


def test_inference_by_model_gives_the_models_scores(monkeypatch):
    # teachers are for training: nothing may be built or downloaded for them
    monkeypatch.setattr(
        'mmesbnn.models.classifiers.distill.build_teacher', lambda *args: pytest.fail()
    )
    torch.manual_seed(0)
    model = mmpretrain.get_model('es-bnext-18_8xb64_in1k')
    result = mmpretrain.inference_model(model, photograph(0))
    assert result['pred_scores'].shape == (1000,)
    assert abs(result['pred_scores'].sum() - 1) < 1e-4
    assert result['pred_label'] == result['pred_scores'].argmax()
