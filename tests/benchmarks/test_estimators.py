"""The comparison of estimators trains every sign and weight binarizer of the package."""

import pytest

pytest.importorskip('skimage')
import estimators
import torch
from estimators import FORMS, SETTING, costs, network, train
from seeded_forms import BASELINE

from mmesbnn.binary import BinaryConv2d
from mmesbnn.binary.entries import SIGNS, WEIGHT_BINARIZERS


def test_every_entry_is_trained():
    kinds = {
        type(part)
        for parts in FORMS.values()
        for layer in network(parts).modules()
        if isinstance(layer, BinaryConv2d)
        for part in (layer.sign, layer.weight_binarizer)
    }
    left_out = {WEIGHT_BINARIZERS.own['fixed']}
    assert kinds == {*SIGNS.own.values(), *WEIGHT_BINARIZERS.own.values()} - left_out


@pytest.mark.parametrize(
    'form', [BASELINE, 'ede and balanced (IR-Net)', 'weights temperature', 'optimizer Bop']
)
def test_a_short_training(form, monkeypatch):
    monkeypatch.setattr(estimators, 'SETTING', SETTING.__class__(batch=8, lr=5e-3))
    monkeypatch.setattr('es.training.JUDGED', 1)
    line = train(form, 0, 4)
    assert line['binary'] and line['fit_loss'] > 0 and line['mops'] > 0
    assert 'yes' in costs([dict(line, form=form)])
    torch.manual_seed(0)


def test_costs_of_several_bits():
    own = {k: network(FORMS[f'sign dorefa, {k} bits']) for k in (1, 4)}
    from mmesbnn.analysis import count_ops

    one, four = (count_ops(own[k], (3, 16, 16)).total for k in (1, 4))
    assert four['bops'] == 4 * one['bops'] > 0
