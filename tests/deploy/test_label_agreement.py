"""Comparisons of labels need a network in torch."""

import pytest
from mmengine.config import Config

pytest.importorskip('openvino')

from mmesbnn.deploy import label_agreement
from mmesbnn.deploy.label_agreement import compare_forms, runners_of
from mmesbnn.native import NativeError


@pytest.mark.parametrize('models', [{}, None])
def test_forms_without_a_network_in_torch(models):
    with pytest.raises(ValueError, match=r'models=.* must be a dict with one network in torch'):
        compare_forms(Config(), models, {})


@pytest.mark.parametrize(
    ('usual', 'other', 'error'),
    [
        ('native', 'OpenVINO', ImportError('needs openvino')),
        ('openvino', 'native', NativeError('needs a compiler')),
    ],
)
def test_every_engine_has_its_own_name(monkeypatch, usual, other, error):
    class Fake:
        fails = False

        def __init__(self, export, engine=None):
            if engine is not None and self.fails:
                raise error
            self.engine = engine or usual

    monkeypatch.setattr(label_agreement, 'Runner', Fake)
    runners, left_out = runners_of('export')
    assert not left_out
    assert {name.lower(): runner.engine for name, runner in runners.items()} == {
        'native': 'native',
        'openvino': 'openvino',
    }
    assert next(iter(runners.values())).engine == usual
    Fake.fails = True
    runners, left_out = runners_of('export')
    assert [runner.engine for runner in runners.values()] == [usual]
    assert left_out == {other: str(error)}
