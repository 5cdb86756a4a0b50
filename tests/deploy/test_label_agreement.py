"""Comparisons of labels need a network in torch."""

import pytest
from mmengine.config import Config

pytest.importorskip('openvino')

from mmesbnn.deploy.label_agreement import compare_forms


@pytest.mark.parametrize('models', [{}, None])
def test_forms_without_a_network_in_torch(models):
    with pytest.raises(ValueError, match=r'models=.* must be a dict with one network in torch'):
        compare_forms(Config(), models, {})
